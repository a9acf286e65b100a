package reconcile

import (
	"testing"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet/fake"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
)

var threeInstances = []controlplane.InstanceID{"i-a", "i-b", "i-c"}

// threeReady returns a loop that has seen for long, with an environment ready on
// each of three instances, and what their agents say.
func threeReady(t *testing.T, now time.Time) (*Loop, []sessions.Heard) {
	t.Helper()
	l := stepper(t, fake.New(fake.Config{}))
	l.seesSince, l.lastStep = now.Add(-time.Hour), now
	put(t, l, published)
	put(t, l, func(w store.Writer) error {
		p, err := w.Provider("p")
		if err != nil {
			return err
		}
		p.Zones = []controlplane.Zone{"a", "b", "c"}
		return w.PutProvider(p)
	})
	heard := make([]sessions.Heard, 0, len(threeInstances))
	for n, id := range threeInstances {
		zone := controlplane.Zone("abc"[n : n+1])
		put(t, l, func(w store.Writer) error {
			return w.PutInstance(controlplane.Instance{
				ID: id, Provider: "p", Zone: zone, State: controlplane.InstanceRunning, Size: l.cfg.Policy.Capacity.Size, Fleet: "fake",
			})
		})
		env := controlplane.EnvironmentID("e-" + id)
		l.placed[env] = &placed{at: now.Add(-time.Hour), Placement: controlplane.Placement{
			Instance: id, Assignment: controlplane.Assignment{
				Environment: env, Function: "f", Qualifier: "1",
				Publication: controlplane.Publication{Revision: "r", Config: controlplane.Config{MemoryMB: 2048, TimeoutS: 3}},
			},
		}}
		l.bookOf(id).emptySince = time.Time{}
		heard = append(heard, sessions.Heard{
			Instance: id, Provider: "p", Zone: zone, Connected: true, Reported: true, At: now, Allocatable: l.cfg.Policy.Capacity.Size,
			Environments: []controlplane.EnvironmentStatus{{ID: env, Revision: "r", State: controlplane.EnvironmentReady, MaxConcurrency: 1}},
		})
	}
	return l, heard
}

// look decides once at a moment, and returns also what may be invoked.
func look(t *testing.T, l *Loop, now time.Time, heard []sessions.Heard) (actions []controlplane.Action, endpoints int) {
	t.Helper()
	l.cfg.Agents = &quiet{said: heard}
	w, err := l.observe(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	snaps := l.snapshots(w)
	p, err := l.decide(snaps, now)
	if err != nil {
		t.Fatal(err)
	}
	return p.actions, len(table(w, snaps).Functions["f"].Versions["1"].Endpoints)
}

// silenced is heard with n agents that ended their sessions at a moment.
func silenced(heard []sessions.Heard, n int, at time.Time) []sessions.Heard {
	out := make([]sessions.Heard, len(heard))
	for i, h := range heard {
		h.At = at
		h.Connected = i >= n
		out[i] = h
	}
	return out
}

func TestMostAgentsSilentAtOnceIsTakenForOurOwnFault(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l, heard := threeReady(t, now)
	if actions, _ := look(t, l, now, heard); len(actions) != 0 {
		t.Fatalf("all is well, and yet %v is decided", actions)
	}
	lost := now.Add(l.cfg.Policy.Placement.LostAfter + time.Second)
	for range 2 { // deciding again changes nothing
		if actions, _ := look(t, l, lost, silenced(heard, 2, now)); len(actions) != 0 {
			t.Errorf("two of three are silent: decided %v, want nothing", actions)
		}
	}
	if actions, _ := look(t, l, lost.Add(l.cfg.Policy.DeafGrace+time.Second), silenced(heard, 2, now)); len(actions) == 0 {
		t.Error("two of three stay silent beyond the grace: nothing is decided")
	}
	// Once they are back the grace begins anew.
	if actions, _ := look(t, l, lost, heard); len(actions) != 0 {
		t.Errorf("all are back: decided %v", actions)
	}
	if actions, _ := look(t, l, lost, silenced(heard, 3, now)); len(actions) != 0 {
		t.Errorf("all are silent: decided %v, want nothing", actions)
	}
}

func TestOneSilentAgentOfThreeIsReplacedSoon(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l, heard := threeReady(t, now)
	at := now.Add(l.cfg.Policy.Placement.LostAfter - time.Second)
	if actions, _ := look(t, l, at, silenced(heard, 1, now)); len(actions) != 0 {
		t.Errorf("decided %v before the agent counts as lost", actions)
	}
	actions, _ := look(t, l, at.Add(2*time.Second), silenced(heard, 1, now))
	if len(actions) != 1 {
		t.Fatalf("decided %v, want one action", actions)
	}
	if launch, ok := actions[0].(controlplane.LaunchInstance); !ok || launch.Zone != "a" {
		t.Errorf("decided %v, want an instance in the zone of the lost one", actions[0])
	}
}

func TestAfterAPauseOfThisProcessAgentsAreWaitedFor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l, heard := threeReady(t, now)
	later := now.Add(30 * time.Second)
	l.wake(later)
	if actions, _ := look(t, l, later, silenced(heard, 1, now)); len(actions) != 0 {
		t.Errorf("decided %v at once after a pause, want nothing", actions)
	}
	l.lastStep = later
	later = later.Add(l.cfg.Policy.BlindGrace + time.Second)
	l.lastStep = later.Add(-time.Second)
	l.wake(later)
	if actions, _ := look(t, l, later, silenced(heard, 1, now)); len(actions) == 0 {
		t.Error("the agent did not come back after the pause: nothing is decided")
	}
}

func TestInvokesGoElsewhereWhenAnAgentSaysNothing(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l, heard := threeReady(t, now)
	later := now.Add(quietAfter + time.Second)
	for i := range heard[1:] {
		heard[i+1].At = later
	}
	if actions, endpoints := look(t, l, later, heard); endpoints != 2 || len(actions) != 0 {
		t.Errorf("one of three says nothing, though its session is open: %d endpoints and %v, want 2 and nothing decided", endpoints, actions)
	}
	for i := range heard {
		heard[i].At = now
	}
	if _, endpoints := look(t, l, later, heard); endpoints != 3 {
		t.Errorf("none says anything: %d endpoints, want all 3", endpoints)
	}
}

// The clocks of hosts are not ours, and may jump.
func TestADrainIsTimedByOurClockAlone(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, jump := range []time.Duration{-time.Hour, 0, time.Hour} {
		l, heard := threeReady(t, now)
		put(t, l, func(w store.Writer) error { // what drains is of no version any more
			return w.DeleteVersion("f", "1")
		})
		p := l.placed["e-i-a"]
		p.Draining, p.drainingSince = true, now
		delete(l.placed, "e-i-b")
		delete(l.placed, "e-i-c")
		st := &heard[0].Environments[0]
		st.State, st.Heat.InFlight, st.SinceUnixMilli = controlplane.EnvironmentDraining, 1, now.Add(jump).UnixMilli()
		stops := func(at time.Time) (n int) {
			t.Helper()
			for i := range heard {
				heard[i].At = at
			}
			l.cfg.Agents = &quiet{said: heard}
			w, err := l.observe(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			p, err := l.decide(l.snapshots(w), at)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range p.actions {
				if _, ok := a.(controlplane.StopEnvironment); ok {
					n++
				}
			}
			return n
		}
		if n := stops(now.Add(10 * time.Minute)); n != 0 {
			t.Errorf("clock off by %v: a draining environment with an invoke was ended after 10 minutes", jump)
		}
		if n := stops(now.Add(16 * time.Minute)); n != 1 {
			t.Errorf("clock off by %v: %d ended after 16 minutes, want the one", jump, n)
		}
	}
}

// A wall clock that jumps, on a system where time.Now has no monotonic part,
// would look like this.
func TestAClockThatJumpsAnHourMovesNothing(t *testing.T) {
	t.Parallel()
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		now := time.Now().Round(0)
		l, heard := threeReady(t, now)
		for _, at := range []time.Time{now, now.Add(jump), now.Add(jump + time.Second), now.Add(time.Second)} {
			l.wake(at)
			actions, endpoints := look(t, l, at, heard)
			if len(actions) != 0 || endpoints != 3 {
				t.Errorf("%v after a jump of %v: decided %v with %d endpoints, want nothing and 3", at.Sub(now), jump, actions, endpoints)
			}
			l.lastStep = at
		}
	}
}

// TestALaunchIsTimedByThisProcess and not by when a clock that jumped since says
// it was asked for.
func TestALaunchIsTimedByThisProcess(t *testing.T) {
	t.Parallel()
	for _, jump := range []time.Duration{time.Hour, -time.Hour} {
		now := time.Now()
		l := stepper(t, fake.New(fake.Config{}))
		l.seesSince = now.Add(-time.Hour)
		put(t, l, func(w store.Writer) error {
			return w.PutInstance(controlplane.Instance{
				ID: "i-1", Provider: "p", Zone: "a", Fleet: "fake", State: controlplane.InstanceLaunching, CreatedAt: now.Add(-jump),
			})
		})
		terminated := func(at time.Time) (n int) {
			t.Helper()
			w, err := l.observe(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			p, err := l.decide(l.snapshots(w), at)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range p.actions {
				if _, ok := a.(controlplane.TerminateInstance); ok {
					n++
				}
			}
			return n
		}
		patience := l.cfg.Policy.Capacity.LaunchPatience
		if n := terminated(now); n != 0 {
			t.Errorf("asked for %v ago by a clock that jumped: given up at once", jump)
		}
		if n := terminated(now.Add(patience - time.Second)); n != 0 {
			t.Errorf("jump of %v: given up before its time", jump)
		}
		if n := terminated(now.Add(patience + time.Second)); n != 1 {
			t.Errorf("jump of %v: not given up after %v", jump, patience)
		}
	}
}
