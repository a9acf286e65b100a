package lambdaapi

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/trace"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/metrics"
)

// invoked has req invoked as a hop of its caller's trace. A request that is
// traced and has no X-Amzn-Trace-Id gets one.
func (s *Server) invoked(r *http.Request, req *controlplane.InvokeRequest, operation string) (controlplane.InvokeResult, error) {
	ctx, span := s.trace(r, req, operation)
	result, err := s.cfg.Invoker.Invoke(ctx, *req)
	if result.FunctionError != "" {
		span.Fail(result.FunctionError)
	}
	span.End(err)
	return result, err
}

func (s *Server) trace(r *http.Request, req *controlplane.InvokeRequest, operation string) (context.Context, metrics.Span) {
	ctx := r.Context()
	if s.cfg.Traces == nil || req.DryRun {
		return ctx, metrics.Span{}
	}
	ctx = s.cfg.Traces.From(ctx, r.Header.Get("Traceparent"), req.TraceID)
	ctx, span := s.cfg.Traces.Start(ctx, operation, trace.SpanKindServer)
	if req.TraceID == "" {
		req.TraceID = span.Header().String()
	}
	span.Set("faas.invocation_id", req.RequestID)
	span.Set("aws.lambda.invoked_arn", req.InvokedARN)
	return ctx, span
}
