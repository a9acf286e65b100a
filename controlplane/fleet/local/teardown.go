package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/controlplane/fleet/local/process"
)

var (
	errStopTooSlow    = errors.New("the agent did not stop in time")
	errDestroyTooSlow = errors.New("the agent did not destroy in time")
)

// TerminateAll terminates every instance and returns when nothing of them is
// left. It does what Run would, for when no Run will come any more; it tries
// again until ctx ends, and then says what is left.
func (f *Fleet) TerminateAll(ctx context.Context) error {
	if _, err := os.Stat(f.root); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	existing, err := f.instances()
	if err != nil {
		return err
	}
	errs := make([]error, len(existing))
	var all sync.WaitGroup
	for n, inst := range existing {
		all.Go(func() { errs[n] = f.terminateNow(ctx, inst) })
	}
	all.Wait()
	f.sweep()
	removeCgroupParent(f.cgroups)
	return errors.Join(errs...)
}

// removeCgroupParent removes the cgroup above those of all instances, of this
// fleet and of others on this machine, if it is empty.
func removeCgroupParent(root string) {
	dirs := []string{filepath.Join(root, cgroupParent)} // v2
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
		dirs, _ = filepath.Glob(filepath.Join(root, "*", cgroupParent)) // v1: one for each controller
	}
	for _, dir := range dirs {
		_ = unix.Rmdir(dir)
	}
}

func (f *Fleet) terminateNow(ctx context.Context, inst instance) error {
	wait := backoff{}
	for {
		err := inst.markTerminating()
		if err == nil {
			err = f.teardown(ctx, inst)
		}
		if err == nil {
			f.log.InfoContext(ctx, "instance terminated", "instance", inst.id)
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("terminating %s: %w", inst.id, err)
		}
		f.log.WarnContext(ctx, "terminating an instance failed, trying again", "instance", inst.id, "err", err)
		wait.sleep(ctx, nil)
	}
}

// teardown stops the agent of an instance and removes everything it left. Each
// step may be repeated.
func (f *Fleet) teardown(ctx context.Context, inst instance) error {
	for {
		agent, err := inst.agent()
		if err != nil {
			return err
		}
		if agent == nil {
			break
		}
		if err := f.stop(ctx, agent); err != nil {
			return fmt.Errorf("stopping the agent of %s: %w", inst.id, err)
		}
	}
	if err := f.destroy(ctx, inst); err != nil {
		return err
	}
	if err := killShims(inst); err != nil {
		return err
	}
	if err := removeUnmounted(inst.dataDir()); err != nil {
		return err
	}
	// From here on it is gone: in one step, so that half an instance is never
	// taken for a whole one.
	going := filepath.Join(f.root, ".gone-"+string(inst.id))
	if err := os.Rename(inst.dir, going); err != nil {
		return fmt.Errorf("removing %s: %w: %w", inst.id, err, errdefs.ErrUnavailable)
	}
	if err := removeUnmounted(going); err != nil {
		f.log.WarnContext(ctx, "removing the rest of an instance failed", "instance", inst.id, "err", err) // swept later
	}
	return nil
}

// killShims ends what containerd forgot: when an agent is killed while a shim
// starts, the shim stays without a container and nobody knows of it. Destroying
// has removed every container of the namespace, which is the instance's alone.
func killShims(inst instance) error {
	shims, err := process.Find("-namespace", inst.namespace(), "-id")
	if err != nil {
		return err
	}
	for _, shim := range shims {
		shim.KillSession()
	}
	return nil
}

// stop asks a process to end and ends it when it does not.
func (f *Fleet) stop(ctx context.Context, p *process.Process) error {
	p.Signal(unix.SIGTERM)
	limit, cancel := context.WithTimeoutCause(ctx, f.cfg.StopTimeout, errStopTooSlow)
	defer cancel()
	if awaitEnd(limit, p) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.log.WarnContext(ctx, "a process did not stop in time, killing it", "pid", p.PID)
	p.KillSession()
	limit, cancel = context.WithTimeoutCause(ctx, f.cfg.StopTimeout, errStopTooSlow)
	defer cancel()
	if !awaitEnd(limit, p) {
		return fmt.Errorf("process %d: %w: %w", p.PID, context.Cause(limit), errdefs.ErrUnavailable)
	}
	return nil
}

// awaitEnd reports whether p ended before ctx did.
func awaitEnd(ctx context.Context, p *process.Process) bool {
	tick := time.NewTicker(watchInterval / 4)
	defer tick.Stop()
	for p.Alive() {
		select {
		case <-ctx.Done():
			return !p.Alive()
		case <-tick.C:
		}
	}
	return true
}

// destroy runs the agent binary once more to remove the instance's containers,
// networks, cgroup and files.
func (f *Fleet) destroy(ctx context.Context, inst instance) error {
	cmd, logFile, err := f.agentCommand(inst, "--destroy")
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }()
	p, err := process.Start(cmd)
	if err != nil {
		return fmt.Errorf("destroying %s: %w", inst.id, err)
	}
	limit, cancel := context.WithTimeoutCause(ctx, f.cfg.DestroyTimeout, errDestroyTooSlow)
	defer cancel()
	if !awaitEnd(limit, p) {
		p.KillSession()
		rest, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Second, errDestroyTooSlow)
		defer cancel()
		awaitEnd(rest, p)
		return fmt.Errorf("destroying %s: %w: %w", inst.id, context.Cause(limit), errdefs.ErrUnavailable)
	}
	if outcome := p.Outcome(); outcome != "exit status 0" {
		return fmt.Errorf("destroying %s: %s: %q: %w", inst.id, outcome, lastLine(inst.logFile()), errdefs.ErrUnavailable)
	}
	return nil
}
