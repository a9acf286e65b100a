//go:build node

package daemon

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
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

// mounts are the hierarchies of this host.
func mounts(tb testing.TB) map[string]bool {
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
	return mounts
}

// groups makes so many cgroups in every hierarchy of this host.
func groups(tb testing.TB) []string {
	tb.Helper()
	var paths []string
	for i := range environments {
		path := fmt.Sprintf("/hearth-sample-%d-%d", os.Getpid(), i)
		for mount := range mounts(tb) {
			if err := os.Mkdir(filepath.Join(mount, path), 0o755); err != nil {
				tb.Fatal(err)
			}
			tb.Cleanup(func() {
				if err := os.Remove(filepath.Join(mount, path)); err != nil {
					tb.Error(err)
				}
			})
		}
		limit(tb, path)
		paths = append(paths, path)
	}
	return paths
}

// limit gives a cgroup a limit of memory, as environments have one.
func limit(tb testing.TB, path string) {
	tb.Helper()
	for mount := range mounts(tb) {
		for _, name := range []string{"memory.limit_in_bytes", "memory.max"} {
			file, err := os.OpenFile(filepath.Join(mount, path, name), os.O_WRONLY, 0)
			if err != nil {
				continue // of the other version
			}
			if _, err := file.WriteString("134217728"); err != nil {
				tb.Error(err)
			}
			if err := file.Close(); err != nil {
				tb.Error(err)
			}
		}
	}
}

// BenchmarkSample is one round of 50 environments and the machine every 100 ms, with
// the CPU time it takes: 500 µs are 0.5 % of a core. Busy ones use a little CPU time
// between any two rounds, idle ones none.
func BenchmarkSample(b *testing.B) {
	for _, busy := range []bool{false, true} {
		b.Run(map[bool]string{false: "idle", true: "busy"}[busy], func(b *testing.B) { benchmarkSample(b, busy) })
	}
}

func benchmarkSample(b *testing.B, busy bool) {
	runtime.LockOSThread() // CPU time is counted by thread
	defer runtime.UnlockOSThread()
	tmp := b.TempDir()
	var targets []sampler.Target
	for i, path := range groups(b) {
		if busy {
			wakeIn(b, path)
		}
		targets = append(targets, sampler.Target{
			Environment: agent.EnvironmentID(path), Sandbox: path, CgroupPath: path, TmpPath: tmp,
			Observer: governed{admit.NewGovernor(admit.Config{Concurrency: 8 + i, CPU: 1000})},
		})
	}
	s := sampler.New(sampler.Config{
		Targets: func(into []sampler.Target) []sampler.Target { return append(into, targets...) },
		Open:    openCgroup, Host: &sampler.Machine{}, HostCPU: 2000, DataDir: tmp, Log: slog.New(slog.DiscardHandler),
	})
	s.Sample(time.Now())
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var used time.Duration
	b.ReportAllocs()
	for b.Loop() {
		now := <-tick.C
		before := cpuTime(b)
		s.Sample(now)
		used += cpuTime(b) - before
	}
	b.ReportMetric(float64(used.Nanoseconds())/1000/float64(b.N), "cpu-µs/round")
}

// wakeIn runs something in a cgroup that wakes up every few milliseconds.
func wakeIn(tb testing.TB, path string) {
	tb.Helper()
	cmd := exec.Command("bash", "-c", "exec 3<> <(:); while :; do read -t 0.03 -u 3; done")
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { // before that of the cgroup
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for mount := range mounts(tb) {
		procs := filepath.Join(mount, path, "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			tb.Fatal(err)
		}
	}
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &use); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
