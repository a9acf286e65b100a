// Package runtimeapi speaks the Lambda Runtime API with the runtime of one
// execution environment: it hands out events on /next and takes the answers.
// No other package knows that API.
//
// # Model
//
// An [API] has as many slots as the environment may run invocations at once. A
// slot is taken when an invocation is admitted and freed when the runtime
// answers it, not when its caller stops waiting: a timed-out invocation still
// occupies its runtime. Whether a /next is pending says nothing about slots.
//
//	Invoke ──admitted──► waiting ──/next──► running ──answer, exit──► done
//	                        └──no /next within the grace──► refused
//
// # Invariants
//
//  1. An invocation that is refused was not and will not be handed to a runtime.
//  2. An invocation is handed to a runtime at most once.
//  3. Never more invocations run than there are slots.
//  4. A caller that leaves, or a deadline that passes, disturbs neither the
//     runtime nor any other invocation; the late answer is accepted with 202,
//     because a runtime client may exit on any other status, and discarded.
//  5. Answers of all environments take no more memory than they share, but for
//     64 KiB a slot: a larger one is not received before there is room for it.
//
// # Concurrency
//
// All methods may be called from anywhere. Environments share nothing. The one
// mutex guards the table of running invocations and is held for moments.
//
// # Failure
//
// When the process exits, everything running is answered at once with
// Runtime.ExitError and everything waiting is refused.
package runtimeapi

import (
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
	"github.com/hearth-compute/hearth/metrics"
)

const (
	// MaxResponse is the largest answer a runtime may give.
	MaxResponse = 6<<20 + 100
	// LeastAnswers is what the largest answer takes of [Config].Answers when its
	// size is not known beforehand.
	LeastAnswers = 2 * MaxResponse
	// smallAnswer is the largest answer that is not counted: each slot has one.
	smallAnswer = 64 << 10
	// maxError is the largest error document a runtime may post.
	maxError = 1 << 20
	// maxHeader leaves room for an X-Ray cause of 1 MiB, which clients send in
	// a header.
	maxHeader = 1<<20 + 64<<10
	// maxIdle is how many /next may be pending at once, as on AWS.
	maxIdle = 10_000
	// maxReports is how many reports of a failed initialisation are read at once.
	maxReports = 4
	// defaultGrace is how long an admitted invocation waits for a /next.
	defaultGrace = 100 * time.Millisecond
	// headerTimeout and bodyTimeout bound how long a client may take to send.
	headerTimeout = 10 * time.Second
	bodyTimeout   = 60 * time.Second
)

// Config describes one environment to its API.
type Config struct {
	// Environment is used in logs and errors.
	Environment agent.EnvironmentID
	// Function is what extensions are told.
	Function Function
	// Concurrency is the number of slots, at least 1.
	Concurrency int
	// CPU is the environment's quota; 0 means that CPU time limits nothing.
	CPU agent.MilliCPU
	// PerInvoke is how much memory an invocation of the function was learned to
	// take before; 0 means not known.
	PerInvoke agent.Bytes
	// Unlimited switches off every limit but Concurrency.
	Unlimited bool
	// Worn, if set, is told when what Replace returns has changed. It must not
	// block.
	Worn func()
	// Grace is how long an admitted invocation waits for a pending /next before
	// it is refused; zero means 100 ms.
	Grace time.Duration
	// TimedOut, if set, is called when an invocation was answered because its
	// deadline passed while the runtime had it.
	TimedOut func()
	// Answers is where large answers get the memory they are received into, from
	// what all environments share: they wait for it. Nil means without bound. A
	// [golang.org/x/sync/semaphore.Weighted] is one; it must have [LeastAnswers].
	Answers Memory
	// StreamRate is how many bytes a second a streamed answer may have after its
	// first 6 MiB; zero means without bound.
	StreamRate agent.Bytes
	// Telemetry is where extensions subscribe and events go; nil for none.
	Telemetry *telemetry.Hub
	// Logs is told what runs and gathers tails; nil for none.
	Logs Logs
	// Traces makes the spans in which the function has an invocation; nil makes
	// none.
	Traces *metrics.Traces
	// ActiveTracing gives the function an X-Ray header of its own.
	ActiveTracing bool
	// Log is required.
	Log *slog.Logger
}

// Memory is a number of bytes to share.
type Memory interface {
	// Acquire waits for n bytes until ctx ends.
	Acquire(ctx context.Context, n int64) error
	// Release gives n bytes back.
	Release(n int64)
}

// API is the Runtime API of one environment. Make it with New.
type API struct {
	sampling rate

	cfg Config
	governed

	// ready is closed once the runtime has asked for its first invocation and every
	// extension for its first event, failed by the first /init/error of any of them,
	// gone when a process has exited.
	ready, failed, gone chan struct{}

	isReady, draining atomic.Bool
	inFlight, peak    atomic.Int64
	// reports has a place for each report of a failed initialisation being read.
	reports chan struct{}
	// buffers are for answers that do not say how long they are: *[]byte, each of
	// MaxResponse+1 bytes.
	buffers sync.Pool
	// small and large are what connections read into: []byte of startBuffer and of
	// maxBuffer.
	small, large sync.Pool
	// settled is nudged when nothing but overrun slots may be left.
	settled chan struct{}

	extensions extensions

	mu      sync.Mutex // guards the fields below
	running map[string]*invocation
	// pollers are the pending /next, waiting the invocations that wait for one; the
	// first of each comes first. One of them is always empty.
	pollers, waiting list.List
	initError        InitError
	hasFailed        bool
	hasExited        bool

	// credentials is set before Serve, or nil.
	credentials *Credentials
}

// InitError is what a runtime or an extension said about its failed
// initialisation.
type InitError struct{ Type, Message string }

// New returns the API of an environment whose process has not asked for
// anything yet.
func New(cfg Config) *API {
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	a := &API{
		cfg:     cfg,
		ready:   make(chan struct{}),
		failed:  make(chan struct{}),
		gone:    make(chan struct{}),
		reports: make(chan struct{}, maxReports),
		settled: make(chan struct{}, 1),
		running: map[string]*invocation{},

		extensions: newExtensions(),
	}
	a.govern(cfg)
	return a
}

// Ready is closed once the runtime has asked for its first invocation and every
// extension for its first event.
func (a *API) Ready() <-chan struct{} { return a.ready }

// Failed is closed once the runtime or an extension has reported a failed
// initialisation.
func (a *API) Failed() <-chan struct{} { return a.failed }

// InitError returns what was reported, after Failed is closed.
func (a *API) InitError() InitError {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.initError
}

// SetDraining makes the API refuse, or stop refusing, new invocations.
func (a *API) SetDraining(draining bool) { a.draining.Store(draining) }

// InFlight is how many slots are taken.
func (a *API) InFlight() int { return int(a.inFlight.Load()) }

// Peak is the most slots that were ever taken at once.
func (a *API) Peak() int { return int(a.peak.Load()) }

// Settle waits until no slot is taken, but by code that ran past its deadline, or
// ctx ends. Only one caller may wait at a time.
func (a *API) Settle(ctx context.Context) error {
	for a.inFlight.Load() > a.overrun.Load() {
		select {
		case <-a.settled:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d invokes of %s: %w", a.InFlight(), a.cfg.Environment, context.Cause(ctx))
		}
	}
	return nil
}

// Exited answers everything that runs with the error document AWS gives when
// a process exits, and refuses everything else from now on. The first call
// counts.
func (a *API) Exited(exit Exit) {
	a.mu.Lock()
	if a.hasExited {
		a.mu.Unlock()
		return
	}
	a.hasExited = true
	lost := a.running
	a.running = map[string]*invocation{}
	close(a.gone)
	a.mu.Unlock()
	a.dropPolls()
	for id, x := range lost {
		a.endsSlot(x)
		a.release()
		out := failed(exit.Type(), exit.document(id))
		out.Duration = time.Since(x.handed)
		if x.stream != nil {
			x.stream.finish(out)
			continue
		}
		x.done <- out
	}
}

// admit takes a slot if the verdict is to admit.
func (a *API) admit() agent.Verdict {
	load := admit.Load{Ready: a.isReady.Load(), Draining: a.draining.Load()}
	for {
		n := a.inFlight.Load()
		load.InFlight = int(n)
		verdict := admit.Decide(load, *a.limits.Load())
		if !verdict.Admitted {
			verdict.RetryAfter = time.Duration(a.retryAfter.Load())
			a.count(verdict.Reason)
			return verdict
		}
		if a.inFlight.CompareAndSwap(n, n+1) {
			raise(&a.peak, n+1)
			raise(&a.recent, n+1)
			return verdict
		}
	}
}

// raise makes the most at least n.
func raise(most *atomic.Int64, n int64) {
	for {
		old := most.Load()
		if n <= old || most.CompareAndSwap(old, n) {
			return
		}
	}
}

// release frees a slot.
func (a *API) release() {
	if a.inFlight.Add(-1) <= a.overrun.Load() {
		a.nudgeSettled()
	}
}
