package runtimeapi

import (
	"container/list"
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
)

// invocation is one event on its way through a runtime.
type invocation struct {
	agent.Invocation
	payload            []byte
	admitted, deadline time.Time
	// done takes at most one outcome; it has room for it so that nobody who answers
	// ever waits for a caller that left.
	done chan agent.Outcome

	// taken is closed once a /next has it, or it turned out that it cannot run
	// (unrunnable); it is nil unless the invocation had to wait for one.
	taken      chan struct{}
	unrunnable error
	// told says that platform.start was told; it is its caller's own.
	told bool

	// What follows is guarded by API.mu; handed is read without it once the
	// invocation is done.

	// waiting is where it is queued for a /next; nil when it is not.
	waiting *list.Element
	handed  time.Time
	// answered is when the answer began.
	answered time.Time
	// claimed says that a runtime is sending the answer.
	claimed bool
	// left says that the caller no longer reads done, overran that its slot was
	// counted as overrun.
	left, overran bool
	// stream is the answer once it has begun to be streamed; then its end takes
	// what would have gone to done.
	stream *stream
	// interrupted says that the runtime is sending an error after all.
	interrupted bool
}

// run is Invoke without a tail of the log.
func (a *API) run(ctx context.Context, inv agent.Invocation, payload []byte) (agent.Outcome, error) {
	now := time.Now()
	x := &invocation{Invocation: inv, payload: payload, admitted: now, deadline: deadline(inv, now), done: make(chan agent.Outcome, 1)}
	if !x.deadline.After(now) {
		return agent.Outcome{}, fmt.Errorf("invoking %s: deadline has passed: %w", inv.RequestID, errdefs.ErrFailedPrecondition)
	}
	if v := a.admit(); !v.Admitted {
		return agent.Outcome{}, a.refusal(inv, v)
	}
	span := a.trace(ctx, &x.Invocation)
	if err := a.hand(ctx, x, now.Add(a.cfg.Grace)); err != nil {
		a.release()
		span.End(err)
		return agent.Outcome{}, err
	}
	out := a.await(x)
	traced(span, &out)
	if out.Stream == nil {
		a.ended(x, out)
	}
	return out, nil
}

// deadline is when the caller is answered whatever the runtime does.
func deadline(inv agent.Invocation, now time.Time) time.Time {
	if !inv.DetachedDeadline.IsZero() {
		return inv.DetachedDeadline
	}
	return now.Add(inv.Timeout)
}

// await waits for the answer to x, which was handed over, until its deadline.
func (a *API) await(x *invocation) agent.Outcome {
	timer := time.NewTimer(time.Until(x.deadline))
	defer timer.Stop()
	select {
	case out := <-x.done:
		return out
	case <-timer.C:
	}
	a.mu.Lock()
	a.leaveLocked(x)
	handed := x.handed
	a.mu.Unlock()
	select {
	case out := <-x.done: // at the last moment
		return out
	default:
	}
	out := failed("Sandbox.Timedout", timedOut(x))
	out.Duration = time.Since(handed)
	out.Load = a.Load()
	if a.cfg.TimedOut != nil {
		a.cfg.TimedOut()
	}
	return out
}

// claim reserves the right to answer the running invocation id.
func (a *API) claim(id string) *invocation {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.running[id]
	if x == nil || x.claimed {
		return nil
	}
	x.claimed, x.answered = true, time.Now()
	return x
}

// finish answers the claimed invocation x, unless an exit already has.
func (a *API) finish(x *invocation, out agent.Outcome) {
	if !a.pass(x, out) && out.Release != nil {
		out.Release()
	}
}

// pass hands the answer to the caller of x and reports whether it reads it.
func (a *API) pass(x *invocation, out agent.Outcome) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running[x.RequestID] != x {
		return false
	}
	delete(a.running, x.RequestID)
	a.runs(x, false)
	a.endsSlot(x)
	a.release()
	out.Duration = time.Since(x.handed)
	a.answered(out.Duration)
	out.Load = a.Load()
	if x.stream != nil {
		return x.stream.finish(out)
	}
	if x.left {
		return false
	}
	x.done <- out // has room: there is one outcome
	return true
}

func (a *API) refusal(inv agent.Invocation, v agent.Verdict) error {
	return &RefusedError{RequestID: inv.RequestID, Environment: a.cfg.Environment, Verdict: v, Load: a.Load()}
}
