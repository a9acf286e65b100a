package reconcile_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/fleet/fake"
	"github.com/hearth-compute/hearth/controlplane/reconcile"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

// agents are the agents of a fleet: each makes its desired set so at once,
// unless told to fail.
type agents struct {
	mu      sync.Mutex
	present map[controlplane.InstanceID]*sessions.Heard
	sets    map[controlplane.InstanceID]controlplane.DesiredSet
	notify  func()
	// fail makes every environment of a revision fail to start.
	fail map[controlplane.Revision]string
}

func newAgents() *agents {
	return &agents{
		present: map[controlplane.InstanceID]*sessions.Heard{}, sets: map[controlplane.InstanceID]controlplane.DesiredSet{},
		fail: map[controlplane.Revision]string{}, notify: func() {},
	}
}

// tell makes f hear of every change.
func (a *agents) tell(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notify = f
}

func (a *agents) changed() {
	a.mu.Lock()
	f := a.notify
	a.mu.Unlock()
	f()
}

func (a *agents) boot(req fleet.LaunchRequest) {
	a.mu.Lock()
	a.present[req.Instance] = &sessions.Heard{
		Instance: req.Instance, Provider: req.Provider, Zone: req.Zone, Allocatable: req.Size,
		Connected: true, At: time.Now(), Reported: true,
	}
	a.mu.Unlock()
	a.changed()
}

func (a *agents) Heard() []sessions.Heard {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []sessions.Heard
	for _, h := range a.present {
		if h.Connected {
			h.At = time.Now()
		}
		out = append(out, *h)
	}
	return out
}

func (a *agents) Desire(id controlplane.InstanceID, set controlplane.DesiredSet) {
	a.mu.Lock()
	a.sets[id] = set
	a.apply(id)
	a.mu.Unlock()
	a.changed()
}

// apply makes the set so. mu is held.
func (a *agents) apply(id controlplane.InstanceID) {
	h, set := a.present[id], a.sets[id]
	if h == nil {
		return
	}
	h.Accepted, h.Epoch, h.Generation, h.Refused = set, set.Epoch, set.Generation, ""
	h.Environments = nil
	for _, p := range set.Environments {
		st := controlplane.EnvironmentStatus{ID: p.Assignment.Environment, Revision: p.Assignment.Revision, State: controlplane.EnvironmentReady}
		if why := a.fail[p.Assignment.Revision]; why != "" {
			st.State, st.Failures, st.ReasonCode, st.Reason = controlplane.EnvironmentFailed, 3, why, "it printed: boom"
		}
		if p.Draining {
			st.State = controlplane.EnvironmentDraining
		}
		h.Environments = append(h.Environments, st)
	}
}

func (a *agents) Forget(id controlplane.InstanceID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.present, id)
	delete(a.sets, id)
}

func (a *agents) connect(id controlplane.InstanceID, yes bool) {
	a.mu.Lock()
	a.present[id].Connected = yes
	a.mu.Unlock()
	a.changed()
}

func (a *agents) ids() []controlplane.InstanceID {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []controlplane.InstanceID
	for id := range a.present {
		out = append(out, id)
	}
	return slices.SortedFunc(slices.Values(out), cmp.Compare)
}

// running counts what should run, by zone and revision.
func (a *agents) running() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]int{}
	for id, set := range a.sets {
		for _, p := range set.Environments {
			if h := a.present[id]; h != nil && !p.Draining {
				out[fmt.Sprintf("%s %s", h.Zone, p.Assignment.Revision)]++
			}
		}
	}
	return out
}

// tokens mints nothing worth keeping.
type tokens struct{}

func (tokens) Mint(context.Context, controlplane.ProviderName, controlplane.InstanceID, time.Duration, time.Time) (string, time.Time, error) {
	return "token", time.Time{}, nil
}

// tables keeps the last routing table.
type tables struct {
	mu   sync.Mutex
	last *router.Table
	// check, if set, looks at every table.
	check func(*router.Table)
}

func (t *tables) Swap(n *router.Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = n
	if t.check != nil {
		t.check(n)
	}
}

func (t *tables) version() *router.Version {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil || t.last.Functions["f"] == nil {
		return nil
	}
	return t.last.Functions["f"].Versions[controlplane.LatestPublished]
}

// rig is a control plane whose agents and cloud are fakes.
type rig struct {
	t      *testing.T
	db     store.DB
	cloud  *fake.Cloud
	agents *agents
	routes *tables
	loop   *reconcile.Loop
	stop   func()
	// mortal, if set, stands between a loop and everything else.
	mortal func() *mortal
	// poll is how often eventually looks.
	poll time.Duration
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(r *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { test(newRig(t, dir)) })
}

func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	r := &rig{t: t, agents: newAgents(), routes: &tables{}, poll: 2 * time.Millisecond}
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "hearth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	r.db = db
	r.cloud = fake.New(fake.Config{OnBoot: r.agents.boot, OnGone: r.agents.Forget})
	ctx, cancel := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.cloud.Run(ctx) })
	t.Cleanup(func() { cancel(errors.New("end of test")); wg.Wait() })
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

// start runs a new loop over the same store, cloud and agents.
func (r *rig) start() {
	r.t.Helper()
	m, err := reconcile.NewMetrics(noop.NewMeterProvider().Meter(""))
	if err != nil {
		r.t.Fatal(err)
	}
	policy := reconcile.DefaultPolicy()
	policy.Interval = 5 * r.poll
	policy.BlindGrace = 500 * time.Millisecond
	policy.MaxInstances = 8
	policy.Placement.LostAfter = 200 * time.Millisecond
	policy.Capacity.Size = controlplane.Resources{CPU: 2000, Memory: 8 << 30}
	policy.Capacity.IdleAfter = 100 * time.Millisecond
	cfg := reconcile.Config{
		DB: r.db, Agents: r.agents, Fleet: r.cloud, Tokens: tokens{}, Router: r.routes,
		Image:  func(string) (controlplane.Image, bool) { return controlplane.Image{Ref: "builtin:static"}, true },
		Policy: policy, Logger: slog.New(slog.DiscardHandler), Metrics: m,
	}
	if r.mortal != nil {
		m := r.mortal()
		cfg.DB, cfg.Agents, cfg.Fleet, cfg.Router = m, m, m, m
	}
	loop := reconcile.New(cfg)
	r.agents.tell(loop.Nudge)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	r.loop = loop
	r.stop = sync.OnceFunc(func() {
		cancel(errors.New("stopped by the test"))
		if err := <-done; err != nil && !errors.Is(err, errDead) {
			r.t.Errorf("loop: %v", err)
		}
	})
}

func (r *rig) update(fn func(store.Writer) error) {
	r.t.Helper()
	if err := r.db.Update(r.t.Context(), fn); err != nil {
		r.t.Fatal(err)
	}
	r.loop.Changed(r.t.Context())
}

func (r *rig) provider(maxVCPU int, zones ...controlplane.Zone) {
	r.t.Helper()
	r.update(func(w store.Writer) error {
		return w.PutProvider(controlplane.CapacityProvider{Name: "p", State: controlplane.ProviderPending, Zones: zones, MaxVCPU: maxVCPU})
	})
}

func (r *rig) publish(rev controlplane.Revision, edit func(*controlplane.Version)) {
	r.t.Helper()
	v := controlplane.Version{
		Function: "f", Provider: "p", Qualifier: controlplane.LatestPublished, Revision: rev, ARN: "arn:f:$LATEST.PUBLISHED",
		Config: controlplane.Config{MemoryMB: 2048, TimeoutS: 3, PackageType: "Zip"}, State: controlplane.VersionPending,
	}
	if edit != nil {
		edit(&v)
	}
	r.update(func(w store.Writer) error {
		if err := w.PutFunction(controlplane.Function{Name: "f", Provider: "p", ARN: "arn:f"}); err != nil {
			return err
		}
		return w.PutVersion(v)
	})
}

func (r *rig) version() controlplane.Version {
	r.t.Helper()
	var v controlplane.Version
	err := r.db.View(r.t.Context(), func(rd store.Reader) error {
		var err error
		v, err = rd.Version("f", controlplane.LatestPublished)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			snaps, _ := r.loop.Snapshots(r.t.Context())
			r.t.Fatalf("%s did not happen; version %+v, running %v, snapshots %+v", what, r.version(), r.agents.running(), snaps)
		}
		time.Sleep(r.poll)
	}
}

func (r *rig) state(s controlplane.VersionState) func() bool {
	return func() bool { return r.version().State == s }
}

func spread(rev string, zones ...string) map[string]int {
	m := map[string]int{}
	for _, z := range zones {
		m[z+" "+rev]++
	}
	return m
}

func equal(a, b map[string]int) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

func TestPublishLaunchesOneInstanceAZoneAndBecomesActive(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a", "b", "c")
		r.publish("r1", nil)
		r.eventually("Active", r.state(controlplane.VersionActive))
		if got, want := r.agents.running(), spread("r1", "a", "b", "c"); !equal(got, want) {
			r.t.Errorf("runs %v, want %v", got, want)
		}
		r.eventually("three routes", func() bool {
			v := r.routes.version()
			return v != nil && v.State == controlplane.VersionActive && len(v.Endpoints) == 3
		})
	})
}

func TestRestartTakesOverWhatRuns(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a", "b", "c")
		r.publish("r1", nil)
		r.eventually("Active", r.state(controlplane.VersionActive))
		before, launches := r.environments(), r.cloud.Launches()
		r.stop()
		r.start()
		r.eventually("routes of the new process", func() bool {
			v := r.routes.version()
			return r.loop.Ready() && v != nil && len(v.Endpoints) == 3
		})
		r.loop.Changed(r.t.Context())
		if after := r.environments(); !slices.Equal(before, after) {
			r.t.Errorf("environments were %v and are %v", before, after)
		}
		if n := r.cloud.Launches(); n != launches {
			r.t.Errorf("%d instances were launched by the restart", n-launches)
		}
	})
}

func (r *rig) environments() []controlplane.EnvironmentID {
	r.agents.mu.Lock()
	defer r.agents.mu.Unlock()
	var ids []controlplane.EnvironmentID
	for _, s := range r.agents.sets {
		for _, p := range s.Environments {
			ids = append(ids, p.Assignment.Environment)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestInvariant1_BlindIsNotEmpty(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a", "b", "c")
		r.publish("r1", nil)
		r.eventually("Active", r.state(controlplane.VersionActive))
		r.stop()
		launches := r.cloud.Launches()
		ids := r.agents.ids()
		for _, id := range ids {
			r.agents.connect(id, false)
		}
		r.start()
		r.eventually("a first step", r.loop.Ready)
		for range 10 { // many steps, none of which may launch
			r.loop.Changed(r.t.Context())
		}
		if n := r.cloud.Launches(); n != launches {
			r.t.Fatalf("%d instances were launched while blind", n-launches)
		}
		for _, id := range ids {
			r.agents.connect(id, true)
		}
		r.eventually("routes", func() bool {
			v := r.routes.version()
			return v != nil && len(v.Endpoints) == 3
		})
		if n := r.cloud.Launches(); n != launches {
			r.t.Errorf("%d instances were launched although all came back", n-launches)
		}
	})
}

func TestALostInstanceIsReplaced(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a", "b", "c")
		r.publish("r1", nil)
		r.eventually("Active", r.state(controlplane.VersionActive))
		lost := r.agents.ids()[0]
		r.agents.connect(lost, false)
		r.eventually("a replacement", func() bool {
			v := r.routes.version()
			return r.cloud.Launches() == 4 && len(v.Endpoints) == 3 &&
				!slices.ContainsFunc(v.Endpoints, func(e router.Endpoint) bool { return e.Instance == lost })
		})
	})
}

func TestRepublishRollsNewFirst(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a", "b", "c")
		r.publish("r1", nil)
		r.eventually("Active", r.state(controlplane.VersionActive))
		r.watch(controlplane.LatestPublished, 3)
		old := r.version()
		serving := old.Publication()
		r.agents.mu.Lock()
		r.agents.fail["r2"] = "FunctionError.RuntimeInitError"
		r.agents.mu.Unlock()
		republish := func(rev controlplane.Revision) {
			r.publish(rev, func(v *controlplane.Version) {
				v.State, v.Update, v.Serving = controlplane.VersionActive, controlplane.UpdateInProgress, &serving
			})
		}
		republish("r2")
		r.eventually("the failed update", func() bool { return r.version().Update == controlplane.UpdateFailed })
		r.eventually("only the old one", func() bool { return equal(r.agents.running(), spread("r1", "a", "b", "c")) })
		if v := r.routes.version(); v.State != controlplane.VersionActive || len(v.Endpoints) != 3 {
			r.t.Errorf("after a failed update the routes are %+v, want the old environments", v)
		}
		republish("r3")
		r.eventually("the update", func() bool {
			v := r.version()
			return v.Update == controlplane.UpdateSuccessful && v.Serving == nil
		})
		r.eventually("only the new one", func() bool { return equal(r.agents.running(), spread("r3", "a", "b", "c")) })
	})
}

func TestAFunctionThatCannotStartFailsWithItsReason(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a")
		r.agents.fail["r1"] = "FunctionError.InvalidEntryPoint"
		r.publish("r1", nil)
		r.eventually("Failed", r.state(controlplane.VersionFailed))
		if v := r.version(); v.ReasonCode != "FunctionError.InvalidEntryPoint" || v.Reason != "it printed: boom" {
			r.t.Errorf("got %s: %q", v.ReasonCode, v.Reason)
		}
		r.eventually("nothing left running", func() bool { return len(r.environments()) == 0 })
	})
}

func TestMaxVCPUFailsThePublishUntilItIsRaised(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(2, "a", "b", "c")
		r.publish("r1", nil)
		r.eventually("Failed", func() bool {
			v := r.version()
			return v.State == controlplane.VersionFailed && v.ReasonCode == "CapacityProviderScalingLimitExceeded"
		})
		r.update(func(w store.Writer) error {
			p, err := w.Provider("p")
			p.MaxVCPU = 400
			return errors.Join(err, w.PutProvider(p))
		})
		r.eventually("Active by itself", r.state(controlplane.VersionActive))
	})
}

func TestDeletionLeavesNothing(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a", "b", "c")
		r.publish("r1", nil)
		r.eventually("Active", r.state(controlplane.VersionActive))
		r.update(func(w store.Writer) error {
			f, err := w.Function("f")
			f.Deleting = true
			v, verr := w.Version("f", controlplane.LatestPublished)
			v.State = controlplane.VersionDeleting
			p, perr := w.Provider("p")
			p.State = controlplane.ProviderDeleting
			return errors.Join(err, verr, perr, w.PutFunction(f), w.PutVersion(v), w.PutProvider(p))
		})
		deadline := time.Now().Add(20 * time.Second)
		for {
			var left int
			err := r.db.View(r.t.Context(), func(rd store.Reader) error {
				p, err := rd.Providers()
				f, ferr := rd.Functions()
				v, verr := rd.Versions("")
				in, ierr := rd.Instances()
				left = len(p) + len(f) + len(v) + len(in)
				return errors.Join(err, ferr, verr, ierr)
			})
			if err != nil {
				r.t.Fatal(err)
			}
			exist, err := r.cloud.List(r.t.Context())
			if err != nil {
				r.t.Fatal(err)
			}
			if left == 0 && len(exist) == 0 {
				return
			}
			if time.Now().After(deadline) {
				r.t.Fatalf("%d rows and instances %v are left", left, exist)
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

func TestDrainMovesEnvironmentsFirst(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a")
		r.publish("r1", func(v *controlplane.Version) { v.Scaling = &controlplane.ScalingConfig{Min: 1} })
		r.eventually("Active", r.state(controlplane.VersionActive))
		old := r.agents.ids()[0]
		if err := r.loop.DrainInstance(r.t.Context(), old); err != nil {
			r.t.Fatal(err)
		}
		r.eventually("the move", func() bool {
			v := r.routes.version()
			return len(v.Endpoints) == 1 && v.Endpoints[0].Instance != old
		})
		r.eventually("the end of the drained instance", func() bool { return !slices.Contains(r.agents.ids(), old) })
		if err := r.loop.UndrainInstance(r.t.Context(), "i-nope"); err == nil {
			r.t.Error("undraining an unknown instance succeeded")
		}
		if err := r.loop.DrainInstance(r.t.Context(), "i-nope"); err == nil {
			r.t.Error("draining an unknown instance succeeded")
		}
	})
}

// TestAnAgentThatRefusesIsToldThatItIsMeant: it refuses a set that
// stops all it runs, until the set says that this is meant.
func TestAnAgentThatRefusesIsToldThatItIsMeant(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a")
		r.publish("r1", func(v *controlplane.Version) { v.Scaling = &controlplane.ScalingConfig{Min: 2} })
		r.eventually("Active", r.state(controlplane.VersionActive))
		id := r.agents.ids()[0]
		r.agents.mu.Lock()
		h := r.agents.present[id]
		h.Refused, h.Epoch, h.Generation = "it stops 2 of 2 environments", 0, 0
		before := r.agents.sets[id]
		r.agents.mu.Unlock()
		r.loop.Nudge()
		r.eventually("a set that says so", func() bool {
			r.agents.mu.Lock()
			defer r.agents.mu.Unlock()
			s := r.agents.sets[id]
			return s.Generation > before.Generation && s.Intent == controlplane.StopDelete && len(s.Environments) == 2
		})
	})
}

// TestLostLaunchRepliesAreRepaired loses the replies of launches, the
// way a crash right after them would.
func TestLostLaunchRepliesAreRepaired(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.cloud.LoseReplies(3)
		r.provider(400, "a", "b", "c")
		r.publish("r1", nil)
		r.eventually("Active", r.state(controlplane.VersionActive))
		exist, err := r.cloud.List(r.t.Context())
		if err != nil || len(exist) != 3 {
			r.t.Errorf("got instances %v, %v; want 3", exist, err)
		}
	})
}

// TestChangedDoesNotWaitForALoopThatStopped, at most its limit.
func TestChangedDoesNotWaitForALoopThatStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		loop := reconcile.New(reconcile.Config{Logger: slog.New(slog.DiscardHandler)})
		began := time.Now()
		loop.Changed(t.Context()) // nothing runs it
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("waited %v, want 2s", d)
		}
	})
}

func TestAnUndrainedInstanceTakesEnvironmentsAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(2, "a") // room for one instance
		r.publish("r1", func(v *controlplane.Version) { v.Scaling = &controlplane.ScalingConfig{Min: 1} })
		r.eventually("Active", r.state(controlplane.VersionActive))
		id := r.agents.ids()[0]
		if err := r.loop.DrainInstance(r.t.Context(), id); err != nil {
			r.t.Fatal(err)
		}
		instanceState := func(want controlplane.InstanceState) func() bool {
			return func() bool {
				snaps, err := r.loop.Snapshots(r.t.Context())
				return err == nil && len(snaps[0].Instances) == 1 && snaps[0].Instances[0].State == want
			}
		}
		r.eventually("draining", instanceState(controlplane.InstanceDraining))
		if err := r.loop.UndrainInstance(r.t.Context(), id); err != nil {
			r.t.Fatal(err)
		}
		r.eventually("running again", instanceState(controlplane.InstanceRunning))
		r.publish("r2", func(v *controlplane.Version) {
			v.Qualifier, v.Scaling = "1", &controlplane.ScalingConfig{Min: 1}
		})
		r.eventually("a second environment on it", func() bool { return r.agents.running()["a r2"] == 1 })
	})
}
