package router

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/metrics"
)

// Metrics counts what the router did.
type Metrics struct {
	invokes metric.Int64Counter
	// The attribute sets are made once: none is built on an invoke's way.
	ok, lost, left, other metric.MeasurementOption
	throttled             map[controlplane.ThrottleReason]metric.MeasurementOption
}

// NewMetrics registers the router's instruments with meter.
func NewMetrics(meter metric.Meter) (*Metrics, error) {
	invokes, err := meter.Int64Counter("hearth_router_invokes",
		metric.WithDescription("Invokes by outcome: ok, throttled with its reason, lost, left (the caller went away), other."))
	if err != nil {
		return nil, err
	}
	outcome := func(o, reason string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", o), attribute.String("reason", reason)))
	}
	m := &Metrics{
		invokes: invokes, ok: outcome("ok", ""), lost: outcome("lost", ""), left: outcome("left", ""), other: outcome("other", ""),
		throttled: map[controlplane.ThrottleReason]metric.MeasurementOption{},
	}
	for _, r := range []controlplane.ThrottleReason{
		controlplane.ThrottleConcurrency, controlplane.ThrottleCPU, controlplane.ThrottleMemory,
		controlplane.ThrottleDisk, controlplane.ThrottleReserved,
	} {
		m.throttled[r] = outcome("throttled", string(r))
	}
	return m, nil
}

func (m *Metrics) observe(ctx context.Context, err error) {
	m.invokes.Add(ctx, 1, m.outcome(ctx, err))
}

func (m *Metrics) outcome(ctx context.Context, err error) metric.MeasurementOption {
	var throttled *controlplane.ThrottledError
	var lost *controlplane.LostError
	switch {
	case err == nil:
		return m.ok
	case errors.As(err, &throttled):
		if o := m.throttled[throttled.Reason]; o != nil {
			return o
		}
		return m.other
	case ctx.Err() != nil:
		return m.left
	case errors.As(err, &lost):
		return m.lost
	}
	return m.other
}

// Scrape gives the figures of every version in the table; those of versions that
// are gone are forgotten.
func (r *Router) Scrape(s metrics.Scrape) {
	desc := func(name, help string, more ...string) metrics.Desc {
		return metrics.NewDesc(name, help, append([]string{"provider", "function", "version"}, more...)...)
	}
	invocations := desc("hearth_function_invocations_total", "Invokes that were handed to an environment.")
	failed := desc("hearth_function_errors_total", "Invokes that the function answered with an error.")
	throttles := desc("hearth_function_throttles_total", "Invokes that were refused, each by one reason.", "reason")
	durations := desc("hearth_function_duration_seconds", "How long environments had invokes.")
	waiting := desc("hearth_function_waiting", "Invokes that wait for room.")
	for name, f := range r.table.Load().Functions {
		for q, v := range f.Versions {
			x, labels := &v.lane.figures, []string{string(v.Provider), string(name), string(q)}
			s.Counter(invocations, float64(x.invocations.Load()), labels...)
			s.Counter(failed, float64(x.errors.Load()), labels...)
			for reason, n := range map[controlplane.ThrottleReason]*atomic.Int64{
				controlplane.ThrottleConcurrency: &x.concurrency, controlplane.ThrottleCPU: &x.cpu,
				controlplane.ThrottleMemory: &x.memory, controlplane.ThrottleDisk: &x.disk,
			} {
				s.Counter(throttles, float64(n.Load()), append(labels, string(reason))...)
			}
			count, sum, atMost := x.durations()
			s.Histogram(durations, count, sum, atMost, labels...)
			s.Gauge(waiting, float64(v.lane.waiting.Load()), labels...)
		}
	}
}
