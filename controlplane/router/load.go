package router

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// fresh is how long what an answer said of its environment's load is believed.
const fresh = 250 * time.Millisecond

// How long an environment that refused is chosen only if there is no other,
// unless an invoke ends there first.
const (
	avoidHot  = 10 * time.Millisecond  // it is short of something
	avoidGone = 100 * time.Millisecond // it is going, not there yet, or cut off
)

// Load is how busy an environment is, as its agent said with an answer or a
// refusal. It counts the invokes of every router.
type Load struct {
	// InFlight is how many invokes hold a slot.
	InFlight int
	// Limit is how many it admits at once now; 0 means that it was not said.
	Limit int
	// CPUPermille is the CPU used of what it is allotted.
	CPUPermille int
}

// Endpoint is an environment that takes invokes.
type Endpoint struct {
	Environment controlplane.EnvironmentID
	Instance    controlplane.InstanceID
	// Limit is how many invokes it runs at once, at most.
	Limit int

	peer *peer
}

// Observe takes in what the environment's agent says of its load, at any time
// during a call. The zero Load says nothing.
func (e Endpoint) Observe(l Load) {
	if e.peer != nil && l != (Load{}) {
		e.peer.observe(l, time.Now())
	}
}

// peer is what the router remembers of an environment from table to table. All
// times are Unix nanoseconds.
type peer struct {
	// inFlight are this router's invokes.
	inFlight atomic.Int64
	// others are invokes of other routers and code that runs past its deadline,
	// limit and cpu are as in Load; all as of heard.
	others, limit, cpu, heard atomic.Int64
	// avoid is until when another is better, since it refused.
	avoid atomic.Int64
	// refused is when it last refused for want of something, and reason of what.
	refused atomic.Int64
	reason  atomic.Pointer[controlplane.ThrottleReason]
}

func (p *peer) observe(l Load, now time.Time) {
	p.others.Store(max(0, int64(l.InFlight)-p.inFlight.Load()))
	p.limit.Store(int64(l.Limit))
	p.cpu.Store(int64(l.CPUPermille))
	p.heard.Store(now.UnixNano())
}

// refuse remembers a refusal.
func (p *peer) refuse(e *RefusedError, now time.Time) {
	avoid := avoidGone
	if reason, ok := e.Reason.throttle(); ok {
		avoid = avoidHot
		p.reason.Store(&reason)
		p.refused.Store(now.UnixNano())
	}
	p.avoid.Store(now.Add(avoid).UnixNano())
}

// view is how loaded an endpoint is, as far as this router knows.
type view struct {
	load, limit, cpu int64
	hot              bool // it would refuse, most likely
}

// look returns the view of e at now, and whether e may be asked at all: not
// when this router alone has given it all it may have.
func (e *Endpoint) look(now int64) (v view, ok bool) {
	own := e.peer.inFlight.Load()
	v = view{load: own, limit: int64(e.Limit)}
	if now-e.peer.heard.Load() < int64(fresh) {
		v.load += e.peer.others.Load()
		v.cpu = e.peer.cpu.Load()
		if limit := e.peer.limit.Load(); limit > 0 {
			v.limit = min(v.limit, limit)
		}
	}
	v.hot = v.load >= v.limit || now < e.peer.avoid.Load()
	return v, own < int64(e.Limit)
}

// better tells whether v should get an invoke rather than o: a cold one before
// a hot one, then the one with the smaller share of its limit taken, then the
// one that uses less CPU.
func (v view) better(o view) bool {
	if v.hot != o.hot {
		return o.hot
	}
	if a, b := v.load*o.limit, o.load*v.limit; a != b {
		return a < b
	}
	return v.cpu < o.cpu
}

// reserve takes one of the invokes e may have from this router.
func (e *Endpoint) reserve() bool {
	if e.peer.inFlight.Add(1) <= int64(e.Limit) {
		return true
	}
	e.peer.inFlight.Add(-1)
	return false
}

// choose reserves an environment that was not tried yet, or returns nil. Of two,
// the one whose turn it is and any other, it takes the better; if both are hot it
// looks for a cold one; if there is none it takes a hot one, unless it must be cold.
func (v *Version) choose(turn uint64, tried []controlplane.EnvironmentID, onlyCold bool, now time.Time) *Endpoint {
	n := len(v.Endpoints)
	if n == 0 || v.State != controlplane.VersionActive {
		return nil
	}
	first := int(turn % uint64(n)) //nolint:gosec // below n, which is an int
	c := chooser{tried: tried, now: now.UnixNano()}
	c.offer(&v.Endpoints[first])
	if n > 1 {
		c.offer(&v.Endpoints[(first+1+rand.IntN(n-1))%n]) //nolint:gosec // spreads load, keeps no secret
	}
	for i := range n {
		if c.cold() {
			return c.best
		}
		c.offer(&v.Endpoints[(first+i)%n])
	}
	if c.cold() || !onlyCold && c.best != nil && c.best.reserve() {
		return c.best
	}
	return nil
}

// chooser keeps the best of the endpoints it is offered.
type chooser struct {
	tried []controlplane.EnvironmentID
	now   int64
	best  *Endpoint
	view  view
}

func (c *chooser) offer(e *Endpoint) {
	v, ok := e.look(c.now)
	if ok && (c.best == nil || v.better(c.view)) && !slices.Contains(c.tried, e.Environment) {
		c.best, c.view = e, v
	}
}

// cold reserves the best if it is cold; if that was taken meanwhile there is no
// best.
func (c *chooser) cold() bool {
	if c.best == nil || c.view.hot {
		return false
	}
	if c.best.reserve() {
		return true
	}
	c.best = nil
	return false
}
