package containerd

import (
	"context"
	"fmt"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"

	"github.com/hearth-compute/hearth/sandbox"
)

const (
	// settleTime is when to look again after subscribing: the subscription may
	// have begun a moment after the call returned.
	settleTime = 250 * time.Millisecond
	// resyncTime is how often to look without having heard anything.
	resyncTime = 5 * time.Second
	// retryTime is how long to wait when containerd does not answer.
	retryTime = 500 * time.Millisecond
)

// Watch implements sandbox.Runtime. It survives restarts of containerd: exits
// that happened meanwhile are found by looking.
func (d *Driver) Watch(ctx context.Context, deliver func(sandbox.Event)) error {
	w := watcher{d: d, deliver: deliver, told: map[sandbox.ID]bool{}}
	for ctx.Err() == nil {
		if err := w.follow(d.scope(ctx)); err != nil && ctx.Err() == nil {
			d.setAway(ctx, err) // again in a moment
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryTime):
		}
	}
	return nil
}

// Away says why containerd does not answer, nil if it does, as far as Watch
// knows. What runs goes on meanwhile; nothing new starts.
func (d *Driver) Away() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.away
}

// setAway notes whether containerd answers, and tells when that changed.
func (d *Driver) setAway(ctx context.Context, err error) {
	d.mu.Lock()
	before := d.away
	d.away = err
	d.mu.Unlock()
	switch {
	case before == nil && err != nil:
		d.log.WarnContext(ctx, "containerd does not answer: what runs goes on, nothing new starts", "err", err)
	case before != nil && err == nil:
		d.log.InfoContext(ctx, "containerd answers again")
	}
}

type watcher struct {
	d       *Driver
	deliver func(sandbox.Event)
	told    map[sandbox.ID]bool // stopped sandboxes already delivered
}

// follow subscribes once and delivers until the subscription breaks.
func (w *watcher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	heard, broken := w.d.client.EventService().Subscribe(ctx,
		fmt.Sprintf(`topic=="/tasks/exit",namespace==%q`, w.d.cfg.Namespace))
	if err := w.scan(ctx); err != nil {
		return err
	}
	w.d.setAway(ctx, nil)
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return err
		case e := <-heard:
			w.exited(ctx, e)
		case <-timer.C:
			if err := w.scan(ctx); err != nil {
				return err
			}
			timer.Reset(resyncTime)
		}
	}
}

// scan delivers every stopped sandbox not delivered yet.
func (w *watcher) scan(ctx context.Context) error {
	all, err := w.d.List(ctx)
	if err != nil {
		return err
	}
	stopped := map[sandbox.ID]bool{}
	for _, s := range all {
		if s.State != sandbox.StateStopped {
			continue
		}
		stopped[s.ID] = true
		if !w.told[s.ID] {
			w.d.heard(ctx, s.ID)
			w.deliver(sandbox.Event{ID: s.ID, Exit: s.Exit})
		}
	}
	w.told = stopped // ids of removed sandboxes may be used again
	return nil
}

func (w *watcher) exited(ctx context.Context, e *events.Envelope) {
	if e.Namespace != w.d.cfg.Namespace {
		return
	}
	decoded, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		return // the next scan finds it
	}
	exit, ok := decoded.(*apievents.TaskExit)
	if !ok || exit.ID != exit.ContainerID {
		return
	}
	id := sandbox.ID(exit.ContainerID)
	if w.d.isCreating(id) {
		return // a Create that failed
	}
	w.told[id] = true
	w.d.heard(ctx, id)
	w.deliver(sandbox.Event{ID: id, Exit: w.d.exit(id, int(exit.ExitStatus), exit.ExitedAt.AsTime())})
}
