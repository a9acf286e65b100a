package admit_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
)

func TestDecideNamesTheFirstReasonThatApplies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		load admit.Load
		want agent.Verdict
	}{
		{"idle", admit.Load{Ready: true}, agent.Verdict{Admitted: true}},
		{"one slot left", admit.Load{Ready: true, InFlight: 7}, agent.Verdict{Admitted: true}},
		{"full", admit.Load{Ready: true, InFlight: 8}, agent.Verdict{Reason: agent.ReasonConcurrency}},
		{"over the limit", admit.Load{Ready: true, InFlight: 9}, agent.Verdict{Reason: agent.ReasonConcurrency}},
		{"draining and full", admit.Load{Ready: true, Draining: true, InFlight: 8}, agent.Verdict{Reason: agent.ReasonDraining}},
		{"not ready and draining", admit.Load{Draining: true}, agent.Verdict{Reason: agent.ReasonNotReady}},
	} {
		if got := admit.Decide(c.load, admit.Limits{Concurrency: 8}); got != c.want {
			t.Errorf("%s: got %+v want %+v", c.name, got, c.want)
		}
	}
}

func TestInvariant1_MoreLoadNeverTurnsARefusalIntoAnAdmission(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		load := admit.Load{
			Ready:    rapid.Bool().Draw(t, "ready"),
			Draining: rapid.Bool().Draw(t, "draining"),
			InFlight: rapid.IntRange(0, 2000).Draw(t, "in_flight"),
		}
		limits := admit.Limits{Concurrency: rapid.IntRange(1, 1600).Draw(t, "limit")}
		more := load
		more.InFlight += rapid.IntRange(0, 100).Draw(t, "more")
		less, greater := admit.Decide(load, limits), admit.Decide(more, limits)
		if !less.Admitted && greater.Admitted {
			t.Fatalf("%+v is refused (%s), %+v admitted", load, less.Reason, more)
		}
		if less.Admitted == (less.Reason != "") {
			t.Fatalf("got %+v: a verdict either admits or has a reason", less)
		}
	})
}

func TestDecideDoesNotAllocate(t *testing.T) {
	load, limits := admit.Load{Ready: true, InFlight: 3}, admit.Limits{Concurrency: 8}
	var got agent.Verdict
	if n := testing.AllocsPerRun(100, func() { got = admit.Decide(load, limits) }); n != 0 {
		t.Fatalf("got %v allocations want 0 (%+v)", n, got)
	}
}

func BenchmarkDecide(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		admit.Decide(admit.Load{Ready: true, InFlight: 3}, admit.Limits{Concurrency: 8})
	}
}
