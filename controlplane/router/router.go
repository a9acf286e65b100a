// Package router chooses an execution environment for each invoke, tries
// refusals elsewhere and throttles when every environment refuses.
//
// # Model
//
// All it knows is one [Table], swapped atomically by the reconcile loop: which
// functions exist, the state of their versions and the environments that are
// ready. Nothing else is on an invoke's way: no store, no disk, no lock shared
// between functions.
//
// # Invariants
//
//  1. An invocation is handed to at most one environment: only an explicit
//     refusal, or a call provably never sent, is tried elsewhere.
//  2. A throttle carries the reason of the refusals that caused it.
package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// answerMargin is how much longer than the function's timeout the router waits
// for the agent's answer before it gives the agent up.
const answerMargin = 10 * time.Second

// maxAttempts bounds how many environments one invoke is offered to.
const maxAttempts = 16

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

func (t *Table) version(f controlplane.FunctionName, q controlplane.Qualifier) *Version {
	if f := t.Functions[f]; f != nil {
		return f.Versions[q]
	}
	return nil
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
	queue    *queue
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
	Qualifier          controlplane.Qualifier
	State              controlplane.VersionState
	ReasonCode, Reason string
	// Timeout of one invoke.
	Timeout time.Duration
	// Endpoints are the environments that are ready.
	Endpoints []Endpoint

	turn atomic.Uint64
}

// Endpoint is an environment that takes invokes.
type Endpoint struct {
	Environment controlplane.EnvironmentID
	Instance    controlplane.InstanceID
	// Limit is how many invokes it runs at once.
	Limit int

	inFlight *atomic.Int64
}

// Router implements the data path. Use New.
type Router struct {
	caller  Caller
	table   atomic.Pointer[Table]
	metrics *Metrics

	// mu guards loads, which only Swap touches.
	mu    sync.Mutex
	loads map[controlplane.EnvironmentID]*atomic.Int64
}

// New returns a router with an empty table.
func New(caller Caller, metrics *Metrics) *Router {
	r := &Router{caller: caller, metrics: metrics, loads: map[controlplane.EnvironmentID]*atomic.Int64{}}
	r.table.Store(&Table{})
	return r
}

// Swap replaces the table. The caller must not touch t afterwards.
func (r *Router) Swap(t *Table) {
	r.mu.Lock()
	defer r.mu.Unlock()
	loads := make(map[controlplane.EnvironmentID]*atomic.Int64, len(r.loads))
	for id, load := range r.loads {
		if load.Load() > 0 { // it may be back before its invokes are done
			loads[id] = load
		}
	}
	last := r.table.Load()
	for name, f := range t.Functions {
		if old := last.Functions[name]; old != nil {
			f.inFlight, f.queue = old.inFlight, old.queue
		} else {
			f.inFlight, f.queue = new(atomic.Int64), newQueue()
		}
		for q, v := range f.Versions {
			if old := last.version(name, q); old != nil {
				v.turn.Store(old.turn.Load())
			}
			for i := range v.Endpoints {
				e := &v.Endpoints[i]
				load := r.loads[e.Environment]
				if load == nil {
					load = new(atomic.Int64)
				}
				e.inFlight, loads[e.Environment] = load, load
			}
		}
	}
	r.loads = loads
	r.table.Store(t)
	for _, f := range t.Functions {
		f.queue.wake()
	}
}

// Invoke runs one invocation. Errors: *controlplane.FunctionNotFoundError,
// NoPublishedVersionError, LatestNotInvocableError, VersionStateError,
// ThrottledError, LostError; the cause of ctx when the caller left.
func (r *Router) Invoke(ctx context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
	table := r.table.Load()
	res, err := r.once(ctx, req)
	if err != nil && mayWait(err) && r.table.Load() != table {
		// All it was offered to may have been replaced meanwhile, and refused it.
		res, err = r.once(ctx, req)
	}
	if err != nil && mayWait(err) {
		res, err = r.wait(ctx, req, err)
	}
	if !req.DryRun {
		r.metrics.observe(ctx, err)
	}
	return res, err
}

// once is Invoke without waiting.
func (r *Router) once(ctx context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
	f, v, err := r.resolve(req)
	if err != nil {
		return controlplane.InvokeResult{}, err
	}
	if req.DryRun {
		return controlplane.InvokeResult{Executed: v.Qualifier}, nil
	}
	if !f.enter() {
		return controlplane.InvokeResult{}, &controlplane.ThrottledError{Reason: controlplane.ThrottleReserved, RetryAfter: defaultRetryAfter}
	}
	defer f.leave()
	res, err := r.run(ctx, v, req)
	if err == nil || !mayWait(err) {
		f.queue.wake() // it had a slot, which is free now
	}
	return res, err
}

// run runs an invocation in an environment of the version.
func (r *Router) run(ctx context.Context, v *Version, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, v.Timeout+answerMargin, errors.New("the agent did not answer in time"))
	defer cancel()
	res, err := r.try(ctx, v, req)
	res.Executed = v.Qualifier
	return res, err
}

// try offers the invocation to one environment after the other, the least
// loaded first.
func (r *Router) try(ctx context.Context, v *Version, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
	var refusals tally
	var store [maxAttempts]controlplane.EnvironmentID
	tried := store[:0]
	for len(tried) < maxAttempts {
		e := v.leastLoaded(tried)
		if e == nil {
			break
		}
		tried = append(tried, e.Environment)
		e.inFlight.Add(1)
		res, err := r.caller.Call(ctx, *e, req, v.Timeout)
		e.inFlight.Add(-1)
		if err == nil {
			return res, nil
		}
		var refused *RefusedError
		if !errors.As(err, &refused) {
			return res, err
		}
		if ctx.Err() != nil {
			return res, context.Cause(ctx)
		}
		refusals.add(refused)
	}
	return controlplane.InvokeResult{}, refusals.throttled()
}

// leastLoaded returns the endpoint with the smallest share of its slots taken,
// as far as this router knows, that was not tried yet; nil if there is none.
// Equals take turns.
func (v *Version) leastLoaded(tried []controlplane.EnvironmentID) *Endpoint {
	n := len(v.Endpoints)
	if n == 0 {
		return nil
	}
	first := int(v.turn.Add(1) % uint64(n)) //nolint:gosec // below n, which is an int
	var best *Endpoint
	var bestLoad int64
	for i := range n {
		e := &v.Endpoints[(first+i)%n]
		if slices.Contains(tried, e.Environment) {
			continue
		}
		// Compare in-flight/limit without dividing.
		load := e.inFlight.Load()
		if best == nil || load*int64(best.Limit) < bestLoad*int64(e.Limit) {
			best, bestLoad = e, load
		}
	}
	return best
}
