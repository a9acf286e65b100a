package router

import (
	"cmp"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// defaultRetryAfter is told to callers when no agent said better: the time in
// which a slot may well come free.
const defaultRetryAfter = time.Second

// recent is how long a refusal speaks for its environment.
const recent = time.Second

// throttle returns what a refusal counts as; false when the environment is not
// short of anything but cannot be asked.
func (r RefusalReason) throttle() (controlplane.ThrottleReason, bool) {
	switch r {
	case RefusedConcurrency:
		return controlplane.ThrottleConcurrency, true
	case RefusedCPU:
		return controlplane.ThrottleCPU, true
	case RefusedMemory:
		return controlplane.ThrottleMemory, true
	case RefusedDisk:
		return controlplane.ThrottleDisk, true
	case RefusedDraining, RefusedNotReady, RefusedUnreachable:
	}
	return "", false
}

// tally adds up refusals for want of something.
type tally struct {
	concurrency, cpu, memory, disk int
	absent                         int // those that could not be asked
	retryAfter                     time.Duration
}

func (t *tally) add(r controlplane.ThrottleReason) {
	switch r {
	case controlplane.ThrottleConcurrency:
		t.concurrency++
	case controlplane.ThrottleCPU:
		t.cpu++
	case controlplane.ThrottleMemory:
		t.memory++
	case controlplane.ThrottleDisk:
		t.disk++
	case controlplane.ThrottleReserved: // no environment says so
	}
}

// reason is the commonest; of those as common memory, disk, cpu, concurrency, in
// this order.
func (t *tally) reason() controlplane.ThrottleReason {
	reason, most := controlplane.ThrottleConcurrency, t.concurrency
	for _, c := range []struct {
		r controlplane.ThrottleReason
		n int
	}{{controlplane.ThrottleCPU, t.cpu}, {controlplane.ThrottleDisk, t.disk}, {controlplane.ThrottleMemory, t.memory}} {
		if c.n > 0 && c.n >= most {
			reason, most = c.r, c.n
		}
	}
	return reason
}

// refused adds a refusal of an environment.
func (t *tally) refused(e *RefusedError) {
	if reason, ok := e.Reason.throttle(); ok {
		t.add(reason)
	} else {
		t.absent++
	}
	if e.RetryAfter > 0 && (t.retryAfter == 0 || e.RetryAfter < t.retryAfter) {
		t.retryAfter = e.RetryAfter
	}
}

func (t *tally) total() int { return t.concurrency + t.cpu + t.memory + t.disk }

// survey asks every environment of v, by what this router knows of it, why an
// invoke that none of them was offered cannot run.
func (v *Version) survey(now time.Time) (t tally) {
	for i := range v.Endpoints {
		e := &v.Endpoints[i]
		if reason := e.peer.reason.Load(); reason != nil && now.UnixNano()-e.peer.refused.Load() < int64(recent) {
			t.add(*reason)
		} else if view, ok := e.look(now.UnixNano()); !ok || view.load >= view.limit {
			t.add(controlplane.ThrottleConcurrency)
		}
	}
	return t
}

// throttled is the error of an invoke that was refused as t says, or not offered
// to anybody.
func (t *tally) throttled(v *Version, now time.Time) error {
	by := *t
	if by.total() == 0 && v != nil {
		by = v.survey(now)
	}
	return &controlplane.ThrottledError{
		Reason:     by.reason(),
		NoneReady:  by.total() == 0 && (t.absent > 0 || v == nil || len(v.Endpoints) == 0),
		RetryAfter: cmp.Or(t.retryAfter, defaultRetryAfter),
	}
}
