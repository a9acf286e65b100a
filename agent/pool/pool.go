// Package pool makes the desired set of environments so: it starts sandboxes,
// waits for their runtimes, replaces what ends and removes what is not wanted.
//
// # Model
//
// An environment has incarnations: sandboxes that serve it one after the other,
// and two at once while one replaces the other. [Decide] says what to do about
// them; the pool does it and looks again.
//
//	starting ──first /next──► ready ──retired, exited──► ending ──► (gone)
//	   └────init error, init timeout, exit, retired────────┘
//
// Inside the sandbox the init process runs a runtime and, before it and beside
// it, the extensions. It tells of every exit over a link ([sandbox.Link]); the
// end of any of them ends the incarnation.
//
// # Invariants
//
//  1. An incarnation that was adopted from an earlier agent process is ended
//     only after a fresh one is ready, unless it ended by itself or is not
//     wanted.
//  2. An environment that is draining or not wanted never starts anything.
//  3. A set that is older than the accepted one, or stops several environments
//     and more than half of them without saying why, changes nothing.
//  4. Stopping the pool leaves every sandbox as it is.
//
// # Concurrency
//
// One mutex guards the whole state; it is never held across a call to the
// sandbox driver, the code cache or a runtime. Each incarnation has one
// goroutine that owns its life from creation to removal, so environments do not
// wait for each other, except for one of a few slots while a sandbox is created.
//
// # Failure
//
// Nothing is kept but sandboxes with their labels and metadata. A new process
// adopts those that run and removes those that do not, with or without a control
// service.
package pool

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
	"github.com/hearth-compute/hearth/metrics"
	"github.com/hearth-compute/hearth/sandbox"
)

const (
	// firstBackoff doubles with every start until lastBackoff.
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 30 * time.Second
	// steady is how long an incarnation must have been ready for its end not to
	// count as one more in a row.
	steady = 30 * time.Second
	// lastWords is how long a runtime that has failed may take to exit before it is
	// made to.
	lastWords = 500 * time.Millisecond
	// fetchLimit bounds the download of an image and of code.
	fetchLimit = 10 * time.Minute
	// createLimit bounds what containerd may take to create and start a sandbox.
	createLimit = time.Minute
	// defaultStarts is how many sandboxes are created at once.
	defaultStarts = 4
)

// CodeCache provides unpacked code; agent/code has the real one.
type CodeCache interface {
	// Acquire returns the directory of the unpacked archive and holds it until
	// release is called.
	Acquire(ctx context.Context, code agent.Code) (dir string, release func(), err error)
	// Hold is Acquire for an archive that is already there.
	Hold(sha256 string) (release func(), ok bool)
	// AcquireLayers is Acquire for layers, at least one: the directory has the
	// files of all, later ones hiding earlier ones.
	AcquireLayers(ctx context.Context, layers []agent.Code) (dir string, release func(), err error)
	// HoldLayers is AcquireLayers for layers that are already there.
	HoldLayers(layers []agent.Code) (release func(), ok bool)
}

// Config is what a pool needs. All fields are required unless they say so.
type Config struct {
	Runtime sandbox.Runtime
	Code    CodeCache
	Output  *Output
	// Encode and Decode translate an assignment to and from the bytes that are
	// kept with its sandbox.
	Encode func(agent.Assignment) ([]byte, error)
	Decode func([]byte) (agent.Assignment, error)
	// Publish is told which API serves which environment, whenever that changes.
	// It must not block or call back.
	Publish func(map[agent.EnvironmentID]*runtimeapi.API)
	// Changed is told when the report would look different. It must not block or
	// call back. Optional.
	Changed func()
	// Credentials adds the host's credentials for an image's registry. Optional.
	Credentials func(agent.Image) (agent.Image, error)
	// Roles has the credentials of execution roles; nil means that functions get
	// none.
	Roles Roles
	// Region is what functions see as AWS_REGION.
	Region string
	// Answers is the memory that all environments receive large answers into; nil
	// means any.
	Answers runtimeapi.Memory
	// StreamRate is how many bytes a second a streamed answer may have after its
	// first 6 MiB; 0 means no limit.
	StreamRate agent.Bytes
	// Unlimited admits up to the configured concurrency, whatever CPU, memory and
	// disk say.
	Unlimited bool
	// Crowded says that the instance has no memory to spare. Optional.
	Crowded func() bool
	// Traces makes spans; nil makes none.
	Traces *metrics.Traces
	// Starts is how many sandboxes are created at once; zero means 4.
	Starts int
	Log    *slog.Logger
}

// Pool runs environments. Make it with New.
type Pool struct {
	cfg Config
	// nudge says that something changed.
	nudge chan struct{}
	// starts holds a token for each sandbox being created.
	starts chan struct{}
	// adopted is closed once what an earlier process left is known.
	adopted chan struct{}

	mu           sync.Mutex // guards the fields below
	environments map[agent.EnvironmentID]*environment
	sandboxes    map[sandbox.ID]*incarnation
	accepted     agent.DesiredSet
	hasSet       bool
	refused      string
	forgotten    agent.Refusals // of environments that are gone
}

// environment is one assignment. The mutex of the pool guards it.
type environment struct {
	assignment       agent.Assignment
	wanted, draining bool
	incarnations     []*incarnation
	retryAt          time.Time
	// attempts counts starts in a row that came to nothing; failures those of
	// them that never became ready, since the blame changed between the function
	// and the host.
	attempts, failures int
	code, reason       string
	state              agent.EnvironmentState
	since              time.Time
	sandbox            sandbox.ID
	// refused counts what incarnations that are gone refused, perInvoke is what
	// the last of them learned.
	refused   agent.Refusals
	perInvoke agent.Bytes
}

// incarnation is one sandbox. Its goroutine owns it; the fields below the line
// are guarded by the mutex of the pool.
type incarnation struct {
	id         sandbox.ID
	assignment agent.Assignment
	adopted    bool
	api        *runtimeapi.API
	telemetry  *telemetry.Hub
	// logStream is the name of its log stream, once it is prepared.
	logStream string
	// token lets its function read its role's credentials; empty when it gets
	// none, or when an earlier agent process made it.
	token string
	// retire ends the wait for whatever the incarnation waits for.
	retire context.CancelCauseFunc
	// link leads to its init process.
	link supervision
	// extensionEnv is the environment of its extensions, set before it starts.
	extensionEnv []string
	// runtimeRuns says that the runtime was started, as far as its goroutine knows.
	runtimeRuns bool
	// fallen is closed when the first of its processes has ended, after exit is set,
	// exited when all have and the sandbox has stopped.
	fallen, exited chan struct{}

	phase     Phase
	readyAt   time.Time
	exit      runtimeapi.Exit
	hasFallen bool
	hasExited bool
	// sandboxExit is how the sandbox stopped, once it has.
	sandboxExit sandbox.Exit
	// failed says that it ends because something in it went wrong.
	failed          bool
	created         bool
	cgroup, tmpPath string
}

// New returns a pool that runs nothing yet.
func New(cfg Config) *Pool {
	if cfg.Starts == 0 {
		cfg.Starts = defaultStarts
	}
	if cfg.Crowded == nil {
		cfg.Crowded = func() bool { return false }
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	return &Pool{
		cfg:          cfg,
		nudge:        make(chan struct{}, 1),
		starts:       make(chan struct{}, cfg.Starts), // one place per token
		adopted:      make(chan struct{}),
		environments: map[agent.EnvironmentID]*environment{},
		sandboxes:    map[sandbox.ID]*incarnation{},
	}
}

// Adopted is closed once Run knows what an earlier process left. Before that
// nobody should be told what the instance runs, nor a set be applied: it would
// look as if the instance were empty.
func (p *Pool) Adopted() <-chan struct{} { return p.adopted }

// Apply makes set what should run, unless [Check] refuses it.
func (p *Pool) Apply(set agent.DesiredSet) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.cfg.Changed()
	if err := Check(p.accepted.Epoch, p.accepted.Generation, p.runningLocked(), set); err != nil {
		p.refused = err.Error()
		return err
	}
	p.accepted, p.hasSet, p.refused = set, true, ""
	for _, e := range p.environments {
		e.wanted = false
	}
	for _, d := range set.Environments {
		e := p.environmentLocked(d.Assignment)
		e.wanted, e.draining = true, d.Draining
	}
	p.updateLocked(time.Now())
	return nil
}

// environmentLocked returns the entry of an assignment, new if need be.
func (p *Pool) environmentLocked(a agent.Assignment) *environment {
	e := p.environments[a.Environment]
	if e == nil {
		e = &environment{assignment: a}
		p.environments[a.Environment] = e
	}
	return e
}

func (p *Pool) runningLocked() []Running {
	var running []Running
	for id, e := range p.environments {
		if e.wanted {
			running = append(running, Running{Environment: id, Draining: e.draining})
		}
	}
	return running
}

// Run adopts what an earlier process left and works until ctx is cancelled.
// Sandboxes are left running.
func (p *Pool) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	if !p.adopt(ctx, &workers) {
		return nil // asked to stop before containerd answered
	}
	close(p.adopted)
	workers.Go(func() { p.watch(ctx) })
	for {
		wake := p.step(ctx, &workers)
		var timer <-chan time.Time
		if !wake.IsZero() {
			timer = time.After(time.Until(wake))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer:
		case <-p.nudge:
		}
	}
}

// step decides and acts once and returns when to do so again at the latest.
func (p *Pool) step(ctx context.Context, workers *sync.WaitGroup) time.Time {
	actions, wake := p.act(ctx, workers)
	for _, a := range actions {
		p.cfg.Log.InfoContext(ctx, "environment action", "verb", string(a.Verb), "environment", string(a.Environment),
			"sandbox", string(a.Sandbox), "reason", a.Reason)
	}
	return wake
}

func (p *Pool) act(ctx context.Context, workers *sync.WaitGroup) ([]Action, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	actions, wake := Decide(p.viewsLocked(), now)
	for _, a := range actions {
		switch a.Verb {
		case VerbStart:
			in, life := p.incarnateLocked(ctx, newSandboxID(a.Environment), p.environments[a.Environment].assignment)
			workers.Go(func() { p.live(ctx, life, in) })
		case VerbRetire:
			in := p.sandboxes[a.Sandbox]
			in.phase = PhaseEnding
			in.retire(errRetired)
		case VerbForget:
			p.forgetLocked(a.Environment)
		}
	}
	if len(actions) > 0 {
		p.updateLocked(now)
	}
	return actions, wake
}

func (p *Pool) viewsLocked() []View {
	views := make([]View, 0, len(p.environments))
	for id, e := range p.environments {
		v := View{Environment: id, Wanted: e.wanted, Draining: e.draining, RetryAt: e.retryAt, Crowded: p.cfg.Crowded()}
		for _, in := range e.incarnations {
			v.Incarnations = append(v.Incarnations, Incarnation{Sandbox: in.id, Phase: in.phase, Adopted: in.adopted, Worn: string(in.api.Replace())})
		}
		views = append(views, v)
	}
	return views
}

// updateLocked recomputes what follows from the state: who serves, what each
// environment reports. It wakes the loop and whoever reports.
func (p *Pool) updateLocked(now time.Time) {
	table := make(map[agent.EnvironmentID]*runtimeapi.API, len(p.environments))
	for id, e := range p.environments {
		for _, in := range e.incarnations {
			in.api.SetDraining(e.draining || in.phase == PhaseEnding)
		}
		if in := e.serving(); in != nil {
			table[id] = in.api
		}
		if state := e.currentState(); state != e.state {
			e.state, e.since = state, now
		}
	}
	p.cfg.Publish(table)
	p.cfg.Changed()
	p.wake()
}

// wake has the loop look again.
func (p *Pool) wake() {
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}

// serving is the incarnation that takes invocations: the newest that is ready.
func (e *environment) serving() *incarnation {
	var best *incarnation
	for _, in := range e.incarnations {
		if in.phase == PhaseReady && (best == nil || !in.adopted || best.adopted) {
			best = in
		}
	}
	return best
}

// currentState is what the environment reports.
func (e *environment) currentState() agent.EnvironmentState {
	starting := false
	for _, in := range e.incarnations {
		starting = starting || in.phase == PhaseStarting && in.created
	}
	switch {
	case e.draining || !e.wanted:
		return agent.StateDraining
	case e.serving() != nil:
		return agent.StateReady
	case e.failures > 0:
		return agent.StateFailed
	case starting:
		return agent.StateStarting
	}
	return agent.StatePending
}
