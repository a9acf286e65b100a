package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet/local/process"
)

const (
	lookInterval  = time.Second            // how often Run looks for instances
	watchInterval = 100 * time.Millisecond // how often an agent is looked at
	logInterval   = 5 * time.Second        // how often its log is
	lockInterval  = 20 * time.Millisecond
	lockPatience  = 500 * time.Millisecond
	minBackoff    = 100 * time.Millisecond
	maxBackoff    = 5 * time.Second
	stableAfter   = 10 * time.Second // an agent that ran this long is started anew at once
)

// Run starts agents, takes back those that run already, starts those that end
// again and removes instances that are terminated, until ctx ends. Agents are
// left running. It fails when another Run or TerminateAll works on the same
// directory.
func (f *Fleet) Run(ctx context.Context) error {
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	f.sweep()

	var running sync.WaitGroup
	defer running.Wait()
	// One goroutine for each instance; done tells which one has ended. Run is
	// its only reader, so nobody waits long.
	nudges := map[controlplane.InstanceID]chan struct{}{}
	done := make(chan controlplane.InstanceID)
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		existing, err := f.instances()
		if err != nil {
			f.log.WarnContext(ctx, "looking for instances failed", "err", err)
		}
		for _, inst := range existing {
			nudge, known := nudges[inst.id]
			if known {
				poke(nudge)
				continue
			}
			nudge = make(chan struct{}, 1)
			nudges[inst.id] = nudge
			running.Go(func() {
				f.supervise(ctx, inst, nudge)
				select {
				case done <- inst.id:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-f.nudge:
		case id := <-done:
			delete(nudges, id)
		}
	}
}

// poke wakes whoever listens on nudge to look again.
func poke(nudge chan<- struct{}) {
	select {
	case nudge <- struct{}{}:
	default:
	}
}

// lock keeps others from working on the same instances.
func (f *Fleet) lock() (unlock func(), err error) {
	if err := os.MkdirAll(f.root, 0o700); err != nil {
		return nil, fmt.Errorf("making %s: %w: %w", f.root, err, errdefs.ErrUnavailable)
	}
	file, err := os.OpenFile(filepath.Join(f.root, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w: %w", f.root, err, errdefs.ErrUnavailable)
	}
	// A child that is just being started holds the lock a moment longer than
	// its parent.
	for begun := time.Now(); ; time.Sleep(lockInterval) {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() {
				_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
				_ = file.Close()
			}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(begun) > lockPatience {
			break
		}
	}
	_ = file.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("locking %s: another process manages these instances: %w", f.root, errdefs.ErrFailedPrecondition)
	}
	return nil, fmt.Errorf("locking %s: %w: %w", f.root, err, errdefs.ErrUnavailable)
}

// supervise keeps the agent of one instance running until the instance is gone
// or ctx ends.
func (f *Fleet) supervise(ctx context.Context, inst instance, nudge <-chan struct{}) {
	log := f.log.With("instance", inst.id)
	wait := backoff{}
	for ctx.Err() == nil && !inst.gone() {
		if inst.terminating() {
			err := f.teardown(ctx, inst)
			if err == nil {
				log.InfoContext(ctx, "instance terminated")
				return
			}
			if ctx.Err() == nil {
				log.WarnContext(ctx, "terminating an instance failed, trying again", "err", err)
			}
			wait.sleep(ctx, nil)
			continue
		}
		agent, err := f.ensureAgent(ctx, inst)
		if err != nil {
			log.WarnContext(ctx, "starting an agent failed, trying again", "err", err)
			wait.sleep(ctx, nudge)
			continue
		}
		if f.watch(ctx, inst, agent, nudge) > stableAfter {
			wait = backoff{}
		}
		if ctx.Err() == nil && !inst.terminating() {
			log.WarnContext(ctx, "agent ended, starting it again", "reason", agent.Outcome(), "last_output", lastLine(inst.logFile()))
			wait.sleep(ctx, nudge)
		}
	}
}

// ensureAgent returns the instance's agent, started if it does not run.
func (f *Fleet) ensureAgent(ctx context.Context, inst instance) (*process.Process, error) {
	agent, err := inst.agent()
	if err != nil {
		return nil, err
	}
	if agent != nil {
		f.log.InfoContext(ctx, "took back a running agent", "instance", inst.id, "pid", agent.PID)
		return agent, nil
	}
	if agent, err = f.spawn(inst); err != nil {
		return nil, err
	}
	f.log.InfoContext(ctx, "started an agent", "instance", inst.id, "pid", agent.PID)
	return agent, nil
}

// watch returns when the agent has ended, or its instance is to be terminated,
// or ctx has ended, and says how long that took.
func (f *Fleet) watch(ctx context.Context, inst instance, agent *process.Process, nudge <-chan struct{}) time.Duration {
	begun := time.Now()
	tick, logs := time.NewTicker(watchInterval), time.NewTicker(logInterval)
	defer tick.Stop()
	defer logs.Stop()
	for agent.Alive() {
		select {
		case <-ctx.Done():
			return time.Since(begun)
		case <-nudge:
			if inst.terminating() {
				return time.Since(begun)
			}
		case <-tick.C:
		case <-logs.C:
			if err := boundLog(inst.logFile(), f.cfg.MaxLogBytes); err != nil {
				f.log.WarnContext(ctx, "bounding an agent's log failed", "instance", inst.id, "err", err)
			}
		}
	}
	return time.Since(begun)
}

// backoff spaces attempts, ever further apart.
type backoff struct{ next time.Duration }

// sleep waits a little longer than the time before, until ctx ends or wake is
// poked.
func (b *backoff) sleep(ctx context.Context, wake <-chan struct{}) {
	b.next = min(max(minBackoff, 2*b.next), maxBackoff)
	jittered := time.Duration(float64(b.next) * (0.8 + 0.2*rand.Float64())) //nolint:gosec // no secret
	select {
	case <-ctx.Done():
	case <-time.After(jittered):
	case <-wake:
	}
}
