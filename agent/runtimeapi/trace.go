package runtimeapi

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/metrics"
)

// trace begins the span in which the function has an invocation. With active
// tracing the function gets an X-Ray header of its own (lmi-behaviour §8.5), else
// what the caller sent.
func (a *API) trace(ctx context.Context, inv *agent.Invocation) metrics.Span {
	_, span := a.cfg.Traces.Start(ctx, "function", trace.SpanKindConsumer)
	span.Set("faas.invocation_id", inv.RequestID)
	if a.cfg.ActiveTracing {
		inv.TraceID = a.segment(inv.TraceID, span)
	}
	return span
}

// segment is the header of a new segment: what is traced already keeps its trace,
// what nobody has decided about is sampled if the span is or, without spans, at
// X-Ray's rate.
func (a *API) segment(header string, span metrics.Span) string {
	h, own := metrics.ParseTraceHeader(header), span.Header()
	if h.Root == "" {
		h.Root = own.Root
	}
	h = h.Segment()
	if own.Parent != "" {
		h.Parent = own.Parent
	}
	if h.Sampled != "0" && h.Sampled != "1" {
		switch {
		case own.Sampled != "":
			h.Sampled = own.Sampled
		case a.sampling.take(time.Now()):
			h.Sampled = "1"
		default:
			h.Sampled = "0"
		}
	}
	return h.String()
}

// rate is X-Ray's default sampling: the first of each second and one in twenty
// of the others.
type rate struct{ second, others atomic.Int64 }

func (r *rate) take(now time.Time) bool {
	last, second := r.second.Load(), now.Unix()
	if last != second && r.second.CompareAndSwap(last, second) {
		return true
	}
	return r.others.Add(1)%20 == 0
}

// traced ends the span of an invocation that was handed over.
func traced(span metrics.Span, out *agent.Outcome) {
	if out.FunctionError != "" {
		span.Fail(out.ErrorType)
	}
	span.End(nil)
}
