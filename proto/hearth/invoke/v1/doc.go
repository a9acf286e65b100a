// Package invokev1 is the generated gRPC contract hearth.invoke.v1; its meaning is
// documented in the .proto file beside it.
package invokev1
