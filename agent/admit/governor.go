package admit

import (
	"time"

	"github.com/hearth-compute/hearth/agent"
)

// Usage is what an environment's processes used in one interval, and what they
// hold at its end.
type Usage struct {
	// Elapsed is the length of the interval, above zero.
	Elapsed time.Duration
	// CPU was used in it; for Throttled of it the quota was used up.
	// Stalled is how long none of them ran although some could have; 0 where that is
	// not known.
	CPU, Throttled, Stalled time.Duration
	// Memory is without reclaimable cache. A limit or size of 0 is not known:
	// nothing follows from it.
	Memory, MemoryLimit agent.Bytes
	Tmp, TmpSize        agent.Bytes
	Host                HostUsage
}

// HostUsage is how the instance was in the same interval.
type HostUsage struct {
	// CPUPermille is the part of its CPU time that was used, in thousandths.
	CPUPermille int
	// MemoryFull and DiskFull say that it has too little left for anything.
	MemoryFull, DiskFull bool
}

// Work is what an environment did in one interval.
type Work struct {
	// InFlight counts taken slots at the end of it, Overrun those of them that
	// are held by code that ran past its deadline. Peak is the most that were
	// taken at once.
	InFlight, Overrun, Peak int
	// Refused counts invocations refused for CPU.
	Refused int64
	// Completed counts answers, Busy is how long they took together.
	Completed int64
	Busy      time.Duration
}

// Governor turns measurements of one environment into its limits. Make it with
// NewGovernor. It has no clock: time passes by what it is told. It belongs to one
// goroutine.
type Governor struct {
	concurrency int
	unlimited   bool
	cpu         cpuLimit
	memory      memoryLimit
	memoryFull  gate
	tmpFull     gate
	// writes says that it was seen to use /tmp, of which leastTmp is what it never
	// used less of: a host whose disk is full does not concern the others.
	writes   bool
	leastTmp agent.Bytes
	service  time.Duration
	stuck    time.Duration
	crowded  time.Duration
	replace  Replace
}

// Config describes one environment to its governor.
type Config struct {
	// Concurrency is the configured number of slots, at least 1.
	Concurrency int
	// CPU is the quota; 0 means that it is not known and limits nothing.
	CPU agent.MilliCPU
	// PerInvoke is what an invocation of the function was learned to take by
	// another environment's governor; 0 means not known.
	PerInvoke agent.Bytes
	// Unlimited switches everything off but the configured number of slots.
	Unlimited bool
}

// Replace is why an environment should be replaced by a new one.
type Replace string

// The reasons to replace an environment.
const (
	ReplaceNot Replace = ""
	// ReplaceMemory and ReplaceDisk: it refuses everything, and nothing runs that
	// could give memory or room back.
	ReplaceMemory Replace = "memory"
	ReplaceDisk   Replace = "disk"
	// ReplaceOverrun: code that ran past its deadline holds all its slots.
	ReplaceOverrun Replace = "overrun"
)

// The thresholds. Shares are in thousandths.
const (
	// fullAt and freeAt are between which part of its memory limit, or of /tmp, in
	// use an environment becomes full, and free again.
	fullAt, freeAt = 950, 900
	// writesFrom is how much more of /tmp must have been used for an environment to
	// count as one that writes.
	writesFrom agent.Bytes = 1 << 20
	// stuckAfter is how long an environment may be full with nothing running.
	stuckAfter = 10 * time.Second
	// crowdedAfter is how long overrun code may hold every slot.
	crowdedAfter = time.Second
	// serviceWeight is how much of the estimate of an invocation's duration one
	// interval changes.
	serviceWeight = 0.2
	// leastRetry and mostRetry bound RetryAfter.
	leastRetry, mostRetry = time.Millisecond, 10 * time.Second
)

// NewGovernor returns the governor of an environment that has done nothing yet.
func NewGovernor(c Config) *Governor {
	g := &Governor{concurrency: max(1, c.Concurrency), unlimited: c.Unlimited}
	g.cpu = newCPULimit(g.concurrency, c.CPU)
	g.memory = memoryLimit{perInvoke: c.PerInvoke}
	return g
}

// PerInvoke is how much memory an invocation takes, 0 if that is not known.
func (g *Governor) PerInvoke() agent.Bytes { return g.memory.perInvoke }

// Replace is why the environment should be replaced, if it should.
func (g *Governor) Replace() Replace { return g.replace }

// Observe takes one interval and returns what may run from now on.
func (g *Governor) Observe(u Usage, w Work) Limits {
	if g.unlimited {
		return Limits{Concurrency: g.concurrency, RetryAfter: g.retryAfter(w)}
	}
	if u.Elapsed <= 0 {
		u.Elapsed = time.Millisecond
	}
	memoryFull := g.memoryFull.pass(u.Memory, u.MemoryLimit)
	tmpFull := g.tmpFull.pass(u.Tmp, u.TmpSize)
	if g.leastTmp == 0 || u.Tmp < g.leastTmp {
		g.leastTmp = u.Tmp
	}
	g.writes = g.writes || u.Tmp >= g.leastTmp+writesFrom
	limits := Limits{
		Concurrency: g.concurrency,
		CPU:         g.cpu.observe(u, w),
		Memory:      g.memory.observe(u, w),
		MemoryFull:  memoryFull || u.Host.MemoryFull,
		DiskFull:    tmpFull || u.Host.DiskFull && g.writes,
		RetryAfter:  g.retryAfter(w),
	}
	if limits.Memory >= g.concurrency {
		limits.Memory = 0 // what is configured is the limit, not memory
	}
	g.decideReplace(u.Elapsed, w, limits)
	return limits
}

// retryAfter is when the next of the running invocations is likely to end.
func (g *Governor) retryAfter(w Work) time.Duration {
	if w.Completed > 0 {
		took := w.Busy / time.Duration(w.Completed)
		if g.service == 0 {
			g.service = took
		}
		g.service += time.Duration(serviceWeight * float64(took-g.service))
	}
	if g.service == 0 {
		return 0
	}
	return min(max(g.service/time.Duration(max(1, w.InFlight)), leastRetry), mostRetry)
}

// decideReplace finds environments that do not become free by themselves.
// Replacing one does not help a host that is full.
func (g *Governor) decideReplace(elapsed time.Duration, w Work, limits Limits) {
	full := g.memoryFull.full || g.tmpFull.full
	g.stuck = lasts(full && max(w.InFlight, w.Peak) <= w.Overrun, g.stuck, elapsed)
	slots := g.concurrency
	if limits.CPU > 0 {
		slots = min(slots, limits.CPU)
	}
	g.crowded = lasts(w.Overrun >= slots, g.crowded, elapsed)
	switch {
	case g.stuck >= stuckAfter && g.memoryFull.full:
		g.replace = ReplaceMemory
	case g.stuck >= stuckAfter:
		g.replace = ReplaceDisk
	case g.crowded >= crowdedAfter:
		g.replace = ReplaceOverrun
	default:
		g.replace = ReplaceNot
	}
}

// lasts is for how long something has been so.
func lasts(so bool, before, elapsed time.Duration) time.Duration {
	if !so {
		return 0
	}
	return before + elapsed
}

// gate says whether something is full; it opens at less than it closes at.
type gate struct{ full bool }

func (g *gate) pass(used, size agent.Bytes) bool {
	at := agent.Bytes(fullAt)
	if g.full {
		at = freeAt
	}
	g.full = size > 0 && used >= size/1000*at
	return g.full
}
