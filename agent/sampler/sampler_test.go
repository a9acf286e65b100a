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
func (g *group) Read() (sampler.Usage, error) {
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
			Targets: func() []sampler.Target {
				return []sampler.Target{
					{Environment: "e1", Sandbox: "e1-a", CgroupPath: "/a"},
					{Environment: "e1", Sandbox: "e1-b", CgroupPath: "/b"},
					{Environment: "e2", Sandbox: "e2-a"},
				}
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
	t.Parallel()
	size, err := sampler.Size()
	if err != nil {
		t.Fatal(err)
	}
	used, err := sampler.Machine{}.Read()
	if err != nil {
		t.Fatal(err)
	}
	if size.CPU < 1000 || used.CPU <= 0 || used.Memory <= 0 || used.Memory > size.Memory {
		t.Fatalf("got size %+v usage %+v", size, used)
	}
}
