package daemon

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/metrics"
)

// instruments are the agent's metrics. All are observed when asked for:
// nothing is added to the way of an invoke.
type instruments struct {
	registry     *metrics.Registry
	meter        metric.Meter
	environments metric.Int64ObservableGauge
	inFlight     metric.Int64ObservableGauge
	cpu          metric.Int64ObservableGauge
	memory       metric.Int64ObservableGauge
	containerd   metric.Int64ObservableGauge
}

func newInstruments() (*instruments, error) {
	registry, err := metrics.New()
	if err != nil {
		return nil, fmt.Errorf("setting up metrics: %w", err)
	}
	i := &instruments{registry: registry, meter: registry.Meter("agent/daemon")}
	for _, g := range []struct {
		gauge      *metric.Int64ObservableGauge
		name, help string
	}{
		{&i.environments, "hearth_agent_environments", "Execution environments by state."},
		{&i.inFlight, "hearth_agent_invokes_in_flight", "Invokes running now."},
		{&i.cpu, "hearth_agent_used_milli_cpu", "CPU in use on the instance, thousandths of a vCPU."},
		{&i.memory, "hearth_agent_used_memory_bytes", "Memory in use on the instance."},
		{&i.containerd, "hearth_agent_containerd_up", "1 if containerd answers, else 0."},
	} {
		if *g.gauge, err = i.meter.Int64ObservableGauge(g.name, metric.WithDescription(g.help)); err != nil {
			return nil, fmt.Errorf("setting up metric %s: %w", g.name, err)
		}
	}
	return i, nil
}

// observe makes a the source of the metrics.
func (i *instruments) observe(a *Agent) error {
	_, err := i.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		report := a.Report()
		states := map[agent.EnvironmentState]int64{}
		for _, e := range report.Environments {
			states[e.State]++
		}
		for _, s := range []agent.EnvironmentState{
			agent.StatePending, agent.StateStarting, agent.StateReady, agent.StateDraining, agent.StateFailed,
		} {
			o.ObserveInt64(i.environments, states[s], metric.WithAttributes(attribute.String("state", string(s))))
		}
		o.ObserveInt64(i.inFlight, int64(report.Host.InFlight))
		o.ObserveInt64(i.cpu, int64(report.Host.CPU))
		o.ObserveInt64(i.memory, int64(report.Host.Memory))
		answers := int64(1)
		if a.driver.Away() != nil {
			answers = 0
		}
		o.ObserveInt64(i.containerd, answers)
		return nil
	}, i.environments, i.inFlight, i.cpu, i.memory, i.containerd)
	if err != nil {
		return fmt.Errorf("observing metrics: %w", err)
	}
	return nil
}
