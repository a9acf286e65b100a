package sampler_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/sampler"
)

// TestSamplingDoesNotAllocate with the real machine and a real file system; reading
// real cgroups is held in their package.
func TestSamplingDoesNotAllocate(t *testing.T) {
	var busy, idle group
	machine := &sampler.Machine{}
	dir := t.TempDir()
	s := sampler.New(sampler.Config{
		Targets: func(into []sampler.Target) []sampler.Target {
			return append(into,
				sampler.Target{Environment: "e1", Sandbox: "e1", CgroupPath: "/busy", TmpPath: dir},
				sampler.Target{Environment: "e2", Sandbox: "e2", CgroupPath: "/idle", TmpPath: dir},
			)
		},
		Open: func(path string) (sampler.Reader, error) {
			if path == "/busy" {
				return &busy, nil
			}
			return &idle, nil
		},
		Host: machine, HostCPU: 2000, DataDir: dir, Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		if err := machine.Close(); err != nil {
			t.Error(err)
		}
	})
	now, used := time.Now(), time.Duration(0)
	const rounds = 10 // everything is read in one of them
	sample := func() {
		for range rounds {
			now, used = now.Add(100*time.Millisecond), used+time.Millisecond
			busy.set(sampler.Usage{CPU: used, Memory: 1, MemoryLimit: 1 << 20}, nil)
			s.Sample(now)
		}
	}
	sample()
	if n := testing.AllocsPerRun(10, sample); n > 0 {
		t.Errorf("%v allocations in %d rounds", n, rounds)
	}
	if heat := s.Environment("e1"); heat.Tmp == 0 || s.Host().DiskTotal == 0 {
		t.Errorf("nothing was measured: %+v, %+v", heat, s.Host())
	}
}

// TestTmpOfWhoDoesNothingIsReadOnceASecond sees by a link that leads elsewhere
// whether it was read.
func TestTmpOfWhoDoesNothingIsReadOnceASecond(t *testing.T) {
	t.Parallel()
	var cgroup, machine group
	var told observer
	link := filepath.Join(t.TempDir(), "tmp")
	s := sampler.New(sampler.Config{
		Targets: func(into []sampler.Target) []sampler.Target {
			return append(into, sampler.Target{Environment: "e", Sandbox: "s", CgroupPath: "/", TmpPath: link, Observer: &told})
		},
		Open: func(string) (sampler.Reader, error) { return &cgroup, nil },
		Host: &machine, Log: slog.New(slog.DiscardHandler),
	})
	now := time.Now()
	sizeAfter := func(rounds int) agent.Bytes {
		for range rounds {
			now = now.Add(100 * time.Millisecond)
			s.Sample(now)
		}
		return told.last.TmpSize
	}
	lead := func(to string) {
		_ = os.Remove(link)
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	const empty = "/proc" // a file system without a size
	lead(t.TempDir())
	cgroup.set(sampler.Usage{CPU: time.Millisecond, Memory: 1, MemoryLimit: 1 << 20}, nil)
	if n := sizeAfter(2); n == 0 {
		t.Error("no size")
	}
	lead(empty)
	if n := sizeAfter(1); n == 0 {
		t.Error("it was read although nothing had been done")
	}
	if n := sizeAfter(10); n != 0 {
		t.Errorf("it was not read in a second: %d", n)
	}
	lead(filepath.Dir(link))
	cgroup.set(sampler.Usage{CPU: 2 * time.Millisecond, Memory: 1, MemoryLimit: 1 << 20}, nil)
	if n := sizeAfter(1); n == 0 {
		t.Error("it was not read although something had been done")
	}
}
