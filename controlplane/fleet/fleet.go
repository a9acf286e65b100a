// Package fleet launches and terminates instances. [Cloud] is the seam: local
// runs hearth-agent processes on this machine, static takes hosts that join by
// themselves, fake is for tests. The suite in fleettest holds for all of them.
package fleet

import (
	"context"
	"errors"

	"github.com/hearth-compute/hearth/controlplane"
)

// ErrCapacity says that the cloud has no machine of this kind here and now.
// Trying another zone or later may work.
var ErrCapacity = errors.New("insufficient capacity")

// Cloud launches machines that run hearth-agent. Errors carry a class of
// containerd/errdefs, or are ErrCapacity.
type Cloud interface {
	// Name is the driver's name, as in --fleet.
	Name() string
	// Launch asks for a machine. Idempotent by req.Instance: the second call
	// for the same id changes nothing. It returns once the request is accepted,
	// not when the machine runs. Errors: ErrCapacity, ResourceExhausted (a
	// limit of ours), InvalidArgument, NotImplemented, Unavailable.
	Launch(ctx context.Context, req LaunchRequest) error
	// List returns the ids of the machines that exist, ordered. Errors: Unavailable.
	List(ctx context.Context) ([]controlplane.InstanceID, error)
	// Terminate gives a machine back. It is called again until List no longer
	// has it; each call may return before it is gone. Unknown ids are no error.
	// Errors: Unavailable.
	Terminate(ctx context.Context, id controlplane.InstanceID) error
}

// LaunchRequest describes a machine.
type LaunchRequest struct {
	Instance controlplane.InstanceID
	Provider controlplane.ProviderName
	Zone     controlplane.Zone
	Size     controlplane.Resources
	// JoinToken is what its agent joins with.
	JoinToken string
}
