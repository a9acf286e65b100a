package credentials

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Metrics counts what the keeper did.
type Metrics struct {
	assumes    metric.Int64Counter
	ok, failed metric.MeasurementOption
}

// NewMetrics registers the keeper's instruments with meter.
func NewMetrics(meter metric.Meter) (*Metrics, error) {
	assumes, err := meter.Int64Counter("hearth_credentials_assumes",
		metric.WithDescription("Attempts to assume execution roles, by outcome: ok, failed."))
	if err != nil {
		return nil, err
	}
	outcome := func(o string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", o)))
	}
	return &Metrics{assumes: assumes, ok: outcome("ok"), failed: outcome("failed")}, nil
}

func (m *Metrics) assumed(ctx context.Context, err error) {
	outcome := m.ok
	if err != nil {
		outcome = m.failed
	}
	m.assumes.Add(ctx, 1, outcome)
}
