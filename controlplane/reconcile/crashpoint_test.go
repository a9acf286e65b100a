package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// effects counts what loops do to the world and says which of them is the last
// thing a process does.
type effects struct {
	mu    sync.Mutex
	count int
	// crashAt is the number of the effect that ends the process: just before it,
	// or just after it if after is set. 0 means never.
	crashAt int
	after   bool
	what    string
	crashed chan struct{}
}

var errDead = fmt.Errorf("this process is dead: %w", errdefs.ErrUnavailable)

// mortal is one process's way to everything outside it. Once it is dead nothing
// it does has an effect.
type mortal struct {
	rig     *rig
	effects *effects

	mu   sync.Mutex
	dead bool
}

// effect does something to the world, unless the process died before.
func (m *mortal) effect(what string, do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	e := m.effects
	e.mu.Lock()
	e.count++
	dies := e.count == e.crashAt
	if dies {
		e.what = what
	}
	e.mu.Unlock()
	if dies {
		m.dead = true
		defer close(e.crashed)
		if !e.after {
			return errDead
		}
	}
	if err := do(); err != nil || !dies {
		return err
	}
	return errDead // it never hears of it
}

func (m *mortal) alive() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	return nil
}

func (m *mortal) View(ctx context.Context, fn func(store.Reader) error) error {
	if err := m.alive(); err != nil {
		return err
	}
	return m.rig.db.View(ctx, fn)
}

func (m *mortal) Update(ctx context.Context, fn func(store.Writer) error) error {
	return m.effect("commit", func() error { return m.rig.db.Update(ctx, fn) })
}

func (*mortal) Close() error { return nil }

func (m *mortal) Heard() []sessions.Heard { return m.rig.agents.Heard() }

func (m *mortal) Desire(id controlplane.InstanceID, set controlplane.DesiredSet) {
	_ = m.effect("desired set", func() error {
		m.rig.agents.Desire(id, set)
		return nil
	})
}

func (m *mortal) Forget(id controlplane.InstanceID) {
	_ = m.effect("forget", func() error {
		m.rig.agents.Forget(id)
		return nil
	})
}

func (m *mortal) Swap(t *router.Table) {
	if m.alive() == nil {
		m.rig.routes.Swap(t)
	}
}

func (m *mortal) Name() string { return m.rig.cloud.Name() }

func (m *mortal) Launch(ctx context.Context, req fleet.LaunchRequest) error {
	return m.effect("launch", func() error { return m.rig.cloud.Launch(ctx, req) })
}

func (m *mortal) List(ctx context.Context) ([]controlplane.InstanceID, error) {
	if err := m.alive(); err != nil {
		return nil, err
	}
	return m.rig.cloud.List(ctx)
}

func (m *mortal) Terminate(ctx context.Context, id controlplane.InstanceID) error {
	return m.effect("terminate", func() error { return m.rig.cloud.Terminate(ctx, id) })
}

// write changes intent as the API would, and does not wait for the loop, which
// may be dead.
func (r *rig) write(fn func(store.Writer) error) {
	r.t.Helper()
	if err := r.db.Update(r.t.Context(), fn); err != nil {
		r.t.Fatal(err)
	}
	r.loop.Nudge()
}

// life takes a function through its whole life, with a new process started
// whenever one has died, and returns how many effects that took.
func life(r *rig, crashAt int, after bool) (count int, what string) {
	e := &effects{crashAt: crashAt, after: after, crashed: make(chan struct{})}
	r.eventually("a first step", r.loop.Ready)
	r.poll = 50 * time.Millisecond
	r.stop()
	r.mortal = func() *mortal { return &mortal{rig: r, effects: e} }
	r.start()
	goal := func(what string, ok func() bool) {
		r.t.Helper()
		r.eventually(what, func() bool {
			select {
			case <-e.crashed:
				r.stop()
				e.crashed = make(chan struct{})
				r.start()
			default:
			}
			return ok()
		})
	}
	r.write(func(w store.Writer) error {
		v := controlplane.Version{
			Function: "f", Provider: "p", Qualifier: controlplane.LatestPublished, Revision: "r1",
			Config: controlplane.Config{MemoryMB: 2048, TimeoutS: 3, PackageType: "Zip"}, State: controlplane.VersionPending,
		}
		p := controlplane.CapacityProvider{Name: "p", State: controlplane.ProviderPending, Zones: []controlplane.Zone{"a", "b", "c"}, MaxVCPU: 400}
		return errors.Join(w.PutProvider(p), w.PutFunction(controlplane.Function{Name: "f", Provider: "p", ARN: "arn:f"}), w.PutVersion(v))
	})
	goal("Active", r.state(controlplane.VersionActive))
	goal("routes", func() bool { v := r.routes.version(); return v != nil && len(v.Endpoints) == 3 })
	r.watch(controlplane.LatestPublished, 3)
	r.write(func(w store.Writer) error {
		v, err := w.Version("f", controlplane.LatestPublished)
		serving := v.Publication()
		v.Revision, v.Update, v.Serving = "r2", controlplane.UpdateInProgress, &serving
		return errors.Join(err, w.PutVersion(v))
	})
	goal("the roll", func() bool {
		return r.version().Update == controlplane.UpdateSuccessful && equal(r.agents.running(), spread("r2", "a", "b", "c"))
	})
	before := r.agents.ids()
	r.write(func(w store.Writer) error {
		p, err := w.Provider("p")
		p.OperatorRoleARN = "other"
		return errors.Join(err, w.PutProvider(p))
	})
	goal("other instances", func() bool {
		after := r.agents.ids()
		kept := slices.ContainsFunc(before, func(id controlplane.InstanceID) bool { return slices.Contains(after, id) })
		return len(after) == 3 && !kept && equal(r.agents.running(), spread("r2", "a", "b", "c"))
	})
	r.unwatch()
	r.write(func(w store.Writer) error {
		f, err := w.Function("f")
		f.Deleting = true
		v, verr := w.Version("f", controlplane.LatestPublished)
		v.State = controlplane.VersionDeleting
		p, perr := w.Provider("p")
		p.State = controlplane.ProviderDeleting
		return errors.Join(err, verr, perr, w.PutFunction(f), w.PutVersion(v), w.PutProvider(p))
	})
	goal("nothing left", r.empty)
	return e.count, e.what
}

// empty tells whether the store and the cloud have nothing left.
func (r *rig) empty() bool {
	r.t.Helper()
	left := 0
	err := r.db.View(r.t.Context(), func(rd store.Reader) error {
		p, err := rd.Providers()
		f, ferr := rd.Functions()
		v, verr := rd.Versions("")
		in, ierr := rd.Instances()
		left = len(p) + len(f) + len(v) + len(in)
		return errors.Join(err, ferr, verr, ierr)
	})
	exist, lerr := r.cloud.List(r.t.Context())
	if err := errors.Join(err, lerr); err != nil {
		r.t.Fatal(err)
	}
	return left+len(exist) == 0
}

// TestACrashAtAnyPointIsAReplay ends the process at each thing it does to the
// world, before and after it, through a function's whole life: what serves goes
// on serving, the goal is reached all the same and nothing is left over.
func TestACrashAtAnyPointIsAReplay(t *testing.T) {
	t.Parallel()
	total := 0
	bubble(t, func(r *rig) { total, _ = life(r, 0, false) })
	if total < 20 {
		t.Fatalf("only %d effects in a whole life", total)
	}
	seen := map[string]bool{}
	// The race detector makes this slow and is asked about the loop, not about
	// every point: it gets some.
	for at := 1; at <= total; at += crashStride {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d after=%t", at, after), func(t *testing.T) {
				bubble(t, func(r *rig) {
					_, what := life(r, at, after)
					seen[what] = true
				})
			})
		}
	}
	for _, what := range []string{"commit", "desired set", "launch", "terminate", "forget"} {
		if !seen[what] && crashStride == 1 {
			t.Errorf("no process died at %s", what)
		}
	}
}
