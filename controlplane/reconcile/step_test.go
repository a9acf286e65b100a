package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/fleet/fake"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

// quiet are agents of whom nothing is heard, or what said has.
type quiet struct{ said []sessions.Heard }

func (q *quiet) Heard() []sessions.Heard                               { return q.said }
func (*quiet) Desire(controlplane.InstanceID, controlplane.DesiredSet) {}
func (*quiet) Forget(controlplane.InstanceID)                          {}
func (*quiet) Swap(*router.Table)                                      {}
func (*quiet) Mint(context.Context, controlplane.ProviderName, controlplane.InstanceID, time.Duration, time.Time) (string, time.Time, error) {
	return "token", time.Time{}, nil
}

// stepper returns a loop that the test steps by hand, with the active provider
// "p" in its store.
func stepper(t *testing.T, cloud fleet.Cloud, said ...sessions.Heard) *Loop {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hearth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	m, err := NewMetrics(noop.NewMeterProvider().Meter(""))
	if err != nil {
		t.Fatal(err)
	}
	policy := DefaultPolicy()
	policy.MaxInstances = 8
	policy.Capacity.Size = controlplane.Resources{CPU: 2000, Memory: 8 << 30}
	q := &quiet{said: said}
	l := New(Config{
		DB: db, Agents: q, Fleet: cloud, Tokens: q, Router: q,
		Image:  func(string) (controlplane.Image, bool) { return controlplane.Image{}, true },
		Policy: policy, Logger: slog.New(slog.DiscardHandler), Metrics: m,
	})
	put(t, l, func(w store.Writer) error {
		return w.PutProvider(controlplane.CapacityProvider{
			Name: "p", State: controlplane.ProviderActive, Zones: []controlplane.Zone{"a"}, MaxVCPU: 400,
		})
	})
	return l
}

func put(t *testing.T, l *Loop, fn func(store.Writer) error) {
	t.Helper()
	if err := l.cfg.DB.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func instances(t *testing.T, l *Loop) []controlplane.Instance {
	t.Helper()
	var all []controlplane.Instance
	err := l.cfg.DB.View(t.Context(), func(r store.Reader) (err error) {
		all, err = r.Instances()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func published(w store.Writer) error {
	if err := w.PutFunction(controlplane.Function{Name: "f", Provider: "p"}); err != nil {
		return err
	}
	return w.PutVersion(controlplane.Version{
		Function: "f", Provider: "p", Qualifier: "1", Revision: "r", State: controlplane.VersionPending,
		Config: controlplane.Config{MemoryMB: 2048, TimeoutS: 3}, Applied: controlplane.ScalingConfig{Min: 3},
	})
}

// After hearth up --keep-data every instance is gone and its record is not.
func TestAnInstanceTheFleetDoesNotHaveIsForgotten(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := stepper(t, fake.New(fake.Config{}), sessions.Heard{Instance: "i-heard", Connected: true, At: now, Reported: true})
	put(t, l, func(w store.Writer) error {
		for _, id := range []controlplane.InstanceID{"i-gone", "i-heard"} {
			if err := w.PutInstance(controlplane.Instance{ID: id, Provider: "p", Fleet: "fake", State: controlplane.InstanceRunning}); err != nil {
				return err
			}
		}
		return w.PutInstance(controlplane.Instance{ID: "i-other", Provider: "p", Fleet: "static", State: controlplane.InstanceRunning})
	})
	if err := l.step(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, in := range instances(t, l) {
		left = append(left, string(in.ID))
	}
	if got, want := strings.Join(left, " "), "i-heard i-other"; got != want {
		t.Errorf("instances %q are left, want %q: those that are heard or another fleet's", got, want)
	}
}

func TestADrainIsNotLostToAnInstanceThatJoins(t *testing.T) {
	t.Parallel()
	l := stepper(t, fake.New(fake.Config{}))
	launching := controlplane.Instance{ID: "i-1", Provider: "p", Fleet: "fake", State: controlplane.InstanceLaunching}
	put(t, l, func(w store.Writer) error { return w.PutInstance(launching) })
	// A step saw it join; before it commits, an operator drains it.
	joined := launching
	joined.State = controlplane.InstanceRunning
	gone := joined
	gone.ID = "i-gone"
	ch := changes{instances: []controlplane.Instance{joined, gone}}
	if err := l.DrainInstance(expired(t), "i-1"); err != nil {
		t.Fatal(err)
	}
	put(t, l, ch.write)
	all := instances(t, l)
	if len(all) != 1 || all[0].State != controlplane.InstanceDraining {
		t.Errorf("got %+v, want one instance that drains", all)
	}
}

// expired is a context under which Changed, which waits for a running loop,
// returns soon.
func expired(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("no loop runs"))
	t.Cleanup(cancel)
	return ctx
}

func TestALackOfCapacityIsNotAskedForAtFullSpeed(t *testing.T) {
	t.Parallel()
	cloud := fake.New(fake.Config{})
	cloud.FailZone("a", fleet.ErrCapacity)
	l := stepper(t, cloud)
	put(t, l, published)
	if err := l.step(t.Context(), time.Now()); err == nil {
		t.Fatal("the step says nothing of the launch that failed")
	}
	if len(l.nudge) != 0 {
		t.Error("the next step follows at once, and every one after it")
	}
	if all := instances(t, l); len(all) != 0 {
		t.Errorf("instances %v that were not launched are kept", all)
	}
}

func TestAPanicOfADeciderCostsOneProviderOneStep(t *testing.T) {
	t.Parallel()
	l := stepper(t, fake.New(fake.Config{}))
	put(t, l, published)
	w, err := l.observe(t.Context(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sound := l.snapshots(w)[0]
	broken := sound
	broken.Provider.Name = "broken"
	broken.Versions = append(broken.Versions[:0:0], broken.Versions...)
	broken.Versions[0].Scaling = &controlplane.ScalingConfig{Min: -1} // no API writes it
	l.cfg.Policy.MaxInstances = -1
	p, err := l.decide([]controlplane.Snapshot{broken, sound}, time.Now())
	if !errdefs.IsInternal(err) || !strings.Contains(err.Error(), "broken") {
		t.Errorf("got error %v, want Internal that names the provider", err)
	}
	if len(p.actions) == 0 {
		t.Error("the other provider was not decided")
	}
}

func TestAnIdleInstanceThatGetsAnEnvironmentStays(t *testing.T) {
	t.Parallel()
	l := stepper(t, fake.New(fake.Config{}))
	put(t, l, published)
	now := time.Now()
	w, err := l.observe(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	s := l.snapshots(w)[0]
	s.Instances = []controlplane.Instance{{
		ID: "i-idle", Zone: "a", State: controlplane.InstanceRunning, Size: l.cfg.Policy.Capacity.Size,
		Observed: &controlplane.InstanceObservation{
			Connected: true, Allocatable: l.cfg.Policy.Capacity.Size, HeardAt: now, EmptySince: now.Add(-l.cfg.Policy.Capacity.IdleAfter),
		},
	}}
	p, err := l.decide([]controlplane.Snapshot{s}, now)
	if err != nil {
		t.Fatal(err)
	}
	started := 0
	for _, a := range p.actions {
		switch a := a.(type) {
		case controlplane.StartEnvironment:
			started++
		case controlplane.TerminateInstance:
			t.Errorf("the instance is terminated (%s) while environments start on it", a.Reason)
		case controlplane.StopEnvironment, controlplane.LaunchInstance:
		}
	}
	if started == 0 {
		t.Error("no environment was placed on the idle instance")
	}
}

func TestWhatAnAgentHasNotSaidYetIsUnknown(t *testing.T) {
	t.Parallel()
	p := &placed{Placement: controlplane.Placement{Instance: "i-1", Draining: true, Assignment: controlplane.Assignment{Environment: "e-1"}}}
	ready := map[statusKey]controlplane.EnvironmentStatus{{"i-1", "e-1"}: {State: controlplane.EnvironmentReady}}
	other := map[statusKey]controlplane.EnvironmentStatus{{"i-2", "e-1"}: {State: controlplane.EnvironmentReady}}
	for _, c := range []struct {
		name     string
		h        sessions.Heard
		statuses map[statusKey]controlplane.EnvironmentStatus
		want     controlplane.EnvironmentState
	}{
		// Pending and draining would be removed at once, with the invokes it runs.
		{"connected, no report yet", sessions.Heard{Connected: true}, nil, controlplane.EnvironmentUnknown},
		{"not connected", sessions.Heard{Reported: true}, ready, controlplane.EnvironmentUnknown},
		{"reported", sessions.Heard{Connected: true, Reported: true}, ready, controlplane.EnvironmentReady},
		{"reported without it", sessions.Heard{Connected: true, Reported: true}, nil, controlplane.EnvironmentPending},
		{"claimed by another instance", sessions.Heard{Connected: true, Reported: true}, other, controlplane.EnvironmentPending},
	} {
		if got := environment(p, "p", c.h, c.statuses).State; got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

// TestOnlyWhatAnEarlierProcessMaySayIsTakenOver: an agent cannot make itself the
// holder of other providers' code by saying that it was told to run it.
func TestOnlyWhatAnEarlierProcessMaySayIsTakenOver(t *testing.T) {
	t.Parallel()
	now := time.Now()
	claim := func(id controlplane.EnvironmentID, function controlplane.FunctionName, sha string) controlplane.Placement {
		return controlplane.Placement{Assignment: controlplane.Assignment{
			Environment: id, Function: function, Qualifier: "1",
			Publication: controlplane.Publication{Revision: "r", Code: controlplane.Code{SHA256: sha}},
		}}
	}
	l := stepper(t, fake.New(fake.Config{}), sessions.Heard{
		Instance: "i-1", Connected: true, At: now, Reported: true, Zone: "a",
		Accepted: controlplane.DesiredSet{Environments: []controlplane.Placement{
			claim("e-ours", "f", ""), claim("e-other-code", "f", "00ff"), claim("e-other-provider", "g", ""), claim("e-unknown", "h", "00ff"),
		}},
	})
	put(t, l, func(w store.Writer) error {
		return errors.Join(published(w),
			w.PutFunction(controlplane.Function{Name: "g", Provider: "q"}),
			w.PutVersion(controlplane.Version{Function: "g", Provider: "q", Qualifier: "1", Revision: "r", State: controlplane.VersionPending}),
			w.PutInstance(controlplane.Instance{ID: "i-1", Provider: "p", Zone: "a", Fleet: "fake", State: controlplane.InstanceRunning}))
	})
	if err := l.step(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	for _, id := range []controlplane.EnvironmentID{"e-other-code", "e-other-provider", "e-unknown"} {
		if l.placed[id] != nil {
			t.Errorf("%s was taken over", id)
		}
	}
	if l.placed["e-ours"] == nil {
		t.Error("e-ours was not taken over")
	}
}
