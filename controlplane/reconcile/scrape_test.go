package reconcile

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/metrics"
)

// scrape returns the lines of what fill gives.
func scrape(t *testing.T, fill func(metrics.Scrape)) map[string]bool {
	t.Helper()
	reg, err := metrics.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.OnScrape(fill); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	reg.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatal(w.Body)
	}
	lines := map[string]bool{}
	for line := range strings.Lines(w.Body.String()) {
		lines[strings.TrimSpace(line)] = true
	}
	return lines
}

func TestFiguresOfEnvironmentsAreTheMaximumAndTheAverage(t *testing.T) {
	t.Parallel()
	const half, whole = 1 << 29, 1 << 30
	env := func(q controlplane.Qualifier, state controlplane.EnvironmentState, heat controlplane.EnvironmentHeat) controlplane.Environment {
		return controlplane.Environment{
			Function: "f", Qualifier: q, State: state, MaxConcurrency: 16, Heat: heat,
			Size: controlplane.Resources{CPU: 1000, Memory: whole},
		}
	}
	version := func(q controlplane.Qualifier) controlplane.Version {
		return controlplane.Version{Function: "f", Provider: "other", Qualifier: q, Config: controlplane.Config{EphemeralMB: 512}}
	}
	l := &Loop{}
	l.last.Store(&[]controlplane.Snapshot{{
		Provider: controlplane.CapacityProvider{Name: "p"},
		Versions: []controlplane.Version{version("1"), version("2")},
		Instances: []controlplane.Instance{
			{Observed: &controlplane.InstanceObservation{
				Connected: true, Allocatable: controlplane.Resources{CPU: 4000, Memory: 4 * whole},
				Heat: controlplane.HostHeat{CPU: 700, Memory: half},
			}},
			{Observed: &controlplane.InstanceObservation{Allocatable: controlplane.Resources{CPU: 4000}}}, // away
			{},
		},
		Environments: []controlplane.Environment{
			env("1", controlplane.EnvironmentReady, controlplane.EnvironmentHeat{InFlight: 8, Overrun: 2, Limit: 10, CPU: 900, Memory: half, Tmp: 1 << 27}),
			env("1", controlplane.EnvironmentReady, controlplane.EnvironmentHeat{InFlight: 4, CPU: 300}),
			env("1", controlplane.EnvironmentStarting, controlplane.EnvironmentHeat{CPU: 1000}),
		},
	}})
	lines := scrape(t, l.Scrape)
	one := func(name, more, value string) string {
		return name + `{function="f",provider="p",` + more + `,version="1"} ` + value
	}
	for _, want := range []string{
		one("hearth_environments", `state="Ready"`, "2"), one("hearth_environments", `state="Starting"`, "1"),
		one("hearth_environments", `state="Failed"`, "0"),
		one("hearth_environment_concurrency", `stat="max"`, "8"), one("hearth_environment_concurrency", `stat="average"`, "6"),
		one("hearth_environment_concurrency_limit", `stat="max"`, "16"), one("hearth_environment_concurrency_limit", `stat="average"`, "13"),
		one("hearth_environment_overrun", `stat="max"`, "2"),
		one("hearth_environment_cpu_ratio", `stat="max"`, "0.9"), one("hearth_environment_cpu_ratio", `stat="average"`, "0.6"),
		one("hearth_environment_memory_ratio", `stat="max"`, "0.5"), one("hearth_environment_memory_ratio", `stat="average"`, "0.25"),
		one("hearth_environment_disk_ratio", `stat="max"`, "0.25"),
		`hearth_environments{function="f",provider="p",state="Ready",version="2"} 0`,
		`hearth_environment_cpu_ratio{function="f",provider="p",stat="average",version="2"} 0`,
		`hearth_provider_instances{provider="p"} 1`,
		`hearth_provider_allocatable_milli_cpu{provider="p"} 4000`, `hearth_provider_allocated_milli_cpu{provider="p"} 3000`,
		`hearth_provider_used_milli_cpu{provider="p"} 700`,
		`hearth_provider_allocatable_memory_bytes{provider="p"} 4.294967296e+09`,
		`hearth_provider_allocated_memory_bytes{provider="p"} 3.221225472e+09`,
		`hearth_provider_used_memory_bytes{provider="p"} 5.36870912e+08`,
	} {
		if !lines[want] {
			t.Errorf("%s is missing", want)
		}
	}
	l.last.Store(&[]controlplane.Snapshot{{Provider: controlplane.CapacityProvider{Name: "p"}}})
	for line := range scrape(t, l.Scrape) {
		if strings.Contains(line, `function="f"`) {
			t.Errorf("of a version that is gone: %s", line)
		}
	}
}
