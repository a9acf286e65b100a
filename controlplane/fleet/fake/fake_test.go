package fake_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/fleet/fake"
	"github.com/hearth-compute/hearth/controlplane/fleet/fleettest"
)

// run runs a cloud until the test ends, or until the returned function is called.
func run(t *testing.T, c *fake.Cloud) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop = func() { cancel(errors.New("the test stopped it")); running.Wait() }
	t.Cleanup(stop)
	return stop
}

func TestConformance(t *testing.T) {
	t.Parallel()
	fleettest.Run(t, func(t *testing.T) fleet.Cloud {
		c := fake.New(fake.Config{StopDelay: 5 * time.Millisecond})
		run(t, c)
		return c
	})
}

func TestMachinesTakeTheirTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var events []string
		start := time.Now()
		say := func(what string, id controlplane.InstanceID) {
			events = append(events, what+" "+string(id)+" after "+time.Since(start).String())
		}
		c := fake.New(fake.Config{
			BootDelay: 40 * time.Second, StopDelay: 20 * time.Second,
			OnBoot: func(r fleet.LaunchRequest) { say("boot", r.Instance) },
			OnGone: func(id controlplane.InstanceID) { say("gone", id) },
		})
		stop := run(t, c)
		one, two, three := fleettest.Request(1), fleettest.Request(2), fleettest.Request(3)
		for _, req := range []fleet.LaunchRequest{one, two, three} {
			if err := c.Launch(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		_ = c.Terminate(t.Context(), two.Instance) // it never boots
		time.Sleep(time.Minute)
		_ = c.Terminate(t.Context(), one.Instance)
		time.Sleep(19 * time.Second)
		if ids, _ := c.List(t.Context()); !slices.Contains(ids, one.Instance) || slices.Contains(ids, two.Instance) {
			t.Errorf("got %q while one is leaving and two is gone", ids)
		}
		time.Sleep(2 * time.Second)
		stop()
		want := []string{
			"boot " + string(one.Instance) + " after 40s", "boot " + string(three.Instance) + " after 40s",
			"gone " + string(one.Instance) + " after 1m30s", "gone " + string(three.Instance) + " after 1m31s",
		}
		if !slices.Equal(events, want) {
			t.Errorf("got  %q\nwant %q", events, want)
		}
	})
}

func TestZonesRunOutOfCapacity(t *testing.T) {
	t.Parallel()
	c := fake.New(fake.Config{})
	req := fleettest.Request(1)
	c.FailZone(req.Zone, fleet.ErrCapacity)
	if err := c.Launch(t.Context(), req); !errors.Is(err, fleet.ErrCapacity) {
		t.Errorf("got %v, want ErrCapacity", err)
	}
	if err := c.Launch(t.Context(), fleettest.Request(2)); err != nil {
		t.Errorf("another zone: %v", err)
	}
	c.FailZone(req.Zone, nil)
	if err := c.Launch(t.Context(), req); err != nil {
		t.Errorf("once there is capacity: %v", err)
	}
}

func TestLostRepliesHaveTheirEffect(t *testing.T) {
	t.Parallel()
	c := fake.New(fake.Config{})
	c.LoseReplies(1)
	req := fleettest.Request(1)
	if err := c.Launch(t.Context(), req); !errdefs.IsUnavailable(err) {
		t.Fatalf("got %v, want unavailable", err)
	}
	if err := c.Launch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := c.Launches(); got != 1 {
		t.Errorf("got %d machines for one id", got)
	}
	c.FailAll(errdefs.ErrUnavailable)
	if _, err := c.List(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v, want unavailable", err)
	}
}
