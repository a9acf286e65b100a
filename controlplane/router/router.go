// Package router chooses an execution environment for each invoke, tries
// refusals elsewhere, lets invokes wait a little for room and throttles those
// that find none.
//
// # Model
//
// All it knows is one [Table], swapped atomically by the reconcile loop: which
// functions exist, the state of their versions and the environments that are
// ready. Agents say with every answer how busy its environment is. Nothing else
// is on an invoke's way: no store, no disk, no lock shared between functions.
//
// An invoke is offered to the better of two environments, and when that refuses
// for want of something to another, to three at most. Environments that cannot be
// asked, because they are going, not there yet or cut off, do not count. Then it
// waits, first come, first served, until room is made or it is cut.
//
// # Invariants
//
//  1. An invocation is handed to at most one environment: only an explicit
//     refusal, or a call provably never sent, is tried elsewhere.
//  2. A throttle carries the reason of the refusals that caused it.
//  3. While invokes wait no environment is known to have room.
//  4. Waiting is bounded, in number and in time, for each version.
//
// # Concurrency
//
// Everything may be called from anywhere. Each version's queue has a lock, taken
// only while invokes wait. Router.mu is Swap's; it is taken before those.
package router

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// answerMargin is how much longer than the function's timeout the router waits
// for the agent's answer before it gives the agent up.
const answerMargin = 10 * time.Second

const (
	// maxRefusals is how many environments may refuse an invoke for want of
	// something before it waits.
	maxRefusals = 3
	// maxAttempts is how many environments an invoke is offered to before it
	// waits, those that cannot be asked included.
	maxAttempts = 16
)

var errNoAnswer = errors.New("the agent did not answer in time")

// Caller runs one invocation on an instance. Errors: *[RefusedError];
// *controlplane.LostError.
type Caller interface {
	Call(ctx context.Context, to Endpoint, req controlplane.InvokeRequest, timeout time.Duration) (controlplane.InvokeResult, error)
}

// RefusalReason is why an invocation may be tried elsewhere.
type RefusalReason string

// The reasons.
const (
	RefusedConcurrency RefusalReason = "concurrency"
	RefusedCPU         RefusalReason = "cpu"
	RefusedMemory      RefusalReason = "memory"
	RefusedDisk        RefusalReason = "disk"
	RefusedDraining    RefusalReason = "draining"
	RefusedNotReady    RefusalReason = "not-ready"
	RefusedUnreachable RefusalReason = "unreachable" // never sent
)

// RefusedError promises that the invocation was not and will not be run.
type RefusedError struct {
	Reason RefusalReason
	// RetryAfter is when it may be worth asking again; 0 means unknown.
	RetryAfter time.Duration
	Err        error
}

func (e *RefusedError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("invoke refused: %s: %v", e.Reason, e.Err)
	}
	return "invoke refused: " + string(e.Reason)
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// ResourceExhausted is the class of containerd/errdefs.
func (*RefusedError) ResourceExhausted() {}

// Table is everything the router knows. It is never changed once swapped in.
type Table struct {
	Functions map[controlplane.FunctionName]*Function
}

// Function is one function's part of the table.
type Function struct {
	ARN string
	// OnDemand functions run $LATEST.
	OnDemand bool
	// Reserved bounds how many invokes run at once; nil means that nothing does.
	Reserved *int
	// Versions by qualifier, $LATEST only if the function is on demand.
	Versions map[controlplane.Qualifier]*Version
	Aliases  map[controlplane.Qualifier]Alias

	inFlight *atomic.Int64
}

// enter counts an invoke in, unless the reserved concurrency is reached.
func (f *Function) enter() bool {
	if f.Reserved == nil {
		return true
	}
	if f.inFlight.Add(1) <= int64(*f.Reserved) {
		return true
	}
	f.inFlight.Add(-1)
	return false
}

func (f *Function) leave() {
	if f.Reserved != nil {
		f.inFlight.Add(-1)
	}
}

// Alias sends invokes to Version, and a share of Weight, 0 to 1, to Additional
// unless that is empty.
type Alias struct {
	Version, Additional controlplane.Qualifier
	Weight              float64
}

// Version is one version's part of the table.
type Version struct {
	ARN                string
	Provider           controlplane.ProviderName
	Qualifier          controlplane.Qualifier
	State              controlplane.VersionState
	ReasonCode, Reason string
	// Timeout of one invoke.
	Timeout time.Duration
	// Endpoints are the environments that are ready.
	Endpoints []Endpoint

	lane     *lane
	onDemand bool
}

// Router implements the data path. Use New.
type Router struct {
	caller  Caller
	table   atomic.Pointer[Table]
	metrics *Metrics
	// maxWait is how long invokes wait for room; those of on-demand functions wait
	// longer.
	maxWait time.Duration

	// mu guards what only Swap touches.
	mu    sync.Mutex
	peers map[controlplane.EnvironmentID]*peer
	lanes map[laneKey]*lane
}

type laneKey struct {
	function  controlplane.FunctionName
	qualifier controlplane.Qualifier
}

// New returns a router with an empty table. Invokes that find no room wait for
// it for wait at most; 0 means not at all, as at AWS.
func New(caller Caller, metrics *Metrics, wait time.Duration) *Router {
	r := &Router{caller: caller, metrics: metrics, maxWait: wait}
	r.table.Store(&Table{})
	return r
}

// Swap replaces the table. The caller must not touch t afterwards.
func (r *Router) Swap(t *Table) {
	r.mu.Lock()
	defer r.mu.Unlock()
	peers := make(map[controlplane.EnvironmentID]*peer, len(r.peers))
	for id, p := range r.peers {
		if p.inFlight.Load() > 0 { // it may be back before its invokes are done
			peers[id] = p
		}
	}
	lanes := make(map[laneKey]*lane, len(r.lanes))
	last := r.table.Load()
	for name, f := range t.Functions {
		f.inFlight = new(atomic.Int64)
		if old := last.Functions[name]; old != nil {
			f.inFlight = old.inFlight
		}
		for q, v := range f.Versions {
			k := laneKey{name, q}
			v.onDemand, v.lane = f.OnDemand, r.lanes[k]
			if v.lane == nil {
				v.lane = new(lane)
			}
			lanes[k] = v.lane
			for i := range v.Endpoints {
				e := &v.Endpoints[i]
				if e.peer = r.peers[e.Environment]; e.peer == nil {
					e.peer = new(peer)
				}
				peers[e.Environment] = e.peer
			}
			v.lane.version.Store(v)
		}
	}
	gone := r.lanes
	r.peers, r.lanes = peers, lanes
	r.table.Store(t)
	for k, l := range gone {
		if lanes[k] == nil {
			l.version.Store(nil)
		}
		l.wake()
	}
}

// Invoke runs one invocation. Errors: *controlplane.FunctionNotFoundError,
// NoPublishedVersionError, LatestNotInvocableError, VersionStateError,
// ThrottledError, LostError; the cause of ctx when the caller left.
func (r *Router) Invoke(ctx context.Context, req controlplane.InvokeRequest) (res controlplane.InvokeResult, err error) {
	a := attempt{since: time.Now()}
	for moved := true; moved; moved = errors.Is(err, errMoved) {
		res, err = r.once(ctx, req, &a)
	}
	if !req.DryRun {
		r.metrics.observe(ctx, err)
	}
	if a.lane != nil {
		a.lane.figures.observe(&a, res.FunctionError != "", err)
	}
	return res, err
}

// attempt is what one invoke met so far.
type attempt struct {
	since    time.Time
	refusals tally
	tried    []controlplane.EnvironmentID
	store    [maxRefusals]controlplane.EnvironmentID
	// lane is that of the version, nil until it is known.
	lane *lane
	// ran tells that it was handed to an environment that did not refuse it, and
	// took is how long that had it.
	ran  bool
	took time.Duration
	// pending is set when the version was not Active.
	pending error
}

// once is Invoke while the version stays what it is. Errors: errMoved, too.
func (r *Router) once(ctx context.Context, req controlplane.InvokeRequest, a *attempt) (controlplane.InvokeResult, error) {
	f, v, err := r.resolve(req)
	a.pending = err
	if err != nil && (v == nil || req.DryRun || !v.worthWaiting() || ofLatest(req)) {
		return controlplane.InvokeResult{}, err
	}
	if req.DryRun {
		return controlplane.InvokeResult{Executed: v.Qualifier}, nil
	}
	a.lane = v.lane
	if !f.enter() {
		return controlplane.InvokeResult{}, &controlplane.ThrottledError{Reason: controlplane.ThrottleReserved, RetryAfter: defaultRetryAfter}
	}
	defer f.leave()
	res, err := r.run(ctx, v, req, a)
	res.Executed = v.Qualifier
	return res, err
}

// run runs an invocation in an environment of the version, at once or when there
// is room.
func (r *Router) run(ctx context.Context, v *Version, req controlplane.InvokeRequest, a *attempt) (controlplane.InvokeResult, error) {
	if a.pending == nil {
		if res, refused, err := r.try(ctx, v, req, a); !refused {
			return res, err
		}
	}
	limit := r.maxWait
	if v.onDemand {
		limit = onDemandWait
	}
	for limit > 0 {
		e, err := v.lane.wait(ctx, a.since, limit)
		if errors.Is(err, errCut) {
			break
		}
		if err != nil {
			return controlplane.InvokeResult{}, err
		}
		if res, refused, err := r.call(ctx, v, e, req, a); !refused {
			return res, err
		}
	}
	now := v.lane.version.Load()
	if a.pending != nil && now != nil && now.State != controlplane.VersionActive {
		return controlplane.InvokeResult{}, a.pending
	}
	return controlplane.InvokeResult{}, a.refusals.throttled(now, time.Now())
}

// try offers the invocation to one environment after the other, until one does
// not refuse; refused tells that all did that it was offered to.
func (r *Router) try(ctx context.Context, v *Version, req controlplane.InvokeRequest, a *attempt) (res controlplane.InvokeResult, refused bool, err error) {
	a.tried = a.store[:0]
	for wanting := 0; wanting < maxRefusals && len(a.tried) < maxAttempts; {
		e := v.lane.take(a.tried)
		if e == nil {
			return res, true, nil
		}
		a.tried = append(a.tried, e.Environment)
		before := a.refusals.total()
		if res, refused, err = r.call(ctx, v, e, req, a); !refused {
			return res, false, err
		}
		wanting += a.refusals.total() - before
	}
	return res, true, nil
}

// call hands the invocation to e, which is reserved; refused tells that it did
// not run and may be tried elsewhere.
func (r *Router) call(ctx context.Context, v *Version, e *Endpoint, req controlplane.InvokeRequest, a *attempt) (res controlplane.InvokeResult, refused bool, err error) {
	defer v.lane.free(e)
	if req.Stream != nil {
		req.Stream.Executing(v.Qualifier)
	}
	limited, cancel := context.WithTimeoutCause(ctx, v.Timeout+answerMargin, errNoAnswer)
	defer cancel()
	began := time.Now()
	res, err = r.caller.Call(limited, *e, req, v.Timeout)
	a.ran, a.took = true, time.Since(began)
	if err == nil {
		e.peer.avoid.Store(0) // what it held is free
		return res, false, nil
	}
	refusal, ok := errors.AsType[*RefusedError](err)
	switch {
	case !ok:
		return res, false, err
	case limited.Err() != nil:
		return res, false, context.Cause(limited)
	}
	a.ran = false
	e.peer.refuse(refusal, time.Now())
	a.refusals.refused(refusal)
	return res, true, nil
}

// ofLatest tells whether an invoke is of an on-demand function's $LATEST, which
// is not waited for until it is Active.
func ofLatest(req controlplane.InvokeRequest) bool {
	return req.Qualifier == "" || req.Qualifier == controlplane.Latest
}
