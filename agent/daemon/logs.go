package daemon

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/logs"
	"github.com/hearth-compute/hearth/agent/logs/otlp"
	"github.com/hearth-compute/hearth/agent/logs/rpc"
)

// What is kept of what functions print, unless the agent is told otherwise.
const (
	DefaultEnvironmentLogs agent.Bytes = 16 << 20
	DefaultLogs            agent.Bytes = 1 << 30
)

// printed is the parts that deal with what functions print.
type printed struct {
	store  *logs.Store
	server *rpc.Server
	// shipper is nil without a collector.
	shipper *otlp.Shipper
}

// validateLogs checks how much is kept.
func (c Config) validateLogs() []error {
	var errs []error
	for _, f := range []struct {
		flag         string
		given, least agent.Bytes
	}{
		{"--environment-log-bytes", c.EnvironmentLogs, logs.LeastPerEnvironment},
		{"--log-bytes", c.Logs, logs.LeastTotal},
	} {
		if f.given != 0 && f.given < f.least {
			errs = append(errs, fmt.Errorf("%s %d: must be at least %d", f.flag, f.given, f.least))
		}
	}
	return errs
}

// assembleLogs makes those parts.
func (a *Agent) assembleLogs(ctx context.Context) (err error) {
	cfg := logs.Config{
		Dir:            filepath.Join(a.cfg.DataDir, dirLogs),
		PerEnvironment: cmp.Or(a.cfg.EnvironmentLogs, DefaultEnvironmentLogs),
		Total:          cmp.Or(a.cfg.Logs, DefaultLogs),
		Log:            a.cfg.Log,
	}
	if a.cfg.OTLPEndpoint != "" {
		a.printed.shipper, err = otlp.New(ctx, otlp.Config{Endpoint: a.cfg.OTLPEndpoint, Region: a.cfg.Region, Log: a.cfg.Log})
		if err != nil {
			return err
		}
		cfg.Ship = a.printed.shipper.Ship
	}
	if a.printed.store, err = logs.New(cfg); err != nil {
		return err
	}
	a.output.Keep(a.printed.store)
	a.printed.server = rpc.New(a.printed.store)
	return a.printed.observe(a.metrics.meter)
}

// loops are what must run.
func (p *printed) loops() []func(context.Context) error {
	loops := []func(context.Context) error{p.store.Run}
	if p.shipper != nil {
		loops = append(loops, p.shipper.Run)
	}
	return loops
}

// observe makes p the source of the metrics about lines.
func (p *printed) observe(meter metric.Meter) error {
	var counters [3]metric.Int64ObservableCounter
	var err error
	for i, c := range []struct{ name, help string }{
		{"hearth_agent_log_lines", "Lines of functions, extensions and the platform that were kept."},
		{"hearth_agent_log_lines_lost", "Lines that were not kept, or not shipped, by reason."},
		{"hearth_agent_log_lines_shipped", "Lines that the OpenTelemetry collector took."},
	} {
		if counters[i], err = meter.Int64ObservableCounter(c.name, metric.WithDescription(c.help)); err != nil {
			return fmt.Errorf("setting up metric %s: %w", c.name, err)
		}
	}
	size, err := meter.Int64ObservableGauge("hearth_agent_log_bytes", metric.WithDescription("What the lines that are kept take of the disk."))
	if err != nil {
		return fmt.Errorf("setting up metric hearth_agent_log_bytes: %w", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		lost := func(n int64, reason string) {
			o.ObserveInt64(counters[1], n, metric.WithAttributes(attribute.String("reason", reason)))
		}
		c := p.store.Counts()
		o.ObserveInt64(counters[0], c.Kept)
		o.ObserveInt64(size, c.Bytes)
		lost(c.LostMemory, "memory")
		lost(c.LostDisk, "disk")
		if p.shipper != nil {
			lost(p.shipper.Dropped(), "collector")
			o.ObserveInt64(counters[2], p.shipper.Shipped())
		}
		return nil
	}, counters[0], counters[1], counters[2], size)
	if err != nil {
		return fmt.Errorf("observing metrics of logs: %w", err)
	}
	return nil
}
