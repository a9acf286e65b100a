package static_test

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane/fleet/fleettest"
	"github.com/hearth-compute/hearth/controlplane/fleet/static"
)

func TestStaticFleetLaunchesNothing(t *testing.T) {
	t.Parallel()
	c := static.New()
	req := fleettest.Request(1)
	if err := c.Launch(t.Context(), req); !errdefs.IsNotImplemented(err) {
		t.Errorf("got %v, want not implemented", err)
	}
	if err := c.Terminate(t.Context(), req.Instance); err != nil {
		t.Errorf("terminating: %v", err)
	}
	if ids, err := c.List(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("got %q, %v, want none", ids, err)
	}
	if c.Name() != "static" {
		t.Errorf("got name %q", c.Name())
	}
}
