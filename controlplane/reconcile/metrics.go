package reconcile

import (
	"cmp"
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/metrics"
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

// Scrape gives the figures of every version's environments and of every
// provider, as the last step saw them.
func (l *Loop) Scrape(s metrics.Scrape) {
	d := describe()
	for i := range *l.last.Load() {
		snap := &(*l.last.Load())[i]
		d.provider(s, snap)
		running := map[publication][]*controlplane.Environment{}
		for j := range snap.Environments {
			e := &snap.Environments[j]
			k := publication{function: e.Function, qualifier: e.Qualifier}
			running[k] = append(running[k], e)
		}
		for j := range snap.Versions {
			v := &snap.Versions[j]
			d.version(s, snap.Provider.Name, v, running[publication{function: v.Function, qualifier: v.Qualifier}])
		}
	}
}

// described are the metrics of Scrape.
type described struct {
	environments, concurrency, limit, overrun, cpu, memory, disk metrics.Desc
	instances, allocatableCPU, allocatedCPU, usedCPU             metrics.Desc
	allocatableMemory, allocatedMemory, usedMemory               metrics.Desc
}

func describe() described {
	version := func(name, help string, more ...string) metrics.Desc {
		return metrics.NewDesc(name, help, append([]string{"provider", "function", "version"}, more...)...)
	}
	provider := func(name, help string) metrics.Desc { return metrics.NewDesc(name, help, "provider") }
	return described{
		environments: version("hearth_environments", "Execution environments of a version, by state.", "state"),
		concurrency:  version("hearth_environment_concurrency", "Invokes that run in an environment.", "stat"),
		limit:        version("hearth_environment_concurrency_limit", "How many invokes an environment admits at once now.", "stat"),
		overrun:      version("hearth_environment_overrun", "Slots of an environment that code past its deadline holds.", "stat"),
		cpu:          version("hearth_environment_cpu_ratio", "CPU an environment uses of what it is allotted.", "stat"),
		memory:       version("hearth_environment_memory_ratio", "Memory an environment uses of what it is allotted.", "stat"),
		disk:         version("hearth_environment_disk_ratio", "Space an environment uses of its /tmp.", "stat"),

		instances:         provider("hearth_provider_instances", "Instances of a capacity provider that are connected."),
		allocatableCPU:    provider("hearth_provider_allocatable_milli_cpu", "CPU for environments on its instances."),
		allocatedCPU:      provider("hearth_provider_allocated_milli_cpu", "CPU of its environments."),
		usedCPU:           provider("hearth_provider_used_milli_cpu", "CPU in use on its instances."),
		allocatableMemory: provider("hearth_provider_allocatable_memory_bytes", "Memory for environments on its instances."),
		allocatedMemory:   provider("hearth_provider_allocated_memory_bytes", "Memory of its environments."),
		usedMemory:        provider("hearth_provider_used_memory_bytes", "Memory in use on its instances."),
	}
}

// provider gives the figures of a capacity provider.
func (d *described) provider(s metrics.Scrape, snap *controlplane.Snapshot) {
	var instances int
	var allocatable, used, allocated controlplane.Resources
	for i := range snap.Instances {
		if o := snap.Instances[i].Observed; o != nil && o.Connected {
			instances++
			allocatable = allocatable.Plus(o.Allocatable)
			used = used.Plus(controlplane.Resources{CPU: o.Heat.CPU, Memory: o.Heat.Memory})
		}
	}
	for i := range snap.Environments {
		allocated = allocated.Plus(snap.Environments[i].Size)
	}
	name := string(snap.Provider.Name)
	s.Gauge(d.instances, float64(instances), name)
	s.Gauge(d.allocatableCPU, float64(allocatable.CPU), name)
	s.Gauge(d.allocatableMemory, float64(allocatable.Memory), name)
	s.Gauge(d.allocatedCPU, float64(allocated.CPU), name)
	s.Gauge(d.allocatedMemory, float64(allocated.Memory), name)
	s.Gauge(d.usedCPU, float64(used.CPU), name)
	s.Gauge(d.usedMemory, float64(used.Memory), name)
}

// spread is the maximum and the average of a figure of environments.
type spread struct{ most, sum float64 }

func (x *spread) add(value, of float64) {
	if of > 0 {
		x.most = max(x.most, value/of)
		x.sum += value / of
	}
}

// version gives the figures of one version's environments on a provider.
func (d *described) version(s metrics.Scrape, on controlplane.ProviderName, v *controlplane.Version, environments []*controlplane.Environment) {
	states := map[controlplane.EnvironmentState]int{
		controlplane.EnvironmentUnknown: 0, controlplane.EnvironmentPending: 0, controlplane.EnvironmentStarting: 0,
		controlplane.EnvironmentReady: 0, controlplane.EnvironmentDraining: 0, controlplane.EnvironmentFailed: 0,
	}
	var concurrency, limit, overrun, cpu, memory, disk spread
	running := 0
	for _, e := range environments {
		states[e.State]++
		if e.State != controlplane.EnvironmentReady && e.State != controlplane.EnvironmentDraining {
			continue
		}
		running++
		concurrency.add(float64(e.Heat.InFlight), 1)
		limit.add(float64(cmp.Or(e.Heat.Limit, e.MaxConcurrency)), 1)
		overrun.add(float64(e.Heat.Overrun), 1)
		cpu.add(float64(e.Heat.CPU), float64(e.Size.CPU))
		memory.add(float64(e.Heat.Memory), float64(e.Size.Memory))
		disk.add(float64(e.Heat.Tmp), float64(int64(v.Config.EphemeralMB)<<20))
	}
	labels := []string{string(on), string(v.Function), string(v.Qualifier)}
	for state, n := range states {
		s.Gauge(d.environments, float64(n), append(labels, string(state))...)
	}
	for _, x := range []struct {
		desc metrics.Desc
		spread
	}{{d.concurrency, concurrency}, {d.limit, limit}, {d.overrun, overrun}, {d.cpu, cpu}, {d.memory, memory}, {d.disk, disk}} {
		s.Gauge(x.desc, x.most, append(labels, "max")...)
		s.Gauge(x.desc, x.sum/float64(max(1, running)), append(labels, "average")...)
	}
}
