package sampler_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
	"github.com/hearth-compute/hearth/agent/sampler"
)

// group is a scripted cgroup.
type group struct {
	mu     sync.Mutex
	usage  sampler.Usage
	err    error
	closed int
}

func (g *group) set(u sampler.Usage, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.usage, g.err = u, err
}

// Read implements sampler.Reader.
func (g *group) Read(sampler.Depth) (sampler.Usage, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.usage, g.err
}

// Close implements sampler.Reader.
func (g *group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed++
	return nil
}

func TestHeatIsTheRateOfTheLastInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a, b, machine group
		opened := 0
		s := sampler.New(sampler.Config{
			Targets: func(into []sampler.Target) []sampler.Target {
				return append(into,
					sampler.Target{Environment: "e1", Sandbox: "e1-a", CgroupPath: "/a"},
					sampler.Target{Environment: "e1", Sandbox: "e1-b", CgroupPath: "/b"},
					sampler.Target{Environment: "e2", Sandbox: "e2-a"},
				)
			},
			Open: func(path string) (sampler.Reader, error) {
				opened++
				if path == "/a" {
					return &a, nil
				}
				return &b, nil
			},
			Host:    &machine,
			DataDir: t.TempDir(),
			Log:     slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		a.set(sampler.Usage{CPU: 500 * time.Millisecond, Memory: 10}, nil)
		b.set(sampler.Usage{CPU: 250 * time.Millisecond, Memory: 5}, nil)
		machine.set(sampler.Usage{CPU: 2 * time.Second, Memory: 100}, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		want := map[agent.EnvironmentID]agent.EnvironmentHeat{"e1": {CPU: 750, Memory: 15}, "e2": {}}
		for id, heat := range want {
			if got := s.Environment(id); got != heat {
				t.Errorf("%s: got %+v want %+v", id, got, heat)
			}
		}
		host := s.Host()
		if disk := host.DiskTotal; disk == 0 || host.DiskUsed > disk {
			t.Errorf("got %+v", host)
		}
		host.DiskUsed, host.DiskTotal = 0, 0
		if want := (agent.HostHeat{CPU: 2000, Memory: 100}); host != want {
			t.Errorf("got %+v want %+v", host, want)
		}
		a.set(sampler.Usage{}, errors.New("gone"))
		time.Sleep(time.Second)
		synctest.Wait()
		if got, want := s.Environment("e1"), (agent.EnvironmentHeat{Memory: 5}); got != want {
			t.Errorf("got %+v want %+v once one of two is gone and the other idle", got, want)
		}
		if opened != 2 {
			t.Errorf("opened %d cgroups, want 2, once each", opened)
		}
		cancel(nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := [3]int{a.closed, b.closed, machine.closed}; got != [3]int{1, 1, 1} {
			t.Fatalf("readers were closed %v times", got)
		}
	})
}

func TestMachineHasSizeAndUsage(t *testing.T) {
	size, err := sampler.Size()
	if err != nil {
		t.Fatal(err)
	}
	machine := &sampler.Machine{}
	used, err := machine.Read(sampler.Quick)
	if err != nil {
		t.Fatal(err)
	}
	if size.CPU < 1000 || used.CPU <= 0 || used.Memory <= 0 || used.Memory > size.Memory || used.MemoryLimit != size.Memory {
		t.Fatalf("got size %+v usage %+v", size, used)
	}
	if n := testing.AllocsPerRun(20, func() { _, err = machine.Read(sampler.Quick) }); n > 0 || err != nil {
		t.Errorf("%v allocations a sample, %v", n, err)
	}
	if err := machine.Close(); err != nil {
		t.Error(err)
	}
}

// observer keeps what it was told.
type observer struct {
	mu   sync.Mutex
	last admit.Usage
	n    int
}

// Observe implements sampler.Observer.
func (o *observer) Observe(u admit.Usage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last, o.n = u, o.n+1
}

func TestEnvironmentsAreToldOfEachIntervalTenTimesASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cgroup, machine group
		var told observer
		tmp := t.TempDir()
		s := sampler.New(sampler.Config{
			Targets: func(into []sampler.Target) []sampler.Target {
				return append(into, sampler.Target{Environment: "e", Sandbox: "s", CgroupPath: "/", TmpPath: tmp, Observer: &told})
			},
			Open: func(string) (sampler.Reader, error) { return &cgroup, nil },
			Host: &machine, HostCPU: 2000,
			Log: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if told.n != 0 {
			t.Errorf("told %+v before there was an interval", told.last)
		}
		cgroup.set(sampler.Usage{CPU: 70 * time.Millisecond, Throttled: 30 * time.Millisecond, Memory: 900, MemoryLimit: 1000}, nil)
		machine.set(sampler.Usage{CPU: 100 * time.Millisecond, Memory: 990 << 20, MemoryLimit: 1000 << 20}, nil)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		got := told.last
		if got.TmpSize == 0 || got.Tmp > got.TmpSize {
			t.Errorf("/tmp: %d of %d", got.Tmp, got.TmpSize)
		}
		got.Tmp, got.TmpSize = 0, 0
		want := admit.Usage{
			Elapsed: 100 * time.Millisecond, CPU: 70 * time.Millisecond, Throttled: 30 * time.Millisecond, Memory: 900, MemoryLimit: 1000,
			Host: admit.HostUsage{CPUPermille: 500, MemoryFull: true},
		}
		if got != want || told.n != 1 {
			t.Errorf("got %+v (%d times) want %+v", got, told.n, want)
		}
		// A little more is left: not enough to say that the host has memory again.
		for _, c := range []struct {
			used agent.Bytes
			full bool
		}{{940 << 20, true}, {920 << 20, false}, {945 << 20, false}, {960 << 20, true}} {
			machine.set(sampler.Usage{Memory: c.used, MemoryLimit: 1000 << 20}, nil)
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if told.last.Host.MemoryFull != c.full {
				t.Errorf("host uses %d MiB of 1000: full is %v", c.used>>20, !c.full)
			}
		}
		if heat := s.Environment("e"); heat.ThrottledPermille != 60 || heat.CPU != 140 {
			t.Errorf("after half a second %+v, want 60 of 1000 throttled, 140 milli", heat)
		}
		cancel(nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}
