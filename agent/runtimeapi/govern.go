package runtimeapi

import (
	"cmp"
	"sync/atomic"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
)

// governed is what decides how much an environment may do. Invocations read and
// count in atomics; once an interval, Observe works out from them and from what
// was measured what may run from then on.
type governed struct {
	// governor belongs to whoever calls Observe.
	governor *admit.Governor
	// limits without RetryAfter: they change seldom, that often.
	limits     atomic.Pointer[admit.Limits]
	retryAfter atomic.Int64
	// cpuPermille is CPU used of what is allotted, over the last interval.
	cpuPermille atomic.Int64
	quota       agent.MilliCPU
	// perInvoke and replace are the governor's, for others.
	perInvoke atomic.Int64
	replace   atomic.Value

	refusals refusals
	// refusedCPU, recent, completed and busy are of the interval under way: refused
	// for CPU, most slots taken at once, answers and how long they took.
	refusedCPU, recent, completed, busy atomic.Int64
	// overrun counts slots whose caller was answered because the deadline passed.
	overrun atomic.Int64
	// unserved are invocations no /next came for, in the interval under way; deaf is
	// for how long the runtime has asked for none. It belongs to whoever calls
	// Observe.
	unserved atomic.Int64
	deaf     time.Duration
}

const (
	// ReplaceDeaf says that the runtime lives and asks for nothing, although there was
	// something and nothing else runs.
	ReplaceDeaf admit.Replace = "deaf"
	// deafAfter is how long that may take. A runtime may have something to do between
	// two events, but its environment does not answer meanwhile.
	deafAfter = 10 * time.Second
)

// refusals counts since the environment exists.
type refusals struct{ concurrency, cpu, memory, disk atomic.Int64 }

// govern prepares an environment that has done nothing yet.
func (g *governed) govern(cfg Config) {
	g.governor = admit.NewGovernor(admit.Config{
		Concurrency: cfg.Concurrency, CPU: cfg.CPU, PerInvoke: cfg.PerInvoke, Unlimited: cfg.Unlimited,
	})
	g.quota = cfg.CPU
	g.limits.Store(&admit.Limits{Concurrency: cfg.Concurrency})
	g.perInvoke.Store(int64(cfg.PerInvoke))
	g.replace.Store(admit.ReplaceNot)
}

// Observe tells what was measured of the environment since the call before. Only
// one caller may do so at a time.
func (a *API) Observe(u admit.Usage) {
	inFlight := a.inFlight.Load()
	limits := a.governor.Observe(u, admit.Work{
		InFlight:  int(inFlight),
		Overrun:   int(a.overrun.Load()),
		Peak:      int(max(inFlight, a.recent.Swap(inFlight))),
		Refused:   a.refusedCPU.Swap(0),
		Completed: a.completed.Swap(0),
		Busy:      time.Duration(a.busy.Swap(0)),
	})
	a.retryAfter.Store(int64(limits.RetryAfter))
	limits.RetryAfter = 0
	if limits != *a.limits.Load() {
		a.limits.Store(&limits)
	}
	if a.quota > 0 && u.Elapsed > 0 {
		a.cpuPermille.Store(int64(float64(u.CPU) / float64(u.Elapsed) * 1e6 / float64(a.quota)))
	}
	a.perInvoke.Store(int64(a.governor.PerInvoke()))
	if r := cmp.Or(a.governor.Replace(), a.deafness(u.Elapsed)); r != a.replace.Load() {
		a.replace.Store(r)
		if a.cfg.Worn != nil {
			a.cfg.Worn()
		}
	}
}

// deafness finds runtimes that have stopped asking for events. Nothing else shows
// it: nothing runs, and what is refused looks like too much concurrency.
func (a *API) deafness(elapsed time.Duration) admit.Replace {
	unserved := a.unserved.Swap(0) > 0
	a.mu.Lock()
	idle := a.pollers.Len() == 0 && int64(len(a.running)) <= a.overrun.Load()
	a.mu.Unlock()
	switch {
	case !idle:
		a.deaf = 0
	case unserved, a.deaf > 0:
		a.deaf += elapsed
	}
	if a.deaf >= deafAfter {
		return ReplaceDeaf
	}
	return admit.ReplaceNot
}

// Replace is why the environment should be replaced, if it should.
func (a *API) Replace() admit.Replace {
	r, _ := a.replace.Load().(admit.Replace)
	return r
}

// PerInvoke is how much memory an invocation was learned to take, 0 if not known.
func (a *API) PerInvoke() agent.Bytes { return agent.Bytes(a.perInvoke.Load()) }

// Load is how busy the environment is now.
func (a *API) Load() agent.Load {
	return agent.Load{
		InFlight: int(a.inFlight.Load()), Limit: a.limits.Load().Slots(), CPUPermille: int(a.cpuPermille.Load()),
	}
}

// Overrun is how many slots are held by code that ran past its deadline.
func (a *API) Overrun() int { return int(a.overrun.Load()) }

// Refusals counts what was refused since the environment exists.
func (a *API) Refusals() agent.Refusals {
	r := &a.refusals
	return agent.Refusals{
		Concurrency: r.concurrency.Load(), CPU: r.cpu.Load(), Memory: r.memory.Load(), Disk: r.disk.Load(),
	}
}

// count counts a refusal.
func (g *governed) count(r agent.Reason) {
	switch r {
	case agent.ReasonConcurrency:
		g.refusals.concurrency.Add(1)
	case agent.ReasonCPU:
		g.refusals.cpu.Add(1)
		g.refusedCPU.Add(1)
	case agent.ReasonMemory:
		g.refusals.memory.Add(1)
	case agent.ReasonDisk:
		g.refusals.disk.Add(1)
	case agent.ReasonDraining, agent.ReasonNotReady:
	}
}

// answered counts an answer.
func (g *governed) answered(took time.Duration) {
	g.completed.Add(1)
	g.busy.Add(int64(took))
}

// leaveLocked ends the wait of x's caller at the deadline; its slot is overrun
// until the runtime is done with it.
func (a *API) leaveLocked(x *invocation) {
	if a.running[x.RequestID] == x && !x.overran {
		x.overran = true
		a.overrun.Add(1)
		a.nudgeSettled()
	}
	x.left = true
}

// late reports whether the caller of x was answered at its deadline.
func (a *API) late(x *invocation) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return x.left
}

// endsSlot takes note that x, which was running, is not any more: its overran does
// not change then.
func (g *governed) endsSlot(x *invocation) {
	if x.overran {
		g.overrun.Add(-1)
	}
}

func (a *API) nudgeSettled() {
	select {
	case a.settled <- struct{}{}:
	default:
	}
}
