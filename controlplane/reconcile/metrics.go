package reconcile

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hearth-compute/hearth/controlplane"
)

// Metrics counts what the loop did.
type Metrics struct {
	steps    metric.Float64Histogram
	failures metric.Int64Counter
	actions  metric.Int64Counter
}

// NewMetrics registers the loop's instruments with meter.
func NewMetrics(meter metric.Meter) (*Metrics, error) {
	steps, err := meter.Float64Histogram("hearth_reconcile_step", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5),
		metric.WithDescription("Duration of one step of the reconcile loop."))
	if err != nil {
		return nil, err
	}
	failures, err := meter.Int64Counter("hearth_reconcile_failures",
		metric.WithDescription("Steps of the reconcile loop that failed and were tried again."))
	if err != nil {
		return nil, err
	}
	actions, err := meter.Int64Counter("hearth_reconcile_actions",
		metric.WithDescription("Actions taken, by reason."))
	if err != nil {
		return nil, err
	}
	return &Metrics{steps: steps, failures: failures, actions: actions}, nil
}

func (m *Metrics) step(ctx context.Context, took time.Duration, err error) {
	m.steps.Record(ctx, took.Seconds())
	if err != nil {
		m.failures.Add(ctx, 1)
	}
}

func (m *Metrics) action(ctx context.Context, a controlplane.Action) {
	m.actions.Add(ctx, 1, metric.WithAttributes(attribute.String("reason", string(a.Why()))))
}
