package pool_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/pool"
	"github.com/hearth-compute/hearth/sandbox"
)

func TestDecideActsOnlyWhereSomethingIsMissingOrTooMuch(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	in := func(id sandbox.ID, phase pool.Phase) pool.Incarnation {
		return pool.Incarnation{Sandbox: id, Phase: phase}
	}
	old := func(id sandbox.ID, phase pool.Phase) pool.Incarnation {
		return pool.Incarnation{Sandbox: id, Phase: phase, Adopted: true}
	}
	for _, c := range []struct {
		name string
		view pool.View
		want []string
		wake time.Time
	}{
		{"missing", pool.View{Wanted: true}, []string{"start e : wanted"}, time.Time{}},
		{"starting", pool.View{Wanted: true, Incarnations: []pool.Incarnation{in("a", pool.PhaseStarting)}}, nil, time.Time{}},
		{"ready", pool.View{Wanted: true, Incarnations: []pool.Incarnation{in("a", pool.PhaseReady)}}, nil, time.Time{}},
		{
			"ended, to be replaced while it is cleared away",
			pool.View{Wanted: true, Incarnations: []pool.Incarnation{in("a", pool.PhaseEnding)}},
			[]string{"start e : wanted"},
			time.Time{},
		},
		{
			"backing off",
			pool.View{Wanted: true, RetryAt: now.Add(time.Second)},
			nil, now.Add(time.Second),
		},
		{
			"adopted, replaced before it goes",
			pool.View{Wanted: true, Incarnations: []pool.Incarnation{old("a", pool.PhaseReady)}},
			[]string{"start e : replaces one from before the restart"},
			time.Time{},
		},
		{
			"adopted, with a successor that is not ready",
			pool.View{Wanted: true, Incarnations: []pool.Incarnation{old("a", pool.PhaseStarting), in("b", pool.PhaseStarting)}},
			nil,
			time.Time{},
		},
		{
			"adopted, with a successor that is ready",
			pool.View{Wanted: true, Incarnations: []pool.Incarnation{old("a", pool.PhaseReady), in("b", pool.PhaseReady)}},
			[]string{"retire e a: replaced"},
			time.Time{},
		},
		{
			"draining keeps what is ready",
			pool.View{Wanted: true, Draining: true, Incarnations: []pool.Incarnation{in("a", pool.PhaseReady)}},
			nil,
			time.Time{},
		},
		{
			"draining gives up what is starting",
			pool.View{Wanted: true, Draining: true, Incarnations: []pool.Incarnation{in("a", pool.PhaseStarting)}},
			[]string{"retire e a: draining before it was ready"},
			time.Time{},
		},
		{
			"not wanted",
			pool.View{Incarnations: []pool.Incarnation{in("a", pool.PhaseReady), in("b", pool.PhaseStarting), in("c", pool.PhaseEnding)}},
			[]string{"retire e a: not wanted", "retire e b: not wanted"},
			time.Time{},
		},
		{"not wanted and gone", pool.View{}, []string{"forget e : not wanted"}, time.Time{}},
	} {
		c.view.Environment = "e"
		actions, wake := pool.Decide([]pool.View{c.view}, now)
		var got []string
		for _, a := range actions {
			got = append(got, a.String())
		}
		if d := cmp.Diff(c.want, got); d != "" || !wake.Equal(c.wake) {
			t.Errorf("%s: %s, wake %v", c.name, d, wake)
		}
	}
}

func drawViews(t *rapid.T, now time.Time) []pool.View {
	phases := []pool.Phase{pool.PhaseStarting, pool.PhaseReady, pool.PhaseEnding}
	var views []pool.View
	for i := range rapid.IntRange(0, 6).Draw(t, "environments") {
		v := pool.View{
			Environment: agent.EnvironmentID(fmt.Sprintf("e-%d", i)),
			Wanted:      rapid.Bool().Draw(t, "wanted"),
			Draining:    rapid.Bool().Draw(t, "draining"),
			RetryAt:     now.Add(time.Duration(rapid.IntRange(-5, 5).Draw(t, "retry")) * time.Second),
		}
		for j := range rapid.IntRange(0, 4).Draw(t, "incarnations") {
			v.Incarnations = append(v.Incarnations, pool.Incarnation{
				Sandbox: sandbox.ID(fmt.Sprintf("%s-%d", v.Environment, j)),
				Phase:   rapid.SampledFrom(phases).Draw(t, "phase"),
				Adopted: rapid.Bool().Draw(t, "adopted"),
			})
		}
		views = append(views, v)
	}
	return views
}

func TestDecideKeepsItsPromisesWhateverItSees(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	rapid.Check(t, func(t *rapid.T) {
		views := drawViews(t, now)
		actions, wake := pool.Decide(views, now)
		if again, _ := pool.Decide(slices.Clone(views), now); !slices.Equal(actions, again) {
			t.Fatalf("two answers to one question: %v and %v", actions, again)
		}
		slices.Reverse(views)
		if again, _ := pool.Decide(views, now); !slices.Equal(actions, again) {
			t.Fatalf("the order of the views matters: %v and %v", actions, again)
		}
		if !wake.IsZero() && !wake.After(now) {
			t.Fatalf("wake %v is not after now", wake)
		}
		for _, a := range actions {
			if a.Reason == "" {
				t.Fatalf("%v has no reason", a)
			}
		}
		for _, v := range views {
			check(t, v, actions, now)
		}
	})
}

// check holds what is decided about one environment against the invariants.
func check(t *rapid.T, v pool.View, actions []pool.Action, now time.Time) {
	starts, forgotten, retired := 0, false, map[sandbox.ID]bool{}
	for _, a := range actions {
		if a.Environment != v.Environment {
			continue
		}
		switch a.Verb {
		case pool.VerbStart:
			starts++
		case pool.VerbRetire:
			retired[a.Sandbox] = true
		case pool.VerbForget:
			forgotten = true
		}
	}
	if forgotten && (v.Wanted || len(v.Incarnations) > 0) {
		t.Fatalf("%v is forgotten", v)
	}
	checkStarts(t, v, starts, now)
	for _, in := range v.Incarnations {
		checkIncarnation(t, v, in, retired)
	}
}

func checkStarts(t *rapid.T, v pool.View, starts int, now time.Time) {
	mayStart := v.Wanted && !v.Draining && !now.Before(v.RetryAt)
	if starts > 1 || starts == 1 && !mayStart {
		t.Fatalf("invariant 2: %v: %d starts", v, starts)
	}
}

// checkIncarnation holds the fate of one incarnation against the invariants.
func checkIncarnation(t *rapid.T, v pool.View, in pool.Incarnation, retired map[sandbox.ID]bool) {
	ending, ends := in.Phase == pool.PhaseEnding, retired[in.Sandbox]
	if ending && ends {
		t.Fatalf("%v is retired twice", in)
	}
	if !v.Wanted && !ending && !ends {
		t.Fatalf("%v runs on although nobody wants it", in)
	}
	servesAlone := v.Wanted && in.Adopted && in.Phase == pool.PhaseReady && !hasFresh(v, retired)
	if servesAlone && ends {
		t.Fatalf("invariant 1: %v ends before a fresh one is ready", in)
	}
}

// hasFresh says whether a fresh incarnation is ready and stays.
func hasFresh(v pool.View, retired map[sandbox.ID]bool) bool {
	return slices.ContainsFunc(v.Incarnations, func(i pool.Incarnation) bool {
		return !i.Adopted && i.Phase == pool.PhaseReady && !retired[i.Sandbox]
	})
}

func TestCheckRefusesWhatIsOlderOrTooMuch(t *testing.T) {
	t.Parallel()
	set := func(epoch, generation uint64, intent agent.StopIntent, ids ...agent.EnvironmentID) agent.DesiredSet {
		s := agent.DesiredSet{Epoch: epoch, Generation: generation, Intent: intent}
		for _, id := range ids {
			s.Environments = append(s.Environments, agent.DesiredEnvironment{Assignment: agent.Assignment{Environment: id}})
		}
		return s
	}
	four := []pool.Running{{Environment: "a"}, {Environment: "b"}, {Environment: "c"}, {Environment: "d"}}
	drained := []pool.Running{{Environment: "a", Draining: true}, {Environment: "b", Draining: true}, {Environment: "c"}}
	for _, c := range []struct {
		name    string
		running []pool.Running
		next    agent.DesiredSet
		want    func(error) bool
	}{
		{"the same again", four, set(2, 7, "", "a", "b", "c", "d"), nil},
		{"a later generation", four, set(2, 8, "", "a", "b", "c", "d", "e"), nil},
		{"a later epoch", four, set(3, 0, "", "a", "b", "c", "d"), nil},
		{"an older generation", four, set(2, 6, "", "a", "b", "c", "d"), errdefs.IsConflict},
		{"an older epoch", four, set(1, 99, "", "a", "b", "c", "d"), errdefs.IsConflict},
		{"half", four, set(2, 8, "", "a", "b"), nil},
		{"more than half", four, set(2, 8, "", "a"), errdefs.IsFailedPrecondition},
		{"everything", four, set(2, 8, ""), errdefs.IsFailedPrecondition},
		{"everything replaced", four, set(2, 8, "", "e", "f", "g", "h"), errdefs.IsFailedPrecondition},
		{"everything, to drain", four, set(2, 8, agent.StopDrain), nil},
		{"everything, deleted", four, set(2, 8, agent.StopDelete), nil},
		{"everything, deleted, but older", four, set(2, 6, agent.StopDelete), errdefs.IsConflict},
		{"the only one", four[:1], set(2, 8, ""), nil},
		{"both of two", four[:2], set(2, 8, ""), errdefs.IsFailedPrecondition},
		{"what drains already", drained, set(2, 8, "", "c"), nil},
		{"nothing runs", nil, set(2, 8, ""), nil},
	} {
		err := pool.Check(2, 7, c.running, c.next)
		if (c.want == nil) != (err == nil) || c.want != nil && !c.want(err) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}
