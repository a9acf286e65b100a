package placement_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/placement"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	gib  = controlplane.Bytes(1 << 30)
	vcpu = controlplane.MilliCPU(1000)
)

func policy() placement.Policy {
	return placement.Policy{LostAfter: 10 * time.Second, LaunchPatience: time.Minute, DrainLimit: 30 * time.Second, MayLaunch: true}
}

func instance(id, zone string) controlplane.Instance {
	return controlplane.Instance{
		ID: controlplane.InstanceID(id), Zone: controlplane.Zone(zone), State: controlplane.InstanceRunning,
		Observed: &controlplane.InstanceObservation{
			Connected: true, HeardAt: t0, Allocatable: controlplane.Resources{CPU: 2 * vcpu, Memory: 8 * gib},
		},
	}
}

func env(id, on string, state controlplane.EnvironmentState) controlplane.Environment {
	return controlplane.Environment{
		ID: controlplane.EnvironmentID(id), Function: "f", Qualifier: "1", Revision: "r1",
		Instance: controlplane.InstanceID(on), Size: controlplane.Resources{CPU: vcpu, Memory: 2 * gib}, State: state, Since: t0,
	}
}

func target(n int) controlplane.Target {
	return controlplane.Target{
		Function: "f", Qualifier: "1", Revision: "r1", Count: n,
		Size: controlplane.Resources{CPU: vcpu, Memory: 2 * gib}, Reason: controlplane.ReasonMinimum,
	}
}

func snapshot(zones ...controlplane.Zone) controlplane.Snapshot {
	return controlplane.Snapshot{Provider: controlplane.CapacityProvider{Name: "p", Zones: zones, MaxVCPU: 400}}
}

// summary is a decision in a form that is easy to compare: starts by instance,
// stops by environment with how, unplaced zones.
type summary struct {
	Start    []string
	Drain    []string
	Remove   []string
	Unplaced []string
}

func summarize(d placement.Decision) summary {
	var s summary
	for _, a := range d.Actions {
		switch a := a.(type) {
		case controlplane.StartEnvironment:
			s.Start = append(s.Start, string(a.Instance))
		case controlplane.StopEnvironment:
			if a.Graceful {
				s.Drain = append(s.Drain, string(a.Environment)+" "+string(a.Reason))
			} else {
				s.Remove = append(s.Remove, string(a.Environment)+" "+string(a.Reason))
			}
		}
	}
	for _, u := range d.Unplaced {
		s.Unplaced = append(s.Unplaced, string(u.Zone))
	}
	return s
}

func TestDecide(t *testing.T) {
	t.Parallel()
	silent := func(in controlplane.Instance, since time.Duration) controlplane.Instance {
		in.Observed.Connected, in.Observed.HeardAt = false, t0.Add(-since)
		return in
	}
	draining := func(in controlplane.Instance) controlplane.Instance {
		in.State = controlplane.InstanceDraining
		return in
	}
	drained := func(e controlplane.Environment, inFlight int, since time.Duration) controlplane.Environment {
		e.Draining, e.State, e.Heat.InFlight, e.DrainingSince = true, controlplane.EnvironmentDraining, inFlight, t0.Add(-since)
		return e
	}
	unheard := func(e controlplane.Environment) controlplane.Environment {
		e.Draining, e.State = true, controlplane.EnvironmentUnknown
		return e
	}
	awayFor := func(id string, since time.Duration) controlplane.Instance {
		in := instance(id, "a")
		in.Observed.Connected, in.Observed.HeardAt = false, t0.Add(-since)
		return in
	}
	launching := func(id, zone string, since time.Duration) controlplane.Instance {
		in := instance(id, zone)
		in.State, in.Observed, in.KnownSince = controlplane.InstanceLaunching, nil, t0.Add(-since)
		in.Size = controlplane.Resources{CPU: 2 * vcpu, Memory: 8 * gib}
		return in
	}
	ready := controlplane.EnvironmentReady
	for _, c := range []struct {
		name      string
		instances []controlplane.Instance
		envs      []controlplane.Environment
		targets   []controlplane.Target
		noLaunch  bool
		want      summary
	}{
		{
			name:      "one in every zone",
			instances: []controlplane.Instance{instance("i-1", "a"), instance("i-2", "b"), instance("i-3", "c")},
			targets:   []controlplane.Target{target(3)},
			want:      summary{Start: []string{"i-1", "i-2", "i-3"}},
		},
		{
			name:    "no instance: each zone lacks room",
			targets: []controlplane.Target{target(3)},
			want:    summary{Unplaced: []string{"a", "b", "c"}},
		},
		{
			name:      "the tightest fit in the zone",
			instances: []controlplane.Instance{instance("i-1", "a"), instance("i-2", "a")},
			envs: []controlplane.Environment{func() controlplane.Environment {
				e := env("e-other", "i-2", ready)
				e.Function = "g"
				return e
			}()},
			targets: []controlplane.Target{target(1), {Function: "g", Qualifier: "1", Revision: "r1", Count: 1}},
			want:    summary{Start: []string{"i-2"}},
		},
		{
			name:      "waits for room in the emptiest zone rather than crowding another",
			instances: []controlplane.Instance{instance("i-1", "a")},
			envs:      []controlplane.Environment{env("e-1", "i-1", ready)},
			targets:   []controlplane.Target{target(2)},
			want:      summary{Unplaced: []string{"b"}},
		},
		{
			name: "waits for instances on their way although no more can be launched",
			instances: []controlplane.Instance{
				instance("i-1", "a"), launching("i-2", "b", time.Second), launching("i-3", "c", time.Second),
			},
			targets:  []controlplane.Target{target(3)},
			noLaunch: true,
			want:     summary{Start: []string{"i-1"}, Unplaced: []string{"b", "c"}},
		},
		{
			name:      "but not for ever",
			instances: []controlplane.Instance{instance("i-1", "a"), launching("i-2", "b", time.Hour)},
			targets:   []controlplane.Target{target(2)},
			noLaunch:  true,
			want:      summary{Start: []string{"i-1", "i-1"}},
		},
		{
			name:      "takes any zone when nothing can be launched",
			instances: []controlplane.Instance{instance("i-1", "a")},
			envs:      []controlplane.Environment{env("e-1", "i-1", ready)},
			targets:   []controlplane.Target{target(2)},
			noLaunch:  true,
			want:      summary{Start: []string{"i-1"}},
		},
		{
			name:      "a short silence loses nothing",
			instances: []controlplane.Instance{silent(instance("i-1", "a"), 5*time.Second), instance("i-2", "b")},
			envs:      []controlplane.Environment{env("e-1", "i-1", controlplane.EnvironmentUnknown)},
			targets:   []controlplane.Target{target(1)},
			want:      summary{},
		},
		{
			name:      "a long silence is replaced, in the zone where it counts",
			instances: []controlplane.Instance{silent(instance("i-1", "a"), time.Minute), instance("i-2", "a")},
			envs:      []controlplane.Environment{env("e-1", "i-1", controlplane.EnvironmentUnknown)},
			targets:   []controlplane.Target{target(1)},
			want:      summary{Start: []string{"i-2"}},
		},
		{
			name:      "surplus goes, what is not ready first",
			instances: []controlplane.Instance{instance("i-1", "a"), instance("i-2", "b")},
			envs:      []controlplane.Environment{env("e-1", "i-1", ready), env("e-2", "i-2", controlplane.EnvironmentStarting)},
			targets:   []controlplane.Target{target(1)},
			want:      summary{Remove: []string{"e-2 surplus"}},
		},
		{
			name:      "a deleted version drains",
			instances: []controlplane.Instance{instance("i-1", "a")},
			envs:      []controlplane.Environment{env("e-1", "i-1", ready)},
			want:      summary{Drain: []string{"e-1 gone"}},
		},
		{
			name:      "a draining instance: another first",
			instances: []controlplane.Instance{draining(instance("i-1", "a")), instance("i-2", "a")},
			envs:      []controlplane.Environment{env("e-1", "i-1", ready)},
			targets:   []controlplane.Target{target(1)},
			want:      summary{Start: []string{"i-2"}},
		},
		{
			name:      "a draining instance: what cannot start is not waited for",
			instances: []controlplane.Instance{draining(instance("i-1", "a")), instance("i-2", "a")},
			envs:      []controlplane.Environment{env("e-1", "i-1", controlplane.EnvironmentFailed)},
			targets:   []controlplane.Target{target(1)},
			want:      summary{Start: []string{"i-2"}, Remove: []string{"e-1 drain"}},
		},
		{
			name:      "a draining instance: then the old one",
			instances: []controlplane.Instance{draining(instance("i-1", "a")), instance("i-2", "a")},
			envs:      []controlplane.Environment{env("e-1", "i-1", ready), env("e-2", "i-2", ready)},
			targets:   []controlplane.Target{target(1)},
			want:      summary{Drain: []string{"e-1 drain"}},
		},
		{
			name:      "drained and busy stays, drained and idle goes, too long goes",
			instances: []controlplane.Instance{instance("i-1", "a"), instance("i-2", "b")},
			envs: []controlplane.Environment{
				drained(env("e-busy", "i-1", ready), 1, time.Second), drained(env("e-idle", "i-1", ready), 0, time.Second),
				drained(env("e-late", "i-2", ready), 1, time.Hour),
			},
			want: summary{Remove: []string{"e-idle drain", "e-late drain"}},
		},
		{
			name:      "drained on a host that is gone: what it ran must be over",
			instances: []controlplane.Instance{awayFor("i-1", 16*time.Minute), awayFor("i-2", 15*time.Minute)},
			envs: []controlplane.Environment{
				unheard(env("e-gone", "i-1", ready)), unheard(env("e-away", "i-2", ready)),
			},
			want: summary{Remove: []string{"e-gone drain"}},
		},
		{
			name:      "what serves for a newer publication stays",
			instances: []controlplane.Instance{instance("i-1", "a")},
			envs:      []controlplane.Environment{env("e-1", "i-1", ready)},
			targets:   []controlplane.Target{{Function: "f", Qualifier: "1", Revision: "r1", Count: 0, Keep: true}},
			want:      summary{},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := snapshot("a", "b", "c")
			s.Instances, s.Environments = c.instances, c.envs
			p := policy()
			p.MayLaunch = !c.noLaunch
			got := summarize(placement.Decide(s, c.targets, t0, p))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("decision (-want +got):\n%s", d)
			}
		})
	}
}

// TestInvariants draws worlds and checks every decision.
// TestInvariant2_SurplusGoesFromWhereThereIsMost of it, whatever its age.
func TestInvariant2_SurplusGoesFromWhereThereIsMost(t *testing.T) {
	t.Parallel()
	s := snapshot("a", "b", "c")
	s.Instances = []controlplane.Instance{instance("i-1", "a"), instance("i-2", "b"), instance("i-3", "c")}
	for i, on := range []string{"i-1", "i-1", "i-1", "i-2", "i-2", "i-3"} {
		e := env(fmt.Sprintf("e-%d", i), on, controlplane.EnvironmentReady)
		e.PlacedAt = t0.Add(time.Duration(i) * time.Second) // the youngest is the only one of its zone
		s.Environments = append(s.Environments, e)
	}
	left := map[string]int{"i-1": 3, "i-2": 2, "i-3": 1}
	for _, a := range placement.Decide(s, []controlplane.Target{target(3)}, t0, policy()).Actions {
		left[string(a.(controlplane.StopEnvironment).Instance)]--
	}
	if diff := cmp.Diff(map[string]int{"i-1": 1, "i-2": 1, "i-3": 1}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// TestAnOutdatedInstanceIsTheLastResort for a new environment.
func TestAnOutdatedInstanceIsTheLastResort(t *testing.T) {
	t.Parallel()
	old, other := instance("i-1", "a"), instance("i-2", "a")
	old.Template = "other"
	s := snapshot("a")
	s.Instances = []controlplane.Instance{old, other}
	if got := summarize(placement.Decide(s, []controlplane.Target{target(1)}, t0, policy())); !slices.Equal(got.Start, []string{"i-2"}) {
		t.Errorf("started on %v, want the one that is not outdated", got.Start)
	}
	s.Instances = []controlplane.Instance{old}
	if got := summarize(placement.Decide(s, []controlplane.Target{target(1)}, t0, policy())); got.Start != nil || len(got.Unplaced) != 1 {
		t.Errorf("got %+v, want to wait for a new instance", got)
	}
	p := policy()
	p.MayLaunch = false
	if got := summarize(placement.Decide(s, []controlplane.Target{target(1)}, t0, p)); !slices.Equal(got.Start, []string{"i-1"}) {
		t.Errorf("got %+v, want the outdated one: there will be no other", got)
	}
}

// TestHostsThatAreNotOursAreLeftAndTakenBack when a provider gives their zone up
// and takes it back.
func TestHostsThatAreNotOursAreLeftAndTakenBack(t *testing.T) {
	t.Parallel()
	p := policy()
	p.MayLaunch, p.Keep = false, true
	s := snapshot("b")
	s.Instances = []controlplane.Instance{instance("i-1", "a"), instance("i-2", "b")}
	s.Environments = []controlplane.Environment{env("e-1", "i-1", controlplane.EnvironmentReady)}
	if got := summarize(placement.Decide(s, []controlplane.Target{target(1)}, t0, p)); !cmp.Equal(got, summary{Start: []string{"i-2"}}) {
		t.Errorf("first: %+v, want one started where it belongs and none stopped", got)
	}
	s.Environments = append(s.Environments, env("e-2", "i-2", controlplane.EnvironmentReady))
	if got := summarize(placement.Decide(s, []controlplane.Target{target(1)}, t0, p)); !cmp.Equal(got, summary{Drain: []string{"e-1 drain"}}) {
		t.Errorf("once that is ready: %+v, want the other to go", got)
	}
	s.Provider.Zones, s.Environments = []controlplane.Zone{"a", "b"}, s.Environments[:1]
	if got := summarize(placement.Decide(s, []controlplane.Target{target(1)}, t0, p)); !cmp.Equal(got, summary{}) {
		t.Errorf("with the zone back: %+v, want nothing", got)
	}
}

func TestInvariants(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := snapshot("a", "b", "c")
		for i := range rapid.IntRange(0, 9).Draw(t, "instances") {
			in := instance(fmt.Sprintf("i-%d", i), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "zone"))
			in.Observed.Connected = rapid.Float64Range(0, 1).Draw(t, "connected") > 0.2
			s.Instances = append(s.Instances, in)
		}
		want := rapid.IntRange(0, 12).Draw(t, "want")
		p := policy()
		p.MayLaunch = rapid.Bool().Draw(t, "may launch")
		targets := []controlplane.Target{target(want)}

		d := placement.Decide(s, targets, t0, p)
		if again := placement.Decide(s, targets, t0, p); !cmp.Equal(d, again) {
			t.Fatalf("decided differently the second time:\n%s", cmp.Diff(d, again))
		}
		used, perZone := starts(t, s, d)
		if n := len(d.Actions) + len(d.Unplaced); n != want {
			t.Fatalf("started %d and left %d unplaced of %d", len(d.Actions), len(d.Unplaced), want)
		}
		for _, in := range s.Instances {
			if !used[in.ID].Fits(in.Observed.Allocatable) {
				t.Fatalf("invariant 1: %s got %+v of %+v", in.ID, used[in.ID], in.Observed.Allocatable)
			}
			if used[in.ID].CPU > 0 && !in.Observed.Connected {
				t.Fatalf("placed on %s, which is not connected", in.ID)
			}
		}
		if !p.MayLaunch {
			return // spread as far as there is room; the zones may differ
		}
		for _, u := range d.Unplaced {
			perZone[u.Zone]++
		}
		counts := []int{perZone["a"], perZone["b"], perZone["c"]}
		if slices.Max(counts)-slices.Min(counts) > 1 {
			t.Fatalf("invariant 2: zones have %v", counts)
		}
	})
}

// starts adds up what a decision starts, by instance and by zone.
func starts(t *rapid.T, s controlplane.Snapshot, d placement.Decision) (map[controlplane.InstanceID]controlplane.Resources, map[controlplane.Zone]int) {
	zones := map[controlplane.InstanceID]controlplane.Zone{}
	for _, in := range s.Instances {
		zones[in.ID] = in.Zone
	}
	used := map[controlplane.InstanceID]controlplane.Resources{}
	perZone := map[controlplane.Zone]int{}
	ids := map[controlplane.EnvironmentID]bool{}
	for _, a := range d.Actions {
		st, ok := a.(controlplane.StartEnvironment)
		if !ok || ids[st.Environment] {
			t.Fatalf("nothing runs yet, and ids are unique: %s", a)
		}
		ids[st.Environment] = true
		used[st.Instance] = used[st.Instance].Plus(st.Size)
		perZone[zones[st.Instance]]++
	}
	return used, perZone
}
