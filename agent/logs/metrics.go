package logs

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Shipped counts lines on their way to a collector.
type Shipped interface {
	// Shipped is how many it took, Dropped how many it did not get.
	Shipped() int64
	Dropped() int64
}

// Observe makes a store the source of the metrics about lines, and shipped, unless
// there is no collector. All are observed when asked for.
func Observe(meter metric.Meter, s *Store, shipped Shipped) error {
	var kept, lost, sent metric.Int64ObservableCounter
	for _, c := range []struct {
		counter    *metric.Int64ObservableCounter
		name, help string
	}{
		{&kept, "hearth_agent_log_lines", "Lines of functions, extensions and the platform that were kept."},
		{&lost, "hearth_agent_log_lines_lost", "Lines that were not kept, or not shipped, by reason."},
		{&sent, "hearth_agent_log_lines_shipped", "Lines that the OpenTelemetry collector took."},
	} {
		var err error
		if *c.counter, err = meter.Int64ObservableCounter(c.name, metric.WithDescription(c.help)); err != nil {
			return fmt.Errorf("setting up metric %s: %w", c.name, err)
		}
	}
	size, err := meter.Int64ObservableGauge("hearth_agent_log_bytes", metric.WithDescription("What the lines that are kept take of the disk."))
	if err != nil {
		return fmt.Errorf("setting up metric hearth_agent_log_bytes: %w", err)
	}
	reason := func(r string) metric.MeasurementOption { return metric.WithAttributes(attribute.String("reason", r)) }
	memory, disk, collector := reason("memory"), reason("disk"), reason("collector")
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		c := s.Counts()
		o.ObserveInt64(kept, c.Kept)
		o.ObserveInt64(size, c.Bytes)
		o.ObserveInt64(lost, c.LostMemory, memory)
		o.ObserveInt64(lost, c.LostDisk, disk)
		if shipped != nil {
			o.ObserveInt64(lost, shipped.Dropped(), collector)
			o.ObserveInt64(sent, shipped.Shipped())
		}
		return nil
	}, kept, lost, sent, size)
	if err != nil {
		return fmt.Errorf("observing metrics of logs: %w", err)
	}
	return nil
}
