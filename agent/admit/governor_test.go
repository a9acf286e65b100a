package admit_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
)

const mib = agent.Bytes(1 << 20)

// interval is one sample of an environment with 1000 MiB of memory and of /tmp.
func interval(memory, tmp agent.Bytes) admit.Usage {
	return admit.Usage{
		Elapsed: 100 * time.Millisecond, Memory: memory, MemoryLimit: 1000 * mib, Tmp: tmp, TmpSize: 1000 * mib,
	}
}

func TestFullAt95PercentUntilBelow90(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 8})
	for i, c := range []struct {
		used agent.Bytes
		full bool
	}{{940, false}, {951, true}, {949, true}, {901, true}, {899, false}, {949, false}, {960, true}} {
		if got := g.Observe(interval(c.used*mib, 0), admit.Work{}); got.MemoryFull != c.full || got.DiskFull {
			t.Errorf("step %d: memory at %d of 1000: %+v", i, c.used, got)
		}
	}
	g = admit.NewGovernor(admit.Config{Concurrency: 8})
	for i, c := range []struct {
		used agent.Bytes
		full bool
	}{{940, false}, {951, true}, {901, true}, {899, false}} {
		if got := g.Observe(interval(1, c.used*mib), admit.Work{}); got.DiskFull != c.full || got.MemoryFull {
			t.Errorf("step %d: /tmp at %d of 1000: %+v", i, c.used, got)
		}
	}
}

func TestAHostThatIsFullRefusesForItsReason(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 8})
	u := interval(mib, mib)
	u.Host.DiskFull = true
	if got := admit.Decide(admit.Load{Ready: true}, g.Observe(u, admit.Work{})); !got.Admitted {
		t.Errorf("got %+v: it does not write", got)
	}
	u.Tmp = 3 * mib
	if got := admit.Decide(admit.Load{Ready: true}, g.Observe(u, admit.Work{})).Reason; got != agent.ReasonDisk {
		t.Errorf("got %q", got)
	}
	u.Host.MemoryFull = true
	for range 200 {
		if got := admit.Decide(admit.Load{Ready: true}, g.Observe(u, admit.Work{})).Reason; got != agent.ReasonMemory {
			t.Fatalf("got %q", got)
		}
	}
	if got := g.Replace(); got != admit.ReplaceNot {
		t.Errorf("replaced for %s: a new one would find the same host", got)
	}
}

func TestABurstThatOutrunsTheSamplerIsRefusedForMemory(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 256})
	limits := g.Observe(interval(50*mib, 0), admit.Work{})
	if limits.Memory != 64 {
		t.Errorf("%d may run before it is known what one takes, want 64", limits.Memory)
	}
	for range 5 { // four at a time hold 20 MiB each
		limits = g.Observe(interval(130*mib, 0), admit.Work{InFlight: 4, Peak: 4})
	}
	limits = g.Observe(interval(50*mib, 0), admit.Work{})
	// 850 MiB are left below nine tenths of the limit: 42 of them.
	if limits.Memory < 40 || limits.Memory > 43 {
		t.Errorf("%d may run at once, want 42", limits.Memory)
	}
	if got := admit.Decide(admit.Load{Ready: true, InFlight: limits.Memory}, limits).Reason; got != agent.ReasonMemory {
		t.Errorf("the next is refused for %q", got)
	}
	if got := g.PerInvoke(); got != 20*mib {
		t.Errorf("one was learned to take %d", got)
	}
	next := admit.NewGovernor(admit.Config{Concurrency: 256, PerInvoke: g.PerInvoke()})
	next.Observe(interval(50*mib, 0), admit.Work{})
	if n := next.Observe(interval(50*mib, 0), admit.Work{}).Memory; n < 40 || n > 43 {
		t.Errorf("another environment of the function takes %d", n)
	}
}

func TestWhatWasLearnedTooMuchIsForgottenAtWork(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 8})
	g.Observe(interval(50*mib, 0), admit.Work{})
	g.Observe(interval(250*mib, 0), admit.Work{InFlight: 1, Peak: 1})
	for range 600 { // idle
		g.Observe(interval(50*mib, 0), admit.Work{})
	}
	if got := g.PerInvoke(); got != 200*mib {
		t.Errorf("%d after a minute without work, want what was learned", got)
	}
	for range 600 {
		g.Observe(interval(60*mib, 0), admit.Work{InFlight: 1, Peak: 1})
	}
	if got := g.PerInvoke(); got > 20*mib {
		t.Errorf("%d after a minute of invocations of 10 MiB", got)
	}
}

// TestMemoryThatARuntimeKeepsIsRoom is a runtime that keeps what eight
// invocations took: eight more fit into that.
func TestMemoryThatARuntimeKeepsIsRoom(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 8})
	g.Observe(interval(100*mib, 0), admit.Work{})
	var limits admit.Limits
	for i := range 100 {
		limits = g.Observe(interval(850*mib, 0), admit.Work{InFlight: 8 * (i % 2), Peak: 8})
		if i > 0 && limits.Slots() < 8 {
			t.Fatalf("sample %d: %+v", i, limits)
		}
	}
}

func TestReplacedWhenItCannotCool(t *testing.T) {
	t.Parallel()
	full := interval(970*mib, 0)
	for _, c := range []struct {
		name string
		u    admit.Usage
		w    admit.Work
		// after is how many tenths of a second it takes; 0 means never.
		after int
		want  admit.Replace
	}{
		{"memory, idle", full, admit.Work{}, 100, admit.ReplaceMemory},
		{"/tmp, idle", interval(mib, 970*mib), admit.Work{}, 100, admit.ReplaceDisk},
		{"memory, at work", full, admit.Work{InFlight: 1, Peak: 1}, 0, admit.ReplaceNot},
		{"memory, only overrun code", full, admit.Work{InFlight: 1, Overrun: 1, Peak: 1}, 100, admit.ReplaceMemory},
		{"every slot overrun", interval(mib, 0), admit.Work{InFlight: 8, Overrun: 8, Peak: 8}, 10, admit.ReplaceOverrun},
		{"all but one slot overrun", interval(mib, 0), admit.Work{InFlight: 7, Overrun: 7, Peak: 7}, 0, admit.ReplaceNot},
		{"idle", interval(mib, 0), admit.Work{}, 0, admit.ReplaceNot},
	} {
		g := admit.NewGovernor(admit.Config{Concurrency: 8})
		at := 0
		for i := 1; i <= 300 && at == 0; i++ {
			if g.Observe(c.u, c.w); g.Replace() != admit.ReplaceNot {
				at = i
			}
		}
		if at != c.after || g.Replace() != c.want {
			t.Errorf("%s: %q after %d samples, want %q after %d", c.name, g.Replace(), at, c.want, c.after)
		}
	}
}

// TestOverrunCodeThatBurnsLeavesNoRoom is a loop that never ends, a few times: by
// the CPU limit there is no room, although the ceiling is far.
func TestOverrunCodeThatBurnsLeavesNoRoom(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 64, CPU: 1000})
	u := interval(mib, 0)
	u.CPU = u.Elapsed
	for range 100 {
		g.Observe(u, admit.Work{InFlight: 4, Overrun: 4, Peak: 4, Refused: 3})
	}
	if got := g.Replace(); got != admit.ReplaceOverrun {
		t.Errorf("got %q", got)
	}
}

func TestRetryAfterIsWhenASlotBecomesFree(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 8})
	if got := g.Observe(interval(mib, 0), admit.Work{InFlight: 4}).RetryAfter; got != 0 {
		t.Errorf("%v before anything was answered", got)
	}
	got := g.Observe(interval(mib, 0), admit.Work{InFlight: 4, Completed: 10, Busy: 4 * time.Second}).RetryAfter
	if got != 100*time.Millisecond {
		t.Errorf("got %v: four that take 400 ms", got)
	}
}

func TestSwitchedOffOnlySlotsCount(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 8, CPU: 1000, Unlimited: true})
	u := interval(999*mib, 999*mib)
	u.CPU = u.Elapsed
	for range 200 {
		if got := g.Observe(u, admit.Work{InFlight: 8, Peak: 8}); got.Slots() != 8 {
			t.Fatalf("got %+v", got)
		}
	}
}

// TestInvariant1_MoreUseNeverMeansMoreSlots compares two environments with the
// same past of which one is fuller now.
func TestInvariant1_MoreUseNeverMeansMoreSlots(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := admit.NewGovernor(admit.Config{Concurrency: 64, CPU: 1000})
		b := admit.NewGovernor(admit.Config{Concurrency: 64, CPU: 1000})
		sample := func() (admit.Usage, admit.Work) {
			n := rapid.IntRange(0, 64).Draw(t, "in_flight")
			u := interval(agent.Bytes(rapid.IntRange(1, 1000).Draw(t, "memory"))*mib, agent.Bytes(rapid.IntRange(0, 1000).Draw(t, "tmp"))*mib)
			u.CPU = time.Duration(rapid.IntRange(0, 110).Draw(t, "cpu")) * time.Millisecond
			return u, admit.Work{InFlight: n, Peak: n}
		}
		for range rapid.IntRange(0, 60).Draw(t, "past") {
			u, w := sample()
			a.Observe(u, w)
			b.Observe(u, w)
		}
		u, w := sample()
		less := a.Observe(u, w)
		u.Tmp += agent.Bytes(rapid.IntRange(0, 100).Draw(t, "more_tmp")) * mib
		u.Memory += agent.Bytes(rapid.IntRange(0, 100).Draw(t, "more_memory")) * mib
		if more := b.Observe(u, w); more.Slots() > less.Slots() {
			t.Fatalf("%+v with less, %+v with more in use", less, more)
		}
	})
}

func TestObserveDoesNotAllocate(t *testing.T) {
	g := admit.NewGovernor(admit.Config{Concurrency: 8, CPU: 1000})
	if n := testing.AllocsPerRun(100, func() { g.Observe(interval(mib, mib), admit.Work{InFlight: 1, Completed: 3}) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// TestWhatGetsLittleOfAQuotaIsLimitedByWhatItGets is an environment on a host
// whose CPU others use: its quota is never reached.
func TestWhatGetsLittleOfAQuotaIsLimitedByWhatItGets(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 64, CPU: 1000})
	u := interval(mib, 0)
	u.CPU, u.Stalled = u.Elapsed/5, u.Elapsed*4/5
	var limits admit.Limits
	for range 100 {
		limits = g.Observe(u, admit.Work{InFlight: 64, Peak: 64})
	}
	if limits.CPU != 4 {
		t.Errorf("got %+v", limits)
	}
	u.Stalled = u.Elapsed / 2
	for range 100 {
		limits = g.Observe(u, admit.Work{InFlight: 4, Peak: 4})
	}
	if limits.CPU != 0 {
		t.Errorf("got %+v once it has CPU time to spare", limits)
	}
}

// TestABusyHostDoesNotLimitWhatGetsItsCPU is an environment beside others that use
// all the rest of the host's CPU time.
func TestABusyHostDoesNotLimitWhatGetsItsCPU(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		quota   agent.MilliCPU
		stalled time.Duration
		want    bool
	}{
		{"it hardly waits", 1000, 2 * time.Millisecond, false},
		{"the kernel does not tell whether it waits", 1000, 0, true},
		{"one of its threads runs, another waits", 2000, time.Millisecond, true},
	} {
		g := admit.NewGovernor(admit.Config{Concurrency: 64, CPU: c.quota})
		u := interval(mib, 0)
		u.CPU, u.Stalled = u.Elapsed*7/10*time.Duration(c.quota)/1000, c.stalled
		u.Host.CPUPermille = 1000
		var limits admit.Limits
		for range 100 {
			limits = g.Observe(u, admit.Work{InFlight: 3, Peak: 16})
		}
		if (limits.CPU > 0) != c.want {
			t.Errorf("%s: got %+v", c.name, limits)
		}
	}
}

func TestMemoryForAllThatAreConfiguredDoesNotLimit(t *testing.T) {
	t.Parallel()
	g := admit.NewGovernor(admit.Config{Concurrency: 64})
	limits := g.Observe(interval(mib, 0), admit.Work{})
	if got := admit.Decide(admit.Load{Ready: true, InFlight: 64}, limits).Reason; got != agent.ReasonConcurrency {
		t.Errorf("refused for %q, nothing is known of its memory", got)
	}
}
