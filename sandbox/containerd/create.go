package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/oci"
)

const (
	// labelPrefix marks what is ours among container labels.
	labelPrefix = "hearth/"
	// metadataExtension is the container extension that holds Spec.Metadata.
	metadataExtension = "hearth.metadata"
	// maxLabel is containerd's limit on a label's key and value together.
	maxLabel = 4096
	// maxMetadata is the limit on Spec.Metadata.
	maxMetadata = 1 << 20
	// undoLimit bounds how long cleaning up after a failure may take.
	undoLimit = 30 * time.Second
)

var errUndoTooSlow = errors.New("cleaning up took too long")

func (c Config) validate(spec sandbox.Spec) error {
	if err := oci.Validate(spec); err != nil {
		return err
	}
	if all := c.CgroupLimits.CPU; all > 0 && spec.Limits.CPU > all { // version 1 refuses it
		return fmt.Errorf("sandbox %s: its cpu limit is above that of all together: %w", spec.ID, errdefs.ErrInvalidArgument)
	}
	for k, v := range spec.Labels {
		if k == "" || len(labelPrefix)+len(k)+len(v) > maxLabel {
			return fmt.Errorf("sandbox %s: label %.64q is empty or too long: %w", spec.ID, k, errdefs.ErrInvalidArgument)
		}
	}
	if len(spec.Metadata) > maxMetadata {
		return fmt.Errorf("sandbox %s: metadata exceeds %d bytes: %w", spec.ID, maxMetadata, errdefs.ErrInvalidArgument)
	}
	for _, m := range spec.Mounts {
		if _, err := os.Stat(m.Source); err != nil {
			return fmt.Errorf("sandbox %s: mount source: %w: %w", spec.ID, errdefs.ErrInvalidArgument, err)
		}
	}
	return nil
}

// Create implements sandbox.Runtime. It takes 80 to 150 ms: network and /tmp, a
// spare's or made side by side, then container and task.
func (d *Driver) Create(ctx context.Context, spec sandbox.Spec) (sandbox.Status, error) {
	ctx = d.scope(ctx)
	if err := d.cfg.validate(spec); err != nil {
		return sandbox.Status{}, err
	}
	d.spares.disturb()
	if err := d.cfg.checkSpace(); err != nil {
		return sandbox.Status{}, d.fail("creating", spec.ID, err)
	}
	unlock, err := d.locks.lock(ctx, spec.ID)
	if err != nil {
		return sandbox.Status{}, d.fail("creating", spec.ID, err)
	}
	defer unlock()
	switch _, err := d.client.ContainerService().Get(ctx, string(spec.ID)); {
	case err == nil:
		return sandbox.Status{}, d.fail("creating", spec.ID, errdefs.ErrAlreadyExists)
	case !errdefs.IsNotFound(err):
		return sandbox.Status{}, d.fail("creating", spec.ID, err)
	}
	img, err := d.unpacked(ctx, spec.Image.Ref)
	if err != nil {
		return sandbox.Status{}, d.fail("creating", spec.ID, err)
	}
	d.setCreating(spec.ID, true)
	defer d.setCreating(spec.ID, false)
	status, err := d.create(ctx, spec, img)
	if err != nil {
		undo, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), undoLimit, errUndoTooSlow)
		defer cancel()
		if e := d.purge(undo, spec.ID); e != nil {
			d.log.WarnContext(ctx, "cleaning up after a failed create", "sandbox", spec.ID, "err", e) // Sweep tries again
		}
		return sandbox.Status{}, d.fail("creating", spec.ID, err)
	}
	return status, nil
}

func (d *Driver) setCreating(id sandbox.ID, on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if on {
		d.creating[id] = true
	} else {
		delete(d.creating, id)
	}
}

func (d *Driver) create(ctx context.Context, spec sandbox.Spec, img client.Image) (sandbox.Status, error) {
	if err := os.Mkdir(d.cfg.sandboxDir(spec.ID), 0o700); err != nil {
		return sandbox.Status{}, err
	}
	if err := d.furnish(ctx, spec.ID, spec.Limits.Tmp); err != nil {
		return sandbox.Status{}, err
	}
	ociSpec, err := oci.Spec(spec, oci.Host{
		InitPath: d.cfg.InitPath, NetNS: d.cfg.netnsPath(spec.ID), TmpDir: d.cfg.tmpDir(spec.ID),
		HostsFile: d.cfg.hostsFile(), ResolvConf: d.cfg.resolvConf(), CgroupsPath: d.cfg.cgroupPath(spec.ID),
	})
	if err != nil {
		return sandbox.Status{}, err
	}
	ociSpec.Linux.Seccomp = seccomp.DefaultProfile(ociSpec)
	container, err := d.client.NewContainer(ctx, string(spec.ID),
		client.WithImage(img),
		client.WithSnapshotter(d.cfg.Snapshotter),
		client.WithNewSnapshot(string(spec.ID), img),
		client.WithContainerLabels(prefixed(spec.Labels)),
		withSpec(ociSpec),
		withMetadata(spec.Metadata),
	)
	if err != nil {
		return sandbox.Status{}, err
	}
	task, err := container.NewTask(ctx, func(string) (cio.IO, error) {
		o, err := d.read(spec.ID)
		if err != nil {
			return nil, err
		}
		return o.io, nil
	})
	if err != nil {
		return sandbox.Status{}, classifyContent(err)
	}
	info, err := container.Info(ctx, client.WithoutRefreshedMetadata)
	if err != nil {
		return sandbox.Status{}, err
	}
	return d.status(info, &process{state: sandbox.StateCreated, pid: int(task.Pid())}), nil
}

func withSpec(s *specs.Spec) client.NewContainerOpts {
	return func(_ context.Context, _ *client.Client, c *containers.Container) (err error) {
		c.Spec, err = typeurl.MarshalAny(s)
		return err
	}
}

func withMetadata(data []byte) client.NewContainerOpts {
	return func(_ context.Context, _ *client.Client, c *containers.Container) error {
		c.Extensions = map[string]typeurl.Any{
			metadataExtension: &anypb.Any{TypeUrl: metadataExtension, Value: data},
		}
		return nil
	}
}

func prefixed(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		out[labelPrefix+k] = v
	}
	return out
}
