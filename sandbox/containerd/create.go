package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
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
	return d.createTask(ctx, spec, ociSpec, img)
}

// createTask makes container, snapshot and task with four calls to containerd. The
// container is first: what it names is not collected as garbage, so no lease is
// needed meanwhile.
func (d *Driver) createTask(ctx context.Context, spec sandbox.Spec, ociSpec *specs.Spec, img client.Image) (sandbox.Status, error) {
	known, err := d.facts(ctx, img)
	if err != nil {
		return sandbox.Status{}, err
	}
	record, err := d.record(spec, ociSpec, img)
	if err != nil {
		return sandbox.Status{}, err
	}
	if record, err = d.client.ContainerService().Create(ctx, record); err != nil {
		return sandbox.Status{}, err
	}
	mounts, err := d.client.SnapshotService(d.cfg.Snapshotter).Prepare(ctx, record.SnapshotKey, known.snapshot)
	if err != nil {
		return sandbox.Status{}, err
	}
	request := &tasks.CreateTaskRequest{ContainerID: record.ID}
	request.Stdout, request.Stderr = d.cfg.fifos(spec.ID)
	for _, m := range mounts {
		request.Rootfs = append(request.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	o, err := d.read(spec.ID)
	if err != nil {
		return sandbox.Status{}, err
	}
	task, err := d.client.TaskService().Create(ctx, request)
	if err != nil {
		o.io.Cancel()
		return sandbox.Status{}, classifyContent(errgrpc.ToNative(err))
	}
	return d.status(record, &process{state: sandbox.StateCreated, pid: int(task.Pid)}), nil
}

// record is what containerd keeps of a sandbox.
func (d *Driver) record(spec sandbox.Spec, ociSpec *specs.Spec, img client.Image) (containers.Container, error) {
	content, err := typeurl.MarshalAny(ociSpec)
	if err != nil {
		return containers.Container{}, err
	}
	return containers.Container{
		ID: string(spec.ID), Labels: prefixed(spec.Labels), Image: img.Name(), Spec: content,
		Runtime:     containers.RuntimeInfo{Name: plugins.RuntimeRuncV2},
		Snapshotter: d.cfg.Snapshotter, SnapshotKey: string(spec.ID),
		Extensions: map[string]typeurl.Any{
			metadataExtension: &anypb.Any{TypeUrl: metadataExtension, Value: spec.Metadata},
		},
	}, nil
}

func prefixed(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		out[labelPrefix+k] = v
	}
	return out
}
