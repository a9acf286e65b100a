package router

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

const (
	// maxWaiting is how many invokes may wait for one version.
	maxWaiting = 1000
	// onDemandWait is how long invokes of on-demand functions wait, where those of
	// others are refused: on default Lambda there would be one more environment
	// for each.
	onDemandWait = time.Minute
	// tick is how often those that wait are looked after when no invoke ends and
	// no table comes: they expire, and environments that refused may take them.
	tick = 10 * time.Millisecond
)

var (
	// errMoved means that the version is not what it was: look again.
	errMoved = errors.New("the version changed")
	// errCut means that an invoke waited for as long as it may.
	errCut = errors.New("no room came free")
)

// lane is what the router remembers of a version from table to table: whose turn
// it is, and the invokes that wait.
//
// Whoever waits is given a slot, reserved, by whoever frees one: nobody overtakes.
// The oldest goes first and the oldest is cut. After CoDel, a burst may wait for
// the whole limit; but when for as long as that nobody was served within half of
// it, the queue is a standing one, which helps nobody, and half is the limit until
// one is served within a quarter, or the queue is empty.
type lane struct {
	figures figures
	turn    atomic.Uint64
	// version is of the newest table; nil once that has none.
	version atomic.Pointer[Version]
	// waiting is how many wait. It is raised before they look for room a last
	// time, and read after room was made: one of the two sees the other.
	waiting atomic.Int64

	mu    sync.Mutex
	queue list.List // of *waiter, the oldest first
	// fine is when the queue last was no standing one.
	fine time.Time
	// timer runs while the queue is not empty.
	timer *time.Timer
	armed bool
}

// waiter is an invoke that waits.
type waiter struct {
	since time.Time
	limit time.Duration
	// granted has capacity 1: it is sent to once.
	granted chan grant
}

// grant is an endpoint, reserved; or why there is none.
type grant struct {
	to  *Endpoint
	err error
}

// take reserves an environment at once; nil if there is none or others wait.
func (l *lane) take(tried []controlplane.EnvironmentID) *Endpoint {
	v := l.version.Load()
	if v == nil || l.waiting.Load() > 0 {
		return nil
	}
	return v.choose(l.turn.Add(1), tried, false, time.Now())
}

// free gives a reservation back, to whoever waits.
func (l *lane) free(e *Endpoint) {
	e.peer.inFlight.Add(-1)
	l.wake()
}

// wake looks after those that wait.
func (l *lane) wake() {
	if l.waiting.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serve(time.Now())
}

// wait waits for an environment from since on. Errors: errMoved, errCut, the
// cause of ctx.
func (l *lane) wait(ctx context.Context, since time.Time, limit time.Duration) (*Endpoint, error) {
	w := &waiter{since: since, limit: limit, granted: make(chan grant, 1)}
	place := l.enqueue(w)
	if place == nil {
		return nil, errCut
	}
	select {
	case g := <-w.granted:
		return g.to, g.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case g := <-w.granted: // just now
		if g.to != nil {
			g.to.peer.inFlight.Add(-1)
			l.serve(time.Now())
		}
	default:
		l.remove(place)
	}
	return nil, context.Cause(ctx)
}

// enqueue puts w into the queue, by its age; nil if that is full.
func (l *lane) enqueue(w *waiter) *list.Element {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue.Len() >= maxWaiting {
		return nil
	}
	now := time.Now()
	if l.queue.Len() == 0 {
		l.fine = now
	}
	at := l.queue.Back()
	for at != nil && at.Value.(*waiter).since.After(w.since) { //nolint:forcetypeassert // nothing else is in it
		at = at.Prev()
	}
	var place *list.Element
	if at == nil {
		place = l.queue.PushFront(w)
	} else {
		place = l.queue.InsertAfter(w, at)
	}
	l.waiting.Add(1)
	l.serve(now)
	return place
}

// serve gives what room there is to those that wait, and cuts those that waited
// too long. mu is held.
func (l *lane) serve(now time.Time) {
	v := l.version.Load()
	for front := l.queue.Front(); front != nil; front = l.queue.Front() {
		w := front.Value.(*waiter) //nolint:forcetypeassert // nothing else is in it
		age := now.Sub(w.since)
		if !v.worthWaiting() {
			l.grant(front, grant{err: errMoved})
			continue
		}
		if age >= l.bound(w, now) {
			l.grant(front, grant{err: errCut})
			continue
		}
		e := v.choose(l.turn.Add(1), nil, true, now)
		if e == nil {
			break
		}
		if age < l.bound(w, now)/2 {
			l.fine = now
		}
		l.grant(front, grant{to: e})
	}
	if l.queue.Len() > 0 && !l.armed {
		l.arm()
	}
}

// bound is how long w may wait.
func (l *lane) bound(w *waiter, now time.Time) time.Duration {
	if w.limit != onDemandWait && now.Sub(l.fine) > w.limit {
		return w.limit / 2
	}
	return w.limit
}

// grant ends w's waiting. mu is held.
func (l *lane) grant(place *list.Element, g grant) {
	w := place.Value.(*waiter) //nolint:forcetypeassert // nothing else is in it
	l.remove(place)
	w.granted <- g
}

func (l *lane) remove(place *list.Element) {
	l.queue.Remove(place)
	l.waiting.Add(-1)
}

// arm has the queue looked after in a while. mu is held.
func (l *lane) arm() {
	l.armed = true
	if l.timer == nil {
		l.timer = time.AfterFunc(tick, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.armed = false
			l.serve(time.Now())
		})
		return
	}
	l.timer.Reset(tick)
}

// worthWaiting tells whether a version may take an invoke some time.
func (v *Version) worthWaiting() bool {
	return v != nil && (v.State == controlplane.VersionActive || v.onDemand && v.State == controlplane.VersionPending)
}
