// Package operatorv1 is the generated gRPC contract hearth.operator.v1; its meaning is
// documented in the .proto file beside it.
package operatorv1
