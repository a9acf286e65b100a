package invoke

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

func refused(reason agent.Reason) error {
	return &runtimeapi.RefusedError{Verdict: agent.Verdict{Reason: reason}}
}

// toStatus is the table from our errors to gRPC's.
func toStatus(err error) error {
	if r, ok := errors.AsType[*runtimeapi.RefusedError](err); ok {
		return refusal(r.Verdict, r.Load)
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	if err = errgrpc.ToGRPC(err); status.Code(err) == codes.Unknown {
		return status.Error(codes.Internal, err.Error())
	}
	return err
}

// refusal carries a verdict over the wire.
func refusal(v agent.Verdict, l agent.Load) error {
	detail := &invokev1.Refusal{Reason: reasonToProto(v.Reason), Load: loadToProto(l)}
	if v.RetryAfter > 0 {
		detail.RetryAfter = durationpb.New(v.RetryAfter)
	}
	s, err := status.New(codes.ResourceExhausted, string(v.Reason)).WithDetails(detail)
	if err != nil {
		panic(err) // our own message
	}
	return s.Err()
}

// loadToProto is nil where there is no environment.
func loadToProto(l agent.Load) *invokev1.Load {
	if l == (agent.Load{}) {
		return nil
	}
	return &invokev1.Load{
		InFlight:    int32(l.InFlight),    //nolint:gosec // at most 1600
		Limit:       int32(l.Limit),       //nolint:gosec // at most 1600
		CpuPermille: int32(l.CPUPermille), //nolint:gosec // a machine's cores
	}
}

func reasonToProto(r agent.Reason) invokev1.RefusalReason {
	switch r {
	case agent.ReasonConcurrency:
		return invokev1.RefusalReason_REFUSAL_REASON_CONCURRENCY
	case agent.ReasonCPU:
		return invokev1.RefusalReason_REFUSAL_REASON_CPU
	case agent.ReasonMemory:
		return invokev1.RefusalReason_REFUSAL_REASON_MEMORY
	case agent.ReasonDisk:
		return invokev1.RefusalReason_REFUSAL_REASON_DISK
	case agent.ReasonDraining:
		return invokev1.RefusalReason_REFUSAL_REASON_DRAINING
	case agent.ReasonNotReady:
		return invokev1.RefusalReason_REFUSAL_REASON_NOT_READY
	}
	return invokev1.RefusalReason_REFUSAL_REASON_UNSPECIFIED
}

// Recover returns interceptors that turn a panic in a call into INTERNAL.
func Recover(log *slog.Logger) []grpc.ServerOption {
	caught := func(method string, err *error) {
		if p := recover(); p != nil {
			log.Error("call panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
			*err = status.Error(codes.Internal, "internal error")
		}
	}
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
			defer caught(info.FullMethod, &err)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer caught(info.FullMethod, &err)
			return next(srv, stream)
		}),
	}
}
