//go:build node

package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
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

// TakeSteps is how many steps taking a spare has.
const TakeSteps = 7

// HalfTake does what Create does first when there is a spare, and only so many of
// its steps, as if the process had been killed there.
func (d *Driver) HalfTake(id sandbox.ID, steps int) error {
	d.spares.stop() // no more are made
	if err := os.Mkdir(d.cfg.sandboxDir(id), 0o700); err != nil {
		return err
	}
	s, ok := d.spares.take(spareTmp)
	if !ok {
		return errors.New("there is no spare")
	}
	all := append(d.takeNetwork(s.id, id), d.takeTmp(s.id, id)...)
	if len(all) != TakeSteps {
		return fmt.Errorf("there are %d steps", len(all))
	}
	for _, step := range all[:steps] {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// MakeSpare makes a spare, if one is wanted.
func (d *Driver) MakeSpare(ctx context.Context) (more bool, err error) {
	return d.makeSpare(d.scope(ctx))
}

// Address returns the IPv4 address of a sandbox's interface.
func (d *Driver) Address(id sandbox.ID) (address string, err error) {
	err = inNetNS(d.cfg.netnsPath(id), func() error {
		i, err := net.InterfaceByName(ifName)
		if err != nil {
			return err
		}
		all, err := i.Addrs()
		for _, a := range all {
			address += a.String()
		}
		return err
	})
	return address, err
}

// Spares returns the ids of all spares that can be taken.
func (d *Driver) Spares() []sandbox.ID {
	d.spares.mu.Lock()
	defer d.spares.mu.Unlock()
	var ids []sandbox.ID
	for _, s := range d.spares.ready {
		ids = append(ids, s.id)
	}
	return ids
}

// ShimSocket is where containerd has the socket of a sandbox's shim.
func (d *Driver) ShimSocket(id sandbox.ID) string { return d.cfg.shimSocket(id) }
