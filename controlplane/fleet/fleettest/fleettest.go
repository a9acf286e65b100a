// Package fleettest is the conformance suite of [fleet.Cloud]: what every
// driver that launches machines must do. Drivers run it in their tests; static,
// which launches nothing, has tests of its own.
package fleettest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
)

// patience is how long a machine may take to go away.
const patience = 30 * time.Second

// Run checks a driver. newCloud makes a driver without machines and with room
// for at least four; it is torn down by t.Cleanup.
func Run(t *testing.T, newCloud func(t *testing.T) fleet.Cloud) {
	for name, check := range map[string]func(*testing.T, fleet.Cloud){
		"the name is stable":                     testName,
		"launched instances are listed in order": testList,
		"launching twice changes nothing":        testIdempotent,
		"launching at the same time works":       testConcurrent,
		"malformed requests are refused":         testInvalid,
		"terminated instances go away":           testTerminate,
		"terminating the unknown is no error":    testTerminateUnknown,
		"room is given back":                     testRoomGivenBack,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, newCloud(t))
		})
	}
}

// Request is a launch request that every driver accepts, different for each n.
func Request(n int) fleet.LaunchRequest {
	return fleet.LaunchRequest{
		Instance:  controlplane.InstanceID(fmt.Sprintf("i-%017x", n)),
		Provider:  "provider",
		Zone:      controlplane.Zone(fmt.Sprintf("subnet-%d", n%3)),
		Size:      controlplane.Resources{CPU: 500, Memory: 256 << 20},
		JoinToken: fmt.Sprintf("hearth1.%d.secret.hash", n),
	}
}

func testName(t *testing.T, c fleet.Cloud) {
	first := c.Name()
	launch(t, c, Request(1))
	if again := c.Name(); first == "" || again != first {
		t.Errorf("got names %q and %q", first, again)
	}
}

func testList(t *testing.T, c fleet.Cloud) {
	wantList(t, c)
	for _, n := range []int{3, 1, 2} {
		launch(t, c, Request(n))
	}
	wantList(t, c, 1, 2, 3)
}

func testIdempotent(t *testing.T, c fleet.Cloud) {
	for range 3 {
		launch(t, c, Request(1))
	}
	wantList(t, c, 1)
	terminate(t, c, 1)
	wantList(t, c)
}

func testConcurrent(t *testing.T, c fleet.Cloud) {
	var all sync.WaitGroup
	for n := range 8 { // each of four twice
		all.Go(func() {
			if err := c.Launch(t.Context(), Request(n/2)); err != nil {
				t.Errorf("launching %s: %v", Request(n/2).Instance, err)
			}
		})
	}
	all.Wait()
	wantList(t, c, 0, 1, 2, 3)
}

func testInvalid(t *testing.T, c fleet.Cloud) {
	for name, spoil := range map[string]func(*fleet.LaunchRequest){
		"no instance":        func(r *fleet.LaunchRequest) { r.Instance = "" },
		"a path as instance": func(r *fleet.LaunchRequest) { r.Instance = "../i-1" },
		"no provider":        func(r *fleet.LaunchRequest) { r.Provider = "" },
		"no zone":            func(r *fleet.LaunchRequest) { r.Zone = "" },
		"no CPU":             func(r *fleet.LaunchRequest) { r.Size.CPU = 0 },
		"negative memory":    func(r *fleet.LaunchRequest) { r.Size.Memory = -1 },
		"no token":           func(r *fleet.LaunchRequest) { r.JoinToken = "" },
	} {
		req := Request(1)
		spoil(&req)
		if err := c.Launch(t.Context(), req); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v, want an invalid argument", name, err)
		}
	}
	wantList(t, c)
}

func testTerminate(t *testing.T, c fleet.Cloud) {
	launch(t, c, Request(1))
	launch(t, c, Request(2))
	terminate(t, c, 1)
	wantList(t, c, 2)
	terminate(t, c, 1) // it is gone: no error
	terminate(t, c, 2)
	wantList(t, c)
}

func testTerminateUnknown(t *testing.T, c fleet.Cloud) {
	launch(t, c, Request(1))
	if err := c.Terminate(t.Context(), Request(2).Instance); err != nil {
		t.Errorf("got %v", err)
	}
	if err := c.Terminate(t.Context(), "../i-1"); err != nil {
		t.Errorf("got %v", err)
	}
	wantList(t, c, 1)
}

func testRoomGivenBack(t *testing.T, c fleet.Cloud) {
	for n := range 12 {
		launch(t, c, Request(n))
		terminate(t, c, n)
	}
	wantList(t, c)
}

func launch(t *testing.T, c fleet.Cloud, req fleet.LaunchRequest) {
	t.Helper()
	if err := c.Launch(t.Context(), req); err != nil {
		t.Fatalf("launching %s: %v", req.Instance, err)
	}
}

// terminate asks until the instance is gone, as reconcile does.
func terminate(t *testing.T, c fleet.Cloud, n int) {
	t.Helper()
	id := Request(n).Instance
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if err := c.Terminate(t.Context(), id); err != nil {
			t.Fatalf("terminating %s: %v", id, err)
		}
		if !slices.Contains(list(t, c), id) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still listed", id)
		}
	}
}

func list(t *testing.T, c fleet.Cloud) []controlplane.InstanceID {
	t.Helper()
	ids, err := c.List(t.Context())
	if err != nil {
		t.Fatalf("listing: %v", err)
	}
	return ids
}

func wantList(t *testing.T, c fleet.Cloud, want ...int) {
	t.Helper()
	var ids []controlplane.InstanceID
	for _, n := range want {
		ids = append(ids, Request(n).Instance)
	}
	if got := list(t, c); !slices.Equal(got, ids) {
		t.Errorf("got %q, want %q", got, ids)
	}
}
