package router

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hearth-compute/hearth/controlplane"
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
