package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/sandbox"
)

// Sweep removes what belongs to no container: the remains of a Create or Remove
// that was cut short. Sandboxes, and what is being created meanwhile, are left
// alone. Errors: Unavailable.
func (d *Driver) Sweep(ctx context.Context) error {
	ctx = d.scope(ctx)
	traces, err := d.traces(ctx)
	if err != nil {
		return fmt.Errorf("sweeping: %w", classify(err))
	}
	var errs []error
	for _, id := range traces {
		errs = append(errs, d.sweep(ctx, id))
	}
	return errors.Join(errs...)
}

func (d *Driver) sweep(ctx context.Context, id sandbox.ID) error {
	unlock, err := d.locks.lock(ctx, id)
	if err != nil {
		return d.fail("sweeping", id, err)
	}
	defer unlock()
	if d.spares.has(id) {
		return nil
	}
	switch _, err := d.client.ContainerService().Get(ctx, string(id)); {
	case err == nil:
		return nil // somebody's sandbox
	case !errdefs.IsNotFound(err):
		return d.fail("sweeping", id, err)
	}
	d.log.InfoContext(ctx, "removing what is left of a sandbox", "sandbox", id)
	return d.fail("sweeping", id, d.purge(ctx, id))
}

// traces returns the ids of all sandboxes there is a trace of, apart from their
// containers.
func (d *Driver) traces(ctx context.Context) ([]sandbox.ID, error) {
	var ids []sandbox.ID
	for _, dir := range []string{"netns", "tmp", "sandboxes"} {
		entries, err := os.ReadDir(d.cfg.dir(dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			ids = append(ids, sandbox.ID(strings.TrimSuffix(e.Name(), ".img")))
		}
	}
	leased, err := d.cfg.leases()
	if err != nil {
		return nil, err
	}
	ids = append(ids, leased...)
	cgroups, err := d.sandboxCgroups()
	if err != nil {
		return nil, err
	}
	ids = append(ids, cgroups...)
	err = d.client.SnapshotService(d.cfg.Snapshotter).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		// Layers of images are committed; a snapshot being unpacked has a space in
		// its name.
		if info.Kind == snapshots.KindActive && !strings.Contains(info.Name, " ") {
			ids = append(ids, sandbox.ID(info.Name))
		}
		return nil
	})
	if err := unlessNotFound(err); err != nil {
		return nil, err
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
