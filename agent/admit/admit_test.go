package admit_test

import (
	"testing"
	"time"

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

func TestDecideNamesTheLimitThatHolds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		limits admit.Limits
		want   agent.Reason
	}{
		{"all at once", admit.Limits{Concurrency: 8, CPU: 4, Memory: 4, MemoryFull: true, DiskFull: true}, agent.ReasonMemory},
		{"no room for one more in memory", admit.Limits{Concurrency: 8, CPU: 4, Memory: 8, DiskFull: true}, agent.ReasonMemory},
		{"disk and CPU", admit.Limits{Concurrency: 8, CPU: 4, DiskFull: true}, agent.ReasonDisk},
		{"CPU and concurrency", admit.Limits{Concurrency: 8, CPU: 4, Memory: 20}, agent.ReasonCPU},
		{"concurrency", admit.Limits{Concurrency: 8, Memory: 20}, agent.ReasonConcurrency},
		{"none", admit.Limits{Concurrency: 16, CPU: 12, Memory: 20}, ""},
	} {
		c.limits.RetryAfter = time.Second
		got := admit.Decide(admit.Load{Ready: true, InFlight: 8}, c.limits)
		if got.Reason != c.want || got.Admitted == (got.Reason != "") || got.Admitted == (got.RetryAfter > 0) {
			t.Errorf("%s: got %+v want %q", c.name, got, c.want)
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
		limits := admit.Limits{
			Concurrency: rapid.IntRange(1, 1600).Draw(t, "limit"),
			CPU:         rapid.IntRange(0, 1600).Draw(t, "cpu"),
			Memory:      rapid.IntRange(0, 1600).Draw(t, "memory"),
			MemoryFull:  rapid.Bool().Draw(t, "memory_full"),
			DiskFull:    rapid.Bool().Draw(t, "disk_full"),
		}
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
