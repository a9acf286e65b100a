package leftovers

import (
	"context"
	"fmt"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// containerd lists our namespaces and all that is in them.
func (s Scope) containerd(ctx context.Context) (found []string, err error) {
	if s.Containerd == "" {
		return nil, nil
	}
	c, err := client.New(s.Containerd)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	all, err := c.NamespaceService().List(ctx)
	if err != nil {
		return nil, err
	}
	for _, ns := range all {
		if !strings.HasPrefix(ns, s.Prefix) {
			continue
		}
		found = append(found, "containerd namespace "+ns)
		inside, err := contents(namespaces.WithNamespace(ctx, ns), c)
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("namespace %s: %w", ns, err)
		}
		for _, thing := range inside {
			found = append(found, fmt.Sprintf("containerd %s in namespace %s", thing, ns))
		}
	}
	return found, nil
}

// contents lists what is in the namespace of ctx.
func contents(ctx context.Context, c *client.Client) (found []string, err error) {
	add := func(kind, name string) { found = append(found, kind+" "+name) }
	containers, err := c.ContainerService().List(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range containers {
		add("container", x.ID)
	}
	running, err := c.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, err
	}
	for _, x := range running.Tasks {
		add("task", x.ID)
	}
	images, err := c.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range images {
		add("image", x.Name)
	}
	leases, err := c.LeasesService().List(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range leases {
		add("lease", x.ID)
	}
	if err := c.SnapshotService(defaults.DefaultSnapshotter).Walk(ctx, func(_ context.Context, x snapshots.Info) error {
		add("snapshot", x.Name)
		return nil
	}); err != nil {
		return nil, err
	}
	return found, c.ContentStore().Walk(ctx, func(x content.Info) error {
		add("content", x.Digest.String())
		return nil
	})
}
