// Package reconcile is the loop that makes what runs match what users asked
// for: snapshot → scaling → placement → capacity → commit → act, once a second
// and whenever something changed.
//
// # Model
//
// The store holds intent; agents say what is. Where environments are placed is
// neither: it lives in this loop's memory and in the agents, each of which
// keeps its last desired set. A new process takes those over before it decides.
//
// # Invariants
//
//  1. Nothing is decided for a capacity provider while instances it should
//     have were not heard of since this process began or was paused, nor while
//     most of them are silent at once, until a grace has passed: blind is not
//     empty.
//  2. Instances and version states are committed before they are acted upon.
//  3. An agent that was not heard in this process gets no desired set.
//
// # Failure
//
// A crash between commit and act is repaired by the next step: launches and
// terminations are repeated until the fleet shows their effect, desired sets
// are sent whole.
package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/capacity"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/placement"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// Agents is what the loop needs of the sessions.
type Agents interface {
	Heard() []sessions.Heard
	Desire(id controlplane.InstanceID, set controlplane.DesiredSet)
	Forget(id controlplane.InstanceID)
}

// Minter makes join tokens for instances we launch.
type Minter interface {
	Mint(ctx context.Context, p controlplane.ProviderName, id controlplane.InstanceID, lifetime time.Duration, now time.Time) (string, time.Time, error)
}

// Swapper takes the routing table.
type Swapper interface{ Swap(t *router.Table) }

// Policy is the loop's numbers. DefaultPolicy has good ones.
type Policy struct {
	// Interval between steps when nothing happens.
	Interval time.Duration
	// BlindGrace is how long after the start instances may stay unheard before
	// decisions go on without them.
	BlindGrace time.Duration
	// DeafGrace is how long more than half of a provider's agents, and at least
	// two, may be silent before decisions go on without them.
	DeafGrace time.Duration
	// MaxInstances of the fleet over all providers; negative means no limit.
	MaxInstances int
	// FailAfter is how many starts in a row may fail before a version that
	// never ran is Failed.
	FailAfter int
	// TokenLifetime of the join tokens of launched instances.
	TokenLifetime time.Duration
	Placement     placement.Policy
	Capacity      capacity.Policy
}

// DefaultPolicy returns the policy used unless told otherwise.
func DefaultPolicy() Policy {
	const launchPatience = 5 * time.Minute
	return Policy{
		Interval:      time.Second,
		BlindGrace:    15 * time.Second,
		DeafGrace:     time.Minute,
		MaxInstances:  -1,
		FailAfter:     3,
		TokenLifetime: time.Hour,
		Placement:     placement.Policy{LostAfter: 10 * time.Second, LaunchPatience: launchPatience, DrainLimit: 30 * time.Second},
		Capacity:      capacity.Policy{IdleAfter: 5 * time.Minute, LaunchPatience: launchPatience},
	}
}

// Config is what a Loop needs.
type Config struct {
	DB     store.DB
	Agents Agents
	Fleet  fleet.Cloud
	Tokens Minter
	Router Swapper
	// Image returns the image a runtime's zip functions run on.
	Image   func(runtime string) (controlplane.Image, bool)
	Policy  Policy
	Logger  *slog.Logger
	Metrics *Metrics
}

// Loop is the one that decides. Use New, then Run.
type Loop struct {
	cfg   Config
	log   *slog.Logger
	nudge chan struct{} // capacity 1: "something changed", never data
	last  atomic.Pointer[[]controlplane.Snapshot]
	ready atomic.Bool

	// mu guards waiters.
	mu      sync.Mutex
	waiters []chan struct{}

	// What follows belongs to the goroutine of Run.

	epoch uint64
	// seesSince is when this process began to see, or last did after a pause.
	seesSince time.Time
	// lastStep is when the last step ended.
	lastStep time.Time
	// deafSince is when most agents of a provider fell silent.
	deafSince map[controlplane.ProviderName]time.Time
	// placed is every environment that should exist, by id.
	placed map[controlplane.EnvironmentID]*placed
	// known has when each instance was first seen.
	known map[controlplane.InstanceID]time.Time
	// books has what was sent to each instance.
	books map[controlplane.InstanceID]*book
}

// placed is one environment that should exist.
type placed struct {
	controlplane.Placement
	at time.Time
	// drainingSince is when this process knew that it drains.
	drainingSince time.Time
}

// book is what the loop remembers of one instance.
type book struct {
	generation uint64
	// intent holds until the agent accepted generation intentAt.
	intent   controlplane.StopIntent
	intentAt uint64
	// dirty says that placements changed since the last set.
	dirty      bool
	emptySince time.Time
}

// New returns a loop that works once Run is called.
func New(cfg Config) *Loop {
	l := &Loop{
		cfg: cfg, log: cfg.Logger, nudge: make(chan struct{}, 1),
		placed: map[controlplane.EnvironmentID]*placed{},
		books:  map[controlplane.InstanceID]*book{},

		deafSince: map[controlplane.ProviderName]time.Time{},
		known:     map[controlplane.InstanceID]time.Time{},
	}
	l.last.Store(&[]controlplane.Snapshot{})
	return l
}

// Run works until ctx is cancelled. It fails if it cannot begin a leadership
// term.
func (l *Loop) Run(ctx context.Context) error {
	err := l.cfg.DB.Update(ctx, func(w store.Writer) error {
		var err error
		l.epoch, err = w.NextEpoch()
		return err
	})
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	l.seesSince = time.Now()
	tick := time.NewTicker(l.cfg.Policy.Interval)
	defer tick.Stop()
	for {
		waiting := l.takeWaiters()
		begin := time.Now()
		l.wake(begin)
		err := l.step(ctx, begin)
		l.lastStep = time.Now()
		l.cfg.Metrics.step(ctx, time.Since(begin), err)
		if err != nil && ctx.Err() == nil {
			l.log.WarnContext(ctx, "reconcile step failed", "err", err)
		}
		if err == nil {
			l.ready.Store(true)
		}
		for _, w := range waiting {
			close(w)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-l.nudge:
		}
	}
}

// Nudge asks for a step soon. It never blocks.
func (l *Loop) Nudge() {
	select {
	case l.nudge <- struct{}{}:
	default:
	}
}

// Changed asks for a step and waits until one that began after the call is
// done, so that what was written before is in the routing table; or until ctx
// is done. It waits changedLimit at most: a fleet that is slow to answer, or a
// loop that stopped, must not hold an API call.
func (l *Loop) Changed(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, changedLimit, errSlowStep)
	defer cancel()
	w := make(chan struct{})
	l.mu.Lock()
	l.waiters = append(l.waiters, w)
	l.mu.Unlock()
	l.Nudge()
	select {
	case <-w:
	case <-ctx.Done():
	}
}

func (l *Loop) takeWaiters() []chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.waiters
	l.waiters = nil
	return w
}

// Snapshots returns what the last step saw, ordered by provider.
func (l *Loop) Snapshots(context.Context) ([]controlplane.Snapshot, error) {
	return *l.last.Load(), nil
}

// changedLimit bounds the wait of Changed.
const changedLimit = 2 * time.Second

var errSlowStep = errors.New("the reconcile step took too long")

// Ready tells whether a step has succeeded, so that the routing table is filled.
func (l *Loop) Ready() bool { return l.ready.Load() }

// DrainInstance durably marks an instance to be emptied. Errors: NotFound.
func (l *Loop) DrainInstance(ctx context.Context, id controlplane.InstanceID) error {
	return l.setState(ctx, id, controlplane.InstanceDraining)
}

// UndrainInstance durably lets an instance take environments again. What was
// told to drain already goes on doing so. Errors: NotFound.
func (l *Loop) UndrainInstance(ctx context.Context, id controlplane.InstanceID) error {
	return l.setState(ctx, id, controlplane.InstanceRunning)
}

// setState moves an instance between running and draining.
func (l *Loop) setState(ctx context.Context, id controlplane.InstanceID, to controlplane.InstanceState) error {
	err := l.cfg.DB.Update(ctx, func(w store.Writer) error {
		in, err := w.Instance(id)
		if err != nil {
			return err
		}
		undrain := to == controlplane.InstanceRunning
		if in.State == controlplane.InstanceTerminating || undrain && in.State != controlplane.InstanceDraining {
			return nil // it is on its way out, or has nothing to be undone
		}
		in.State = to
		return w.PutInstance(in)
	})
	if err == nil {
		l.Changed(ctx)
	}
	return err
}

func (l *Loop) bookOf(id controlplane.InstanceID) *book {
	b := l.books[id]
	if b == nil {
		b = &book{}
		l.books[id] = b
	}
	return b
}
