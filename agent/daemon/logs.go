package daemon

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"

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
	var shipped logs.Shipped
	if a.printed.shipper != nil {
		shipped = a.printed.shipper
	}
	return logs.Observe(a.metrics.registry.Meter("agent/logs"), a.printed.store, shipped)
}

// loops are what must run.
func (p *printed) loops() []func(context.Context) error {
	loops := []func(context.Context) error{p.store.Run}
	if p.shipper != nil {
		loops = append(loops, p.shipper.Run)
	}
	return loops
}
