package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/sandbox"
)

const (
	// killLimit bounds waiting for the end of a process after SIGKILL.
	killLimit = 10 * time.Second
	// drainLimit bounds waiting for the last output of an ended process.
	drainLimit = time.Second
	// deleteRetry is how long to wait between attempts to delete a task.
	deleteRetry = 100 * time.Millisecond
)

var (
	errGraceOver    = errors.New("the grace period is over")
	errKillTooSlow  = errors.New("the process did not end after SIGKILL")
	errDrainTooSlow = errors.New("the output did not end with the process")
)

// Start implements sandbox.Runtime. It takes about 10 ms.
func (d *Driver) Start(ctx context.Context, id sandbox.ID) error {
	ctx = d.scope(ctx)
	unlock, err := d.locks.lock(ctx, id)
	if err != nil {
		return d.fail("starting", id, err)
	}
	defer unlock()
	p, err := d.process(ctx, id)
	if err != nil {
		return d.fail("starting", id, err)
	}
	if p.state != sandbox.StateCreated {
		return d.fail("starting", id, fmt.Errorf("it is %s: %w", p.state, errdefs.ErrFailedPrecondition))
	}
	_, err = d.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: string(id)})
	return d.fail("starting", id, err)
}

// process asks for a sandbox's task. Without a task it is stopped; without a
// container the error is NotFound.
func (d *Driver) process(ctx context.Context, id sandbox.ID) (*process, error) {
	r, err := d.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: string(id)})
	if err == nil {
		return fromTask(r.Process), nil
	}
	if err := classify(err); !errdefs.IsNotFound(err) {
		return nil, err
	}
	if _, err := d.client.ContainerService().Get(ctx, string(id)); err != nil {
		return nil, err
	}
	return &process{state: sandbox.StateStopped, code: -1}, nil
}

// Stop implements sandbox.Runtime.
func (d *Driver) Stop(ctx context.Context, id sandbox.ID, grace time.Duration) error {
	ctx = d.scope(ctx)
	p, err := d.process(ctx, id)
	if err != nil {
		return d.fail("stopping", id, err)
	}
	if p.state == sandbox.StateRunning && grace > 0 {
		if err := d.signal(ctx, id, unix.SIGTERM); err != nil {
			return d.fail("stopping", id, err)
		}
		wait, cancel := context.WithTimeoutCause(ctx, grace, errGraceOver)
		err := d.awaitExit(wait, id)
		cancel()
		if err != nil && ctx.Err() != nil {
			return d.fail("stopping", id, err)
		}
	}
	return d.fail("stopping", id, d.kill(ctx, id))
}

func (d *Driver) signal(ctx context.Context, id sandbox.ID, sig unix.Signal) error {
	_, err := d.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: string(id), Signal: uint32(sig), All: sig == unix.SIGKILL}) //nolint:gosec // G115: signals are small
	return unlessNotFound(err)
}

// awaitExit waits until a sandbox's task has ended or is gone.
func (d *Driver) awaitExit(ctx context.Context, id sandbox.ID) error {
	_, err := d.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: string(id)})
	return unlessNotFound(err)
}

// kill ends everything that runs in a sandbox: what containerd knows of and
// what it does not.
func (d *Driver) kill(ctx context.Context, id sandbox.ID) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killLimit, errKillTooSlow)
	defer cancel()
	p, err := d.process(ctx, id)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if p != nil && p.state != sandbox.StateStopped {
		if err := d.signal(ctx, id, unix.SIGKILL); err != nil {
			d.log.DebugContext(ctx, "killing a task", "sandbox", id, "err", err) // the cgroup is next
		} else if err := d.awaitExit(ctx, id); err != nil {
			return err
		}
	}
	return killCgroup(ctx, d.cfg.cgroupPath(id))
}

// Remove implements sandbox.Runtime.
func (d *Driver) Remove(ctx context.Context, id sandbox.ID) error {
	ctx = d.scope(ctx)
	unlock, err := d.locks.lock(ctx, id)
	if err != nil {
		return d.fail("removing", id, err)
	}
	defer unlock()
	return d.fail("removing", id, d.purge(ctx, id))
}

// purge deletes all trace of a sandbox, however much of it there is. Every step
// is tried; those that find nothing are content.
func (d *Driver) purge(ctx context.Context, id sandbox.ID) error {
	if err := d.kill(ctx, id); err != nil {
		return err
	}
	drain, cancel := context.WithTimeoutCause(ctx, drainLimit, errDrainTooSlow)
	d.drain(drain, id)
	cancel()

	name := string(id)
	if err := d.deleteTask(ctx, id); err != nil {
		return fmt.Errorf("task: %w", err)
	}
	if err := os.Remove(d.cfg.shimSocket(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("socket of the shim: %w", err)
	}
	err := d.client.SnapshotService(d.cfg.Snapshotter).Remove(ctx, name)
	if err := unlessNotFound(err); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	// The container goes last: as long as anything is left, List shows it.
	if err := errors.Join(
		d.removeNetwork(ctx, id),
		d.removeTmp(id),
		removeCgroup(d.cfg.cgroupPath(id)),
		os.RemoveAll(d.cfg.sandboxDir(id)),
	); err != nil {
		return err
	}
	return unlessNotFound(d.client.ContainerService().Delete(ctx, name))
}

// deleteTask deletes a task that has ended. While containerd is clearing up after
// a shim that died it answers with errors of several kinds, so it is asked again.
func (d *Driver) deleteTask(ctx context.Context, id sandbox.ID) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killLimit, errKillTooSlow)
	defer cancel()
	tick := time.NewTicker(deleteRetry)
	defer tick.Stop()
	for {
		_, err := d.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: string(id)})
		if err = unlessNotFound(err); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Listen implements sandbox.Runtime. An open listener keeps the network
// namespace in the kernel, so close it before or soon after Remove.
func (d *Driver) Listen(ctx context.Context, id sandbox.ID, address string) (net.Listener, error) {
	var l net.Listener
	err := inNetNS(d.cfg.netnsPath(id), func() (err error) {
		lc := net.ListenConfig{KeepAlive: -1} // both ends are on this machine
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(ctx, "tcp", address)
		return err
	})
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, os.ErrNotExist):
		err = fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	case errors.Is(err, unix.EADDRINUSE):
		err = fmt.Errorf("%w: %w", errdefs.ErrAlreadyExists, err)
	}
	return nil, d.fail("listening in", id, err)
}

// Dial implements sandbox.Runtime. An open connection keeps the network
// namespace in the kernel, as a listener does.
func (d *Driver) Dial(ctx context.Context, id sandbox.ID, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil { // a name would be looked up on another thread
		return nil, d.fail("dialling in", id, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err))
	}
	var c net.Conn
	err := inNetNS(d.cfg.netnsPath(id), func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		return err
	})
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, os.ErrNotExist):
		err = fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	case isDialError(err):
		err = fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	return nil, d.fail("dialling in", id, err)
}

func isDialError(err error) bool {
	_, ok := errors.AsType[*net.OpError](err)
	return ok
}
