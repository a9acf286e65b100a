package sampler_test

import (
	"log/slog"
	"testing"
	"time"

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
			busy.set(sampler.Usage{CPU: used, Memory: 1, MemoryLimit: 10}, nil)
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
