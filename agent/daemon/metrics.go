package daemon

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/sampler"
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
	heat         heat
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
	if err := i.heat.register(i.meter); err != nil {
		return nil, err
	}
	return i, nil
}

// observe makes a the source of the metrics.
func (i *instruments) observe(a *Agent) error {
	_, err := i.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		report := a.Report()
		i.heat.observe(o, report, a.sampler.HostStalled())
		i.heat.observeRefusals(o, a.pool.Refusals())
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
	}, append(i.heat.all(), i.environments, i.inFlight, i.cpu, i.memory, i.containerd)...)
	if err != nil {
		return fmt.Errorf("observing metrics: %w", err)
	}
	return nil
}

// heat is how hot environments are: the hottest and the average, never a single
// one by name.
type heat struct {
	concurrency, limit, cpu, memory, tmp, throttled metric.Int64ObservableGauge
	overrun, diskUsed, diskTotal                    metric.Int64ObservableGauge
	stalled                                         metric.Float64ObservableCounter
	refused                                         metric.Int64ObservableCounter
}

// register makes the instruments.
func (h *heat) register(meter metric.Meter) (err error) {
	for _, g := range []struct {
		gauge      *metric.Int64ObservableGauge
		name, help string
	}{
		{&h.concurrency, "hearth_agent_environment_concurrency", "Invokes running in one environment."},
		{&h.limit, "hearth_agent_environment_concurrency_limit", "Invokes one environment admits at once now."},
		{&h.cpu, "hearth_agent_environment_milli_cpu", "CPU in use by one environment, thousandths of a vCPU."},
		{&h.memory, "hearth_agent_environment_memory_bytes", "Memory in use by one environment."},
		{&h.tmp, "hearth_agent_environment_tmp_bytes", "What is used of one environment's /tmp."},
		{&h.throttled, "hearth_agent_environment_throttled_permille", "Part of the last second in which one environment's quota was used up."},
		{&h.overrun, "hearth_agent_overrun_slots", "Slots held by code that ran past its deadline."},
		{&h.diskUsed, "hearth_agent_used_disk_bytes", "What is used of the file system of the data directory."},
		{&h.diskTotal, "hearth_agent_disk_bytes", "Size of the file system of the data directory."},
	} {
		if *g.gauge, err = meter.Int64ObservableGauge(g.name, metric.WithDescription(g.help)); err != nil {
			return fmt.Errorf("setting up metric %s: %w", g.name, err)
		}
	}
	const stalled = "hearth_agent_stalled_seconds"
	h.stalled, err = meter.Float64ObservableCounter(stalled, metric.WithDescription("Time in which something on the instance waited for a resource."))
	if err != nil {
		return fmt.Errorf("setting up metric %s: %w", stalled, err)
	}
	const refused = "hearth_agent_refusals"
	h.refused, err = meter.Int64ObservableCounter(refused, metric.WithDescription("Invokes that environments refused."))
	if err != nil {
		return fmt.Errorf("setting up metric %s: %w", refused, err)
	}
	return nil
}

// all is every instrument, for the callback.
func (h *heat) all() []metric.Observable {
	return []metric.Observable{
		h.concurrency, h.limit, h.cpu, h.memory, h.tmp, h.throttled, h.overrun, h.diskUsed, h.diskTotal, h.stalled, h.refused,
	}
}

// observe tells what a report says.
func (h *heat) observe(o metric.Observer, report agent.Report, stalls sampler.Stalls) {
	var ready []agent.EnvironmentHeat
	overrun := 0
	for _, e := range report.Environments {
		overrun += e.Heat.Overrun
		if e.State == agent.StateReady {
			ready = append(ready, e.Heat)
		}
	}
	o.ObserveInt64(h.overrun, int64(overrun))
	o.ObserveInt64(h.diskUsed, int64(report.Host.DiskUsed))
	o.ObserveInt64(h.diskTotal, int64(report.Host.DiskTotal))
	for name, d := range map[string]float64{"cpu": stalls.CPU.Seconds(), "memory": stalls.Memory.Seconds(), "io": stalls.IO.Seconds()} {
		o.ObserveFloat64(h.stalled, d, metric.WithAttributes(attribute.String("resource", name)))
	}
	if len(ready) == 0 {
		return
	}
	for _, g := range []struct {
		gauge metric.Int64ObservableGauge
		of    func(agent.EnvironmentHeat) int64
	}{
		{h.concurrency, func(e agent.EnvironmentHeat) int64 { return int64(e.InFlight) }},
		{h.limit, func(e agent.EnvironmentHeat) int64 { return int64(e.Limit) }},
		{h.cpu, func(e agent.EnvironmentHeat) int64 { return int64(e.CPU) }},
		{h.memory, func(e agent.EnvironmentHeat) int64 { return int64(e.Memory) }},
		{h.tmp, func(e agent.EnvironmentHeat) int64 { return int64(e.Tmp) }},
		{h.throttled, func(e agent.EnvironmentHeat) int64 { return int64(e.ThrottledPermille) }},
	} {
		var most, sum int64
		for _, e := range ready {
			most = max(most, g.of(e))
			sum += g.of(e)
		}
		o.ObserveInt64(g.gauge, most, metric.WithAttributes(attribute.String("of", "maximum")))
		o.ObserveInt64(g.gauge, sum/int64(len(ready)), metric.WithAttributes(attribute.String("of", "average")))
	}
}

// observeRefusals tells them by reason.
func (h *heat) observeRefusals(o metric.Observer, all agent.Refusals) {
	for reason, n := range map[agent.Reason]int64{
		agent.ReasonConcurrency: all.Concurrency, agent.ReasonCPU: all.CPU,
		agent.ReasonMemory: all.Memory, agent.ReasonDisk: all.Disk,
	} {
		o.ObserveInt64(h.refused, n, metric.WithAttributes(attribute.String("reason", string(reason))))
	}
}
