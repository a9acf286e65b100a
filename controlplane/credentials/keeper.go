// Package credentials keeps a session of every execution role that functions
// need, and renews it in time.
//
// # Model
//
// A [Keeper] is told which roles are needed, by what instances should run. It
// assumes each, keeps the session in memory, and assumes the role anew at half
// of the session's life, give or take a tenth. Roles nobody needs any more are
// forgotten.
//
// # Failure
//
// A role that cannot be assumed is tried again after 1 s, doubled with each
// failure up to a minute. Until it succeeds, or the session ends, the last
// session stays in use. Nothing is kept on disk: a restart assumes all roles
// anew.
package credentials

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-compute/hearth/controlplane"
)

const (
	// firstBackoff doubles with every failure of a role until lastBackoff.
	firstBackoff = time.Second
	lastBackoff  = time.Minute
	// assumeLimit bounds one attempt, atOnce how many there are at once.
	assumeLimit = 10 * time.Second
	atOnce      = 8
	// lookAgain is how long the keeper sleeps when there is nothing to renew.
	lookAgain = time.Minute
	// leastLife keeps a service whose sessions live moments from being asked
	// without pause.
	leastLife = time.Second
)

var (
	errTooSlow = errdefs.ErrUnavailable.WithMessage("assuming the role took too long")
	errEnded   = errdefs.ErrUnavailable.WithMessage("the session has ended already: this clock is not that of the service")
)

// Assumer begins sessions of roles.
type Assumer interface {
	// Assume returns a new session of a role, which is known under a name to those
	// who look for who did what.
	Assume(ctx context.Context, role, session string) (controlplane.RoleCredentials, error)
}

// Config is what a Keeper needs.
type Config struct {
	Assumer Assumer
	// Needed returns the roles that are needed now and a name for the session of
	// each.
	Needed func() map[string]string
	// Changed is called when a role has a new session. It must not block.
	Changed func()
	Metrics *Metrics
	Logger  *slog.Logger
}

// Keeper has the sessions of roles. Use New, then Run.
type Keeper struct {
	cfg Config
	// nudge says that other roles may be needed; capacity 1: a fact, not data.
	nudge chan struct{}

	mu    sync.Mutex // guards roles and what they point to
	roles map[string]*role
}

// role is what is known of one.
type role struct {
	current controlplane.RoleCredentials
	// due is when to assume it next.
	due      time.Time
	failures int
}

// New returns a keeper that knows no role.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, nudge: make(chan struct{}, 1), roles: map[string]*role{}}
}

// Get returns the session of a role, if there is one that has not ended.
func (k *Keeper) Get(arn string) (controlplane.RoleCredentials, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.roles[arn]
	if r == nil || !time.Now().Before(r.current.ExpiresAt) {
		return controlplane.RoleCredentials{}, false
	}
	return r.current, true
}

// Nudge makes the keeper look soon at which roles are needed. It never blocks.
func (k *Keeper) Nudge() {
	select {
	case k.nudge <- struct{}{}:
	default:
	}
}

// Run keeps sessions until ctx is cancelled, then returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		k.renew(ctx)
		timer := time.NewTimer(k.wait(time.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-k.nudge:
			timer.Stop()
		}
	}
}

// wait is how long until a role is due.
func (k *Keeper) wait(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := now.Add(lookAgain)
	for _, r := range k.roles {
		if r.due.Before(next) {
			next = r.due
		}
	}
	return next.Sub(now)
}

// renew assumes every role that is due.
func (k *Keeper) renew(ctx context.Context) {
	needed := k.cfg.Needed()
	var attempts errgroup.Group
	attempts.SetLimit(atOnce)
	for _, arn := range k.dueRoles(needed, time.Now()) {
		attempts.Go(func() error {
			k.assume(ctx, arn, needed[arn])
			return nil
		})
	}
	_ = attempts.Wait()
}

// dueRoles forgets roles that are not needed and returns those to assume now.
func (k *Keeper) dueRoles(needed map[string]string, now time.Time) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.roles, func(arn string, _ *role) bool {
		_, ok := needed[arn]
		return !ok
	})
	var due []string
	for _, arn := range slices.Sorted(maps.Keys(needed)) {
		r := k.roles[arn]
		if r == nil {
			r = &role{}
			k.roles[arn] = r
		}
		if !now.Before(r.due) {
			due = append(due, arn)
		}
	}
	return due
}

// assume tries once to begin a session of a role.
func (k *Keeper) assume(ctx context.Context, arn, session string) {
	limited, cancel := context.WithTimeoutCause(ctx, assumeLimit, errTooSlow)
	defer cancel()
	got, err := k.cfg.Assumer.Assume(limited, arn, session)
	if ctx.Err() != nil {
		return // asked to stop
	}
	if err == nil && !time.Now().Before(got.ExpiresAt) {
		err = fmt.Errorf("assuming %s: %w", arn, errEnded)
	}
	k.cfg.Metrics.assumed(ctx, err)
	switch wait, failures := k.record(arn, got, err, time.Now()); {
	case err != nil:
		k.cfg.Logger.WarnContext(ctx, "role could not be assumed", "role", arn, "failures", failures, "retry_in", wait.String(), "err", err)
	default:
		k.cfg.Logger.DebugContext(ctx, "role assumed", "role", arn, "expires_at", got.ExpiresAt)
		k.cfg.Changed()
	}
}

// record keeps what came of an attempt and says when the next one is.
func (k *Keeper) record(arn string, got controlplane.RoleCredentials, err error, now time.Time) (wait time.Duration, failures int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.roles[arn]
	if err != nil {
		wait = min(firstBackoff<<min(r.failures, 16), lastBackoff)
		wait = wait/2 + rand.N(wait/2+1) //nolint:gosec // jitter
		r.failures++
	} else {
		r.current, r.failures = got, 0
		life := max(got.ExpiresAt.Sub(now), leastLife)
		wait = life*2/5 + rand.N(life/5) //nolint:gosec // jitter: half of it, give or take a tenth
	}
	r.due = now.Add(wait)
	return wait, r.failures
}
