package capacity_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/capacity"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	gib  = controlplane.Bytes(1 << 30)
	vcpu = controlplane.MilliCPU(1000)
)

func policy() capacity.Policy {
	return capacity.Policy{Size: controlplane.Resources{CPU: 2 * vcpu, Memory: 8 * gib}, Budget: 8, IdleAfter: 5 * time.Minute}
}

func provider(maxVCPU int) controlplane.Snapshot {
	return controlplane.Snapshot{Provider: controlplane.CapacityProvider{
		Name: "p", State: controlplane.ProviderActive, Zones: []controlplane.Zone{"a", "b"}, MaxVCPU: maxVCPU,
	}}
}

func unplaced(zone string, cpu controlplane.MilliCPU) controlplane.Unplaced {
	return controlplane.Unplaced{Function: "f", Qualifier: "1", Revision: "r", Zone: controlplane.Zone(zone), Size: controlplane.Resources{CPU: cpu, Memory: gib}}
}

type summary struct {
	Launch, Terminate, Blocked []string
}

func summarize(d capacity.Decision) summary {
	var s summary
	for _, a := range d.Actions {
		switch a := a.(type) {
		case controlplane.LaunchInstance:
			s.Launch = append(s.Launch, string(a.Zone))
		case controlplane.TerminateInstance:
			s.Terminate = append(s.Terminate, string(a.Instance)+" "+string(a.Reason))
		}
	}
	for _, b := range d.Blocked {
		s.Blocked = append(s.Blocked, b.Code)
	}
	return s
}

func TestDecide(t *testing.T) {
	t.Parallel()
	inst := func(id, zone string, st controlplane.InstanceState) controlplane.Instance {
		return controlplane.Instance{ID: controlplane.InstanceID(id), Zone: controlplane.Zone(zone), State: st, Size: policy().Size}
	}
	emptyFor := func(in controlplane.Instance, d time.Duration) controlplane.Instance {
		in.Observed = &controlplane.InstanceObservation{Connected: true, Allocatable: in.Size, EmptySince: t0.Add(-d)}
		return in
	}
	for _, c := range []struct {
		name     string
		snap     controlplane.Snapshot
		edit     func(*controlplane.Snapshot)
		policy   func(*capacity.Policy)
		unplaced []controlplane.Unplaced
		want     summary
	}{
		{name: "one instance for two that fit on it", snap: provider(400), unplaced: []controlplane.Unplaced{unplaced("a", vcpu), unplaced("a", vcpu)}, want: summary{Launch: []string{"a"}}},
		{name: "two for two that do not", snap: provider(400), unplaced: []controlplane.Unplaced{unplaced("a", 2*vcpu), unplaced("a", vcpu)}, want: summary{Launch: []string{"a", "a"}}},
		{name: "one a zone", snap: provider(400), unplaced: []controlplane.Unplaced{unplaced("a", vcpu), unplaced("b", vcpu)}, want: summary{Launch: []string{"a", "b"}}},
		{
			name: "what is on its way counts", snap: provider(400),
			edit: func(s *controlplane.Snapshot) {
				s.Instances = append(s.Instances, inst("i-1", "a", controlplane.InstanceLaunching))
			},
			unplaced: []controlplane.Unplaced{unplaced("a", vcpu), unplaced("a", vcpu), unplaced("a", vcpu)},
			want:     summary{Launch: []string{"a"}},
		},
		{name: "MaxVCpuCount", snap: provider(3), unplaced: []controlplane.Unplaced{unplaced("a", vcpu), unplaced("b", vcpu)}, want: summary{Launch: []string{"a"}, Blocked: []string{"CapacityProviderScalingLimitExceeded"}}},
		{name: "the fleet's limit", snap: provider(400), policy: func(p *capacity.Policy) { p.Budget = 0 }, unplaced: []controlplane.Unplaced{unplaced("a", vcpu)}, want: summary{Blocked: []string{"InsufficientCapacity"}}},
		{name: "larger than any instance", snap: provider(400), unplaced: []controlplane.Unplaced{unplaced("a", 4*vcpu)}, want: summary{Blocked: []string{"InsufficientCapacity"}}},
		{
			name: "idle long enough", snap: provider(400),
			edit: func(s *controlplane.Snapshot) {
				s.Instances = []controlplane.Instance{
					emptyFor(inst("i-1", "a", controlplane.InstanceRunning), time.Minute),
					emptyFor(inst("i-2", "a", controlplane.InstanceRunning), time.Hour),
				}
			},
			want: summary{Terminate: []string{"i-2 idle"}},
		},
		{
			name: "machines that are not ours stay", snap: provider(400),
			policy: func(p *capacity.Policy) { p.Keep = true },
			edit: func(s *controlplane.Snapshot) {
				s.Instances = []controlplane.Instance{emptyFor(inst("i-2", "a", controlplane.InstanceRunning), time.Hour)}
			},
			want: summary{},
		},
		{
			name: "a provider being deleted gives back what is empty", snap: provider(400),
			edit: func(s *controlplane.Snapshot) {
				s.Provider.State = controlplane.ProviderDeleting
				s.Instances = []controlplane.Instance{inst("i-1", "a", controlplane.InstanceRunning), inst("i-2", "a", controlplane.InstanceRunning)}
				s.Environments = []controlplane.Environment{{ID: "e", Instance: "i-2"}}
			},
			want: summary{Terminate: []string{"i-1 provider-delete"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := policy()
			if c.policy != nil {
				c.policy(&p)
			}
			if c.edit != nil {
				c.edit(&c.snap)
			}
			got := summarize(capacity.Decide(c.snap, c.unplaced, t0, p))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("decision (-want +got):\n%s", d)
			}
		})
	}
}

// TestOutdatedInstancesAreEmptiedOneAtATimeAndGivenBack when the provider asks
// for another kind or gave their zone up.
func TestOutdatedInstancesAreEmptiedOneAtATimeAndGivenBack(t *testing.T) {
	t.Parallel()
	s := provider(400)
	add := func(id, zone, template string, st controlplane.InstanceState, occupied bool) {
		in := controlplane.Instance{ID: controlplane.InstanceID(id), Zone: controlplane.Zone(zone), State: st, Template: template}
		in.Observed = &controlplane.InstanceObservation{Connected: true, EmptySince: t0}
		s.Instances = append(s.Instances, in)
		if occupied {
			s.Environments = append(s.Environments, controlplane.Environment{ID: controlplane.EnvironmentID("e-" + id), Instance: in.ID})
		}
	}
	current := s.Provider.Template()
	add("i-current", "a", current, controlplane.InstanceRunning, true)
	add("i-host", "a", "", controlplane.InstanceRunning, true) // joined by itself
	add("i-other", "a", "other", controlplane.InstanceRunning, true)
	add("i-zone", "gone", current, controlplane.InstanceRunning, true)
	add("i-empty", "b", "other", controlplane.InstanceRunning, false)
	add("i-launching", "b", "other", controlplane.InstanceLaunching, false)
	drains := func(d capacity.Decision) (ids []string) {
		for _, a := range d.Actions {
			if a, ok := a.(controlplane.DrainInstance); ok {
				ids = append(ids, string(a.Instance)+" "+string(a.Reason))
			}
		}
		return ids
	}
	d := capacity.Decide(s, nil, t0, policy())
	if diff := cmp.Diff([]string{"i-other outdated"}, drains(d)); diff != "" {
		t.Errorf("drains (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"i-empty outdated", "i-launching outdated"}, summarize(d).Terminate); diff != "" {
		t.Errorf("terminates (-want +got):\n%s", diff)
	}
	s.Instances[2].State = controlplane.InstanceDraining
	if got := drains(capacity.Decide(s, nil, t0, policy())); got != nil {
		t.Errorf("drains %v although one is under way", got)
	}
	s.Environments = slices.DeleteFunc(s.Environments, func(e controlplane.Environment) bool { return e.Instance == "i-other" })
	d = capacity.Decide(s, nil, t0, policy())
	if diff := cmp.Diff([]string{"i-zone outdated"}, drains(d)); diff != "" {
		t.Errorf("drains once the first is empty (-want +got):\n%s", diff)
	}
	keep := policy()
	keep.Keep = true
	if d := capacity.Decide(s, nil, t0, keep); len(d.Actions) != 0 {
		t.Errorf("decided %v of machines that are not ours", d.Actions)
	}
}

func TestInvariant1_NeverMoreThanMaxVCPU(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := provider(rapid.IntRange(2, 40).Draw(t, "max"))
		for i := range rapid.IntRange(0, 10).Draw(t, "instances") {
			s.Instances = append(s.Instances, controlplane.Instance{
				ID: controlplane.InstanceID(fmt.Sprintf("i-%d", i)), Zone: "a", Size: policy().Size,
				State: rapid.SampledFrom([]controlplane.InstanceState{controlplane.InstanceLaunching, controlplane.InstanceRunning}).Draw(t, "state"),
			})
		}
		before := controlplane.MilliCPU(len(s.Instances)) * 2 * vcpu
		var need []controlplane.Unplaced
		for range rapid.IntRange(0, 20).Draw(t, "unplaced") {
			need = append(need, unplaced(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone"), controlplane.MilliCPU(rapid.IntRange(100, 2000).Draw(t, "cpu"))))
		}
		p := policy()
		p.Budget = rapid.IntRange(0, 10).Draw(t, "budget")
		d := capacity.Decide(s, need, t0, p)
		if !cmp.Equal(d, capacity.Decide(s, need, t0, p)) {
			t.Fatal("decided differently the second time")
		}
		launches := 0
		for _, a := range d.Actions {
			if _, ok := a.(controlplane.LaunchInstance); ok {
				launches++
			}
		}
		after := before + controlplane.MilliCPU(launches)*2*vcpu
		if launches > 0 && after > controlplane.MilliCPU(s.Provider.MaxVCPU)*1000 {
			t.Fatalf("%d mCPU after %d launches, the limit is %d vCPU", after, launches, s.Provider.MaxVCPU)
		}
		if launches > p.Budget {
			t.Fatalf("%d launches, the fleet allows %d", launches, p.Budget)
		}
	})
}

func TestAnInstanceThatNeverJoinedIsReplaced(t *testing.T) {
	t.Parallel()
	p := policy()
	p.LaunchPatience = 5 * time.Minute
	s := provider(400)
	s.Instances = []controlplane.Instance{{
		ID: "i-1", Zone: "a", State: controlplane.InstanceLaunching, Size: p.Size, KnownSince: t0,
	}}
	lacks := []controlplane.Unplaced{unplaced("a", vcpu)}
	heard := func(connected bool) controlplane.Snapshot {
		s := s
		s.Instances = []controlplane.Instance{s.Instances[0]}
		s.Instances[0].Observed = &controlplane.InstanceObservation{Connected: connected, Allocatable: p.Size}
		return s
	}
	kept := p
	kept.Keep = true
	late := t0.Add(p.LaunchPatience)
	for _, c := range []struct {
		name string
		s    controlplane.Snapshot
		p    capacity.Policy
		now  time.Time
		want summary
	}{
		{"in time it is room to come", s, p, late.Add(-1), summary{}},
		{"too late", s, p, late, summary{Launch: []string{"a"}, Terminate: []string{"i-1 never-joined"}}},
		{"it has just joined", heard(true), p, late, summary{}},
		{"it registered and cannot be reached", heard(false), p, late, summary{Launch: []string{"a"}, Terminate: []string{"i-1 never-joined"}}},
		{"machines that are not ours are kept", s, kept, late, summary{Launch: []string{"a"}}},
	} {
		if diff := cmp.Diff(c.want, summarize(capacity.Decide(c.s, lacks, c.now, c.p))); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestAnIDIsNeverTakenTwice(t *testing.T) {
	t.Parallel()
	s, ids := provider(400), map[controlplane.InstanceID]bool{}
	for range 3 { // the clock stands still
		d := capacity.Decide(s, []controlplane.Unplaced{unplaced("a", vcpu), unplaced("b", vcpu)}, t0, policy())
		for _, a := range d.Actions {
			launch, ok := a.(controlplane.LaunchInstance)
			if !ok {
				continue
			}
			if ids[launch.Instance] {
				t.Errorf("%s was launched twice", launch.Instance)
			}
			ids[launch.Instance] = true
			s.Instances = append(s.Instances, controlplane.Instance{
				ID: launch.Instance, Zone: launch.Zone, State: controlplane.InstanceRunning, Size: launch.Size,
			})
		}
	}
	if len(ids) != 6 {
		t.Errorf("%d instances were launched, want 6", len(ids))
	}
}
