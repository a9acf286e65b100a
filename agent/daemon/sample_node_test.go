//go:build node

package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
	"github.com/hearth-compute/hearth/agent/sampler"
	"github.com/hearth-compute/hearth/metrics/cgroup"
)

// environments is what the cost of sampling is told for.
const environments = 50

// governed takes samples as an environment does.
type governed struct{ governor *admit.Governor }

// Observe implements sampler.Observer.
func (g governed) Observe(u admit.Usage) { g.governor.Observe(u, admit.Work{InFlight: 1, Peak: 1}) }

// groups makes so many cgroups in every hierarchy of this host.
func groups(tb testing.TB) []string {
	tb.Helper()
	layout, err := cgroup.Detect()
	if err != nil {
		tb.Fatal(err)
	}
	mounts := map[string]bool{}
	for _, mount := range layout.Controllers {
		mounts[mount] = true
	}
	if layout.Unified != "" {
		mounts[layout.Unified] = true
	}
	var paths []string
	for i := range environments {
		path := fmt.Sprintf("/hearth-sample-%d-%d", os.Getpid(), i)
		for mount := range mounts {
			if err := os.Mkdir(filepath.Join(mount, path), 0o755); err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() {
				if err := os.Remove(filepath.Join(mount, path)); err != nil {
					tb.Error(err)
				}
			})
		}
		paths = append(paths, path)
	}
	return paths
}

// BenchmarkSample is one round of 50 environments and the machine, with the CPU
// time of the process beside the time that passed: 500 µs of it ten times a second
// are 0.5 % of a core.
func BenchmarkSample(b *testing.B) {
	tmp := b.TempDir()
	var targets []sampler.Target
	for i, path := range groups(b) {
		targets = append(targets, sampler.Target{
			Environment: agent.EnvironmentID(path), Sandbox: path, CgroupPath: path, TmpPath: tmp,
			Observer: governed{admit.NewGovernor(admit.Config{Concurrency: 8 + i, CPU: 1000})},
		})
	}
	s := sampler.New(sampler.Config{
		Targets: func(into []sampler.Target) []sampler.Target { return append(into, targets...) },
		Open:    openCgroup, Host: &sampler.Machine{}, HostCPU: 2000, DataDir: tmp, Log: slog.New(slog.DiscardHandler),
	})
	now := time.Now()
	sample := func() {
		now = now.Add(100 * time.Millisecond)
		s.Sample(now)
	}
	sample()
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		sample()
	}
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/round")
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &use); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
