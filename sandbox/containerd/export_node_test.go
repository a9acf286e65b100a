//go:build node

package containerd

import (
	"context"
	"errors"
	"os"

	"github.com/hearth-compute/hearth/sandbox"
)

// HalfCreate does what Create does before there is a container, and no more, as
// if the process had been killed there.
func (d *Driver) HalfCreate(ctx context.Context, id sandbox.ID) error {
	return errors.Join(
		os.Mkdir(d.cfg.sandboxDir(id), 0o700),
		d.addNetwork(ctx, id),
		d.makeTmp(ctx, id, 1<<20),
	)
}

// ShimSocket is where containerd has the socket of a sandbox's shim.
func (d *Driver) ShimSocket(id sandbox.ID) string { return d.cfg.shimSocket(id) }
