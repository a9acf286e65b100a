package runtimeapi

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
)

// poller is a pending /next. An invocation that is admitted takes the one that
// waits longest, as on AWS, which spreads events over the workers of a runtime.
type poller struct {
	// give writes the event of x, which runs, to the runtime and reports false if
	// the /next is gone and nothing was written. It is called once for each time
	// the poller was queued and taken, by the goroutine of the invocation's caller,
	// without any lock.
	give func(x *invocation) bool
	// drop, if set, ends the /next without an answer when the process has exited.
	drop func()
	// at is where it is queued; nil when it is not. Guarded by API.mu.
	at *list.Element
}

// hand makes x running and gives it to a pending /next, waiting for one until
// giveUp.
func (a *API) hand(ctx context.Context, x *invocation, giveUp time.Time) error {
	for {
		p, err := a.assign(x)
		switch {
		case err != nil:
			return err
		case p == nil:
			err := a.awaitPoll(ctx, x, giveUp)
			if err == nil {
				a.began(x)
			}
			return err
		}
		a.began(x)
		if p.give(x) || !a.takeBack(x) {
			return nil
		}
	}
}

// assign makes x running on the pending /next it returns, or queues x when
// there is none.
func (a *API) assign(x *invocation) (*poller, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.runnableLocked(x); err != nil {
		return nil, err
	}
	first := a.pollers.Front()
	if first == nil {
		x.taken = make(chan struct{})
		x.waiting = a.waiting.PushBack(x)
		return nil, nil
	}
	p := first.Value.(*poller) //nolint:forcetypeassert // nothing else is in it
	a.pollers.Remove(first)
	p.at = nil
	a.beginLocked(x)
	return p, nil
}

// runnableLocked says why x cannot run now.
func (a *API) runnableLocked(x *invocation) error {
	switch {
	case a.hasExited:
		return a.refusal(x.Invocation, agent.Verdict{Reason: agent.ReasonNotReady})
	case a.running[x.RequestID] != nil:
		return fmt.Errorf("invoking %s in %s: already running: %w", x.RequestID, a.cfg.Environment, errdefs.ErrAlreadyExists)
	}
	return nil
}

func (a *API) beginLocked(x *invocation) {
	x.handed = time.Now()
	a.running[x.RequestID] = x
	a.runs(x, true)
}

// takeBack undoes an assignment nothing came of. It reports false when x is
// answered already, because the process exited.
func (a *API) takeBack(x *invocation) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running[x.RequestID] != x || x.claimed {
		return false
	}
	delete(a.running, x.RequestID)
	a.runs(x, false)
	x.handed = time.Time{}
	return true
}

// awaitPoll waits until a /next takes x, which is queued.
func (a *API) awaitPoll(ctx context.Context, x *invocation, giveUp time.Time) error {
	grace := time.NewTimer(time.Until(giveUp))
	defer grace.Stop()
	left := ctx.Done()
	if !x.DetachedDeadline.IsZero() {
		left = nil
	}
	var err error
	select {
	case <-x.taken:
		return x.unrunnable
	case <-grace.C:
		a.unserved.Add(1)
		a.count(agent.ReasonConcurrency)
		err = a.refusal(x.Invocation, agent.Verdict{Reason: agent.ReasonConcurrency, RetryAfter: time.Duration(a.retryAfter.Load())})
	case <-a.gone:
		err = a.refusal(x.Invocation, agent.Verdict{Reason: agent.ReasonNotReady})
	case <-left:
		err = fmt.Errorf("invoking %s: caller left before it was handed over: %w", x.RequestID, context.Cause(ctx))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if x.waiting == nil { // taken at the last moment
		return x.unrunnable
	}
	a.waiting.Remove(x.waiting)
	x.waiting = nil
	return err
}

var (
	errTooManyPolls = errors.New("too many idle runtimes")
	errGone         = errors.New("the process has exited")
)

// arrive returns the invocation a new /next is to have, or queues the /next when
// there is none. Errors: errTooManyPolls; errGone.
func (a *API) arrive(p *poller) (*invocation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.hasExited {
		first := a.waiting.Front()
		if first == nil {
			if a.pollers.Len() >= maxIdle {
				return nil, errTooManyPolls
			}
			p.at = a.pollers.PushBack(p)
			return nil, nil
		}
		x := first.Value.(*invocation) //nolint:forcetypeassert // nothing else is in it
		a.waiting.Remove(first)
		x.waiting = nil
		x.unrunnable = a.runnableLocked(x)
		close(x.taken)
		if x.unrunnable == nil {
			a.beginLocked(x)
			return x, nil
		}
	}
	return nil, errGone
}

// dropPolls ends every pending /next; those that end by themselves it leaves alone.
func (a *API) dropPolls() {
	var drops []func()
	a.mu.Lock()
	for e := a.pollers.Front(); e != nil; e = e.Next() {
		if p := e.Value.(*poller); p.drop != nil { //nolint:forcetypeassert // nothing else is in it
			drops = append(drops, p.drop)
		}
	}
	a.mu.Unlock()
	for _, drop := range drops {
		drop()
	}
}

// withdraw takes a /next out of the queue and reports false when it is not
// there: it was, or is just being, given an invocation.
func (a *API) withdraw(p *poller) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.at == nil {
		return false
	}
	a.pollers.Remove(p.at)
	p.at = nil
	return true
}

// poll waits for an invocation to hand to the /next whose context is given.
// Errors: those of arrive; the cause of ctx.
func (a *API) poll(ctx context.Context) (*invocation, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	given, alive := make(chan *invocation), make(chan bool)
	p := &poller{give: func(x *invocation) bool { given <- x; return <-alive }}
	x, err := a.arrive(p)
	if x != nil || err != nil {
		return x, err
	}
	select {
	case x = <-given:
	case <-ctx.Done():
	case <-a.gone:
	}
	if x == nil {
		if a.withdraw(p) {
			return nil, errors.Join(errGone, context.Cause(ctx))
		}
		x = <-given
	}
	err = context.Cause(ctx)
	alive <- err == nil
	return x, err
}
