package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/defaults"

	"github.com/hearth-compute/hearth/sandbox"
)

// Destroy removes everything the driver ever made: sandboxes, images, the
// containerd namespace, the nftables table, the parent cgroup and all it has
// below DataDir. Idempotent; works without Open and after a crash of anything.
// Errors: Unavailable; call again then.
func (d *Driver) Destroy(ctx context.Context) error {
	ctx = d.scope(ctx)
	d.noSpares()
	if err := d.destroySandboxes(ctx); err != nil {
		return fmt.Errorf("destroying containerd driver %s: %w", d.cfg.Namespace, err)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"images", d.destroyImages},
		{"containerd namespace", d.destroyNamespace},
		{"nftables table", func(context.Context) error { return d.removePolicy() }},
		{"cgroup", func(context.Context) error { return d.removeParentCgroup() }},
		{"files", func(context.Context) error { return d.removeFiles() }},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("destroying containerd driver %s: %s: %w", d.cfg.Namespace, step.name, classify(err))
		}
	}
	return nil
}

func (d *Driver) destroySandboxes(ctx context.Context) error {
	records, err := d.client.ContainerService().List(ctx)
	if err := unlessNotFound(err); err != nil {
		return err
	}
	var errs []error
	for _, c := range records {
		errs = append(errs, d.Remove(ctx, sandbox.ID(c.ID)))
	}
	return errors.Join(append(errs, d.Sweep(ctx))...)
}

// destroyImages deletes images, leases and whatever content and snapshots are
// left in the namespace.
func (d *Driver) destroyImages(ctx context.Context) error {
	all, err := d.client.ImageService().List(ctx)
	if err := unlessNotFound(err); err != nil {
		return err
	}
	for _, img := range all {
		if err := unlessNotFound(d.client.ImageService().Delete(ctx, img.Name)); err != nil {
			return err
		}
	}
	held, err := d.client.LeasesService().List(ctx)
	if err := unlessNotFound(err); err != nil {
		return err
	}
	for _, l := range held {
		if err := unlessNotFound(d.client.LeasesService().Delete(ctx, l)); err != nil {
			return err
		}
	}
	if err := d.destroySnapshots(ctx); err != nil {
		return err
	}
	if err := d.destroyContent(ctx); err != nil {
		return err
	}
	return d.collect(ctx)
}

// destroySnapshots deletes children before their parents.
func (d *Driver) destroySnapshots(ctx context.Context) error {
	service := d.client.SnapshotService(d.cfg.Snapshotter)
	parents := map[string]string{}
	err := service.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		parents[info.Name] = info.Parent
		return nil
	})
	if err := unlessNotFound(err); err != nil {
		return err
	}
	for len(parents) > 0 {
		before := len(parents)
		children := map[string]int{}
		for _, parent := range parents {
			children[parent]++
		}
		for name := range parents {
			if children[name] > 0 {
				continue
			}
			if err := unlessNotFound(service.Remove(ctx, name)); err != nil {
				return fmt.Errorf("snapshot %s: %w", name, err)
			}
			delete(parents, name)
		}
		if len(parents) == before {
			return errors.New("snapshots form a circle")
		}
	}
	return nil
}

func (d *Driver) destroyContent(ctx context.Context) error {
	store := d.client.ContentStore()
	var blobs []content.Info
	if err := unlessNotFound(store.Walk(ctx, func(info content.Info) error {
		blobs = append(blobs, info)
		return nil
	})); err != nil {
		return err
	}
	for _, blob := range blobs {
		if err := unlessNotFound(store.Delete(ctx, blob.Digest)); err != nil {
			return fmt.Errorf("content %s: %w", blob.Digest, err)
		}
	}
	partial, err := store.ListStatuses(ctx)
	if err := unlessNotFound(err); err != nil {
		return err
	}
	for _, p := range partial {
		if err := unlessNotFound(store.Abort(ctx, p.Ref)); err != nil {
			return fmt.Errorf("download %s: %w", p.Ref, err)
		}
	}
	return nil
}

// collect has containerd free what was deleted from its disk now rather than
// later: deleting a lease with that wish does it.
func (d *Driver) collect(ctx context.Context) error {
	lease, err := d.client.LeasesService().Create(ctx, leases.WithRandomID())
	if err := unlessNotFound(err); err != nil || lease.ID == "" {
		return err
	}
	return unlessNotFound(d.client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete))
}

func (d *Driver) destroyNamespace(ctx context.Context) error {
	if err := unlessNotFound(d.client.NamespaceService().Delete(ctx, d.cfg.Namespace)); err != nil {
		return err
	}
	// containerd and runc leave their directories for the namespace behind, empty.
	for _, dir := range []string{
		filepath.Join(defaults.DefaultStateDir, "runc", d.cfg.Namespace),
		filepath.Join(defaults.DefaultStateDir, "io.containerd.runtime.v2.task", d.cfg.Namespace),
		filepath.Join(defaults.DefaultRootDir, "io.containerd.runtime.v2.task", d.cfg.Namespace),
	} {
		_ = os.Remove(dir)
	}
	return nil
}

func (d *Driver) removeFiles() error {
	var errs []error
	for _, name := range d.cfg.ownDirs() {
		errs = append(errs, os.RemoveAll(d.cfg.dir(name)))
	}
	for _, file := range []string{d.cfg.hostsFile(), d.cfg.resolvConf()} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
