// Package agentv1 is the generated gRPC contract hearth.agent.v1; its meaning is
// documented in the .proto file beside it.
package agentv1
