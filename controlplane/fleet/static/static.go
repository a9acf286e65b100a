// Package static is the fleet of hosts that people prepare themselves: each
// joins with a token from "hearth token create". Nothing can be launched and
// nothing terminated; to take a host away, drain it and stop its agent.
package static

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
)

// Cloud is the driver. It implements [fleet.Cloud].
type Cloud struct{}

var _ fleet.Cloud = Cloud{}

// New makes the driver.
func New() Cloud { return Cloud{} }

// Name implements [fleet.Cloud].
func (Cloud) Name() string { return "static" }

// Launch implements [fleet.Cloud]. It always fails with NotImplemented: more
// room comes from hosts that join.
func (Cloud) Launch(_ context.Context, req fleet.LaunchRequest) error {
	return fmt.Errorf("launching %s for %s in %s: hosts of a static fleet join by themselves: %w",
		req.Instance, req.Provider, req.Zone, errdefs.ErrNotImplemented)
}

// List implements [fleet.Cloud]. It names no instance, because only the hosts
// themselves know that they exist: an instance of this fleet is there when its
// agent is heard, and its absence from this list means nothing.
func (Cloud) List(context.Context) ([]controlplane.InstanceID, error) { return nil, nil }

// Terminate implements [fleet.Cloud]. It does nothing: the host stays as it is
// and its agent may join again with a new token.
func (Cloud) Terminate(context.Context, controlplane.InstanceID) error { return nil }
