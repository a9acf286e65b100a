package router

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// Invokes of on-demand functions wait, where those of others are refused: on
// default Lambda there would be one more environment for each.
const (
	// maxWait is how long one waits for a version to become Active or for a slot.
	maxWait = time.Minute
	// maxWaiting is how many may wait for one function.
	maxWaiting = 1000
	// waitPoll is how often one that waits looks, should nobody wake it.
	waitPoll = 200 * time.Millisecond
)

// queue is where invokes of one function wait.
type queue struct {
	waiting atomic.Int64
	freed   chan struct{} // capacity 1: "a slot may be free", never data
}

func newQueue() *queue { return &queue{freed: make(chan struct{}, 1)} }

// wake lets one invoke that waits look again.
func (q *queue) wake() {
	if q.waiting.Load() == 0 {
		return
	}
	select {
	case q.freed <- struct{}{}:
	default:
	}
}

// mayWait tells whether an invoke that failed with err was not run and may
// succeed a little later.
func mayWait(err error) bool {
	if t, ok := errors.AsType[*controlplane.ThrottledError](err); ok {
		return t.Reason == controlplane.ThrottleConcurrency || t.Reason == controlplane.ThrottleNoCapacity
	}
	state, ok := errors.AsType[*controlplane.VersionStateError](err)
	return ok && state.State == controlplane.VersionPending
}

// wait runs an invocation of an on-demand function as soon as that is possible;
// began is why it was not. Versions by number are invocable at once on default
// Lambda, so one waits for them too; $LATEST is not, and neither is it here.
func (r *Router) wait(ctx context.Context, req controlplane.InvokeRequest, began error) (controlplane.InvokeResult, error) {
	f := r.table.Load().Functions[req.Function]
	if f == nil || !f.OnDemand || req.DryRun || ofLatest(req, began) {
		return controlplane.InvokeResult{}, began
	}
	q := f.queue
	defer q.waiting.Add(-1)
	if q.waiting.Add(1) > maxWaiting {
		return controlplane.InvokeResult{}, began
	}
	limited, cancel := context.WithTimeoutCause(ctx, maxWait, errors.New("no slot came free"))
	defer cancel()
	for q.look(limited) {
		if !r.hasRoom(req) {
			continue
		}
		if res, err := r.once(ctx, req); err == nil || !mayWait(err) {
			return res, err
		}
	}
	if ctx.Err() != nil {
		return controlplane.InvokeResult{}, context.Cause(ctx)
	}
	return controlplane.InvokeResult{}, began
}

// look waits until it is time to look again; false when ctx is done.
func (q *queue) look(ctx context.Context) bool {
	poll := time.NewTimer(waitPoll)
	defer poll.Stop()
	select {
	case <-q.freed:
	case <-poll.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// ofLatest tells whether err says that $LATEST is not Active yet.
func ofLatest(req controlplane.InvokeRequest, err error) bool {
	_, pending := errors.AsType[*controlplane.VersionStateError](err)
	return pending && (req.Qualifier == "" || req.Qualifier == controlplane.Latest)
}

// hasRoom tells whether it is worth trying: not while every environment of the
// version has all that it may have, as far as this router knows.
func (r *Router) hasRoom(req controlplane.InvokeRequest) bool {
	_, v, err := r.resolve(req)
	if err != nil {
		return !mayWait(err)
	}
	for i := range v.Endpoints {
		if e := &v.Endpoints[i]; e.inFlight.Load() < int64(e.Limit) {
			return true
		}
	}
	return false
}
