package runtimeapi

import (
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
	// done takes exactly one answer per hand-over; it has room for it so that
	// nobody who answers ever waits for a caller that left.
	done chan answer

	// handed, claimed and left are guarded by API.mu; handed is read without it
	// once the invocation is done.
	handed time.Time
	// claimed says that a runtime is sending the answer.
	claimed bool
	// left says that the caller no longer reads done.
	left bool
}

// answer ends one hand-over.
type answer struct {
	outcome agent.Outcome
	// handedBack says that the /next went away before anything was written to
	// it: the invocation may be handed to another.
	handedBack bool
	// refused is set when the invocation was not run.
	refused error
}

// Invoke runs one invocation and returns its outcome. ctx ends the wait for a
// /next only; once the event may have reached the runtime, Invoke returns when
// the runtime answers, its process exits or the deadline passes. Errors:
// ResourceExhausted as *[RefusedError], AlreadyExists (a running invocation has
// the id), FailedPrecondition (the deadline has passed), or the cause of ctx;
// after any of them the event was not handed to a runtime.
func (a *API) Invoke(ctx context.Context, inv agent.Invocation, payload []byte) (agent.Outcome, error) {
	now := time.Now()
	x := &invocation{Invocation: inv, payload: payload, admitted: now, deadline: deadline(inv, now), done: make(chan answer, 1)}
	if !x.deadline.After(now) {
		return agent.Outcome{}, fmt.Errorf("invoking %s: deadline has passed: %w", inv.RequestID, errdefs.ErrFailedPrecondition)
	}
	if v := a.admit(); !v.Admitted {
		return agent.Outcome{}, a.refusal(inv, v)
	}
	giveUp := now.Add(a.cfg.Grace)
	for {
		if err := a.hand(ctx, x, giveUp); err != nil {
			a.release()
			return agent.Outcome{}, err
		}
		ans := a.await(x)
		switch {
		case ans.refused != nil:
			a.release()
			return agent.Outcome{}, ans.refused
		case !ans.handedBack:
			return ans.outcome, nil
		}
	}
}

// deadline is when the caller is answered whatever the runtime does.
func deadline(inv agent.Invocation, now time.Time) time.Time {
	if !inv.DetachedDeadline.IsZero() {
		return inv.DetachedDeadline
	}
	return now.Add(inv.Timeout)
}

// hand passes x to a pending /next, waiting for one until giveUp.
func (a *API) hand(ctx context.Context, x *invocation, giveUp time.Time) error {
	select {
	case a.work <- x:
		return nil
	default:
	}
	grace := time.NewTimer(time.Until(giveUp))
	defer grace.Stop()
	left := ctx.Done()
	if !x.DetachedDeadline.IsZero() {
		left = nil
	}
	select {
	case a.work <- x:
		return nil
	case <-grace.C:
		return a.refusal(x.Invocation, agent.Verdict{Reason: agent.ReasonConcurrency})
	case <-a.gone:
		return a.refusal(x.Invocation, agent.Verdict{Reason: agent.ReasonNotReady})
	case <-left:
		return fmt.Errorf("invoking %s: caller left before it was handed over: %w", x.RequestID, context.Cause(ctx))
	}
}

// await waits for the answer to x, which was handed over, until its deadline.
func (a *API) await(x *invocation) answer {
	timer := time.NewTimer(time.Until(x.deadline))
	defer timer.Stop()
	select {
	case ans := <-x.done:
		return ans
	case <-timer.C:
	}
	a.mu.Lock()
	x.left = true
	handed := x.handed
	a.mu.Unlock()
	select {
	case ans := <-x.done: // at the last moment
		if ans.handedBack {
			ans.refused = a.refusal(x.Invocation, agent.Verdict{Reason: agent.ReasonConcurrency})
		}
		return ans
	default:
	}
	out := agent.Outcome{FunctionError: Unhandled, ContentType: contentTypeJSON, Payload: timedOut(x)}
	if !handed.IsZero() {
		out.Duration = time.Since(handed)
		if a.cfg.TimedOut != nil {
			a.cfg.TimedOut()
		}
	}
	return answer{outcome: out}
}

// poll waits for an invocation to hand to the /next whose context is given. It
// reports false when the /next ended first.
func (a *API) poll(ctx context.Context) (*invocation, bool) {
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case <-a.gone:
			return nil, false
		case x := <-a.work:
			if a.take(ctx, x) {
				return x, true
			}
		}
	}
}

// take makes x running, or gives it back when this /next cannot have it.
func (a *API) take(ctx context.Context, x *invocation) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	ans := answer{}
	switch {
	case a.hasExited:
		ans.refused = a.refusal(x.Invocation, agent.Verdict{Reason: agent.ReasonNotReady})
	case a.running[x.RequestID] != nil:
		ans.refused = fmt.Errorf("invoking %s in %s: already running: %w", x.RequestID, a.cfg.Environment, errdefs.ErrAlreadyExists)
	case ctx.Err() != nil:
		ans.handedBack = true
	default:
		x.handed = time.Now()
		a.running[x.RequestID] = x
		return true
	}
	if x.left {
		a.release() // nobody will read the answer
		return false
	}
	x.done <- ans // has room: one answer per hand-over
	return false
}

// claim reserves the right to answer the running invocation id.
func (a *API) claim(id string) *invocation {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.running[id]
	if x == nil || x.claimed {
		return nil
	}
	x.claimed = true
	return x
}

// unclaim lets the runtime try to answer again.
func (a *API) unclaim(x *invocation) {
	a.mu.Lock()
	x.claimed = false
	a.mu.Unlock()
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
	a.release()
	if x.left {
		return false
	}
	out.Duration = time.Since(x.handed)
	x.done <- answer{outcome: out} // has room: one answer per hand-over
	return true
}

func (a *API) refusal(inv agent.Invocation, v agent.Verdict) error {
	return &RefusedError{RequestID: inv.RequestID, Environment: a.cfg.Environment, Verdict: v}
}
