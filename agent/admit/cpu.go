package admit

import (
	"math"
	"time"

	"github.com/hearth-compute/hearth/agent"
)

// cpuLimit searches for the least concurrency that uses all CPU time an
// environment may have. There its goodput peaks: with fewer, CPU time is left;
// with more, each invocation only takes longer.
//
// It looks at windows of a few samples. When the CPU was used up it goes down a
// step; when some was left although the limit refused invocations it goes up
// one; when much was left it goes up whether or not it refused, by as much as
// would use it. Steps double while they go the same way and are smallest again
// after a turn, so it is quick when the cost of an invocation changes and quiet
// when it does not.
//
// It never goes below leastPerCPU invocations for each vCPU: with that many, CPU
// time is hardly ever idle between two arrivals of an overload, whatever the
// handler does. It begins only after the CPU was used up for a while: a short
// burst is finished, not refused.
type cpuLimit struct {
	ceiling, least int
	quota          agent.MilliCPU
	limit          float64
	step           float64
	went           direction
	saturated      time.Duration
	window         window
	// told says that the kernel was seen to tell how long the environment was
	// stalled.
	told bool
}

type direction int

const (
	still direction = iota
	down
	up
)

// window adds up samples.
type window struct {
	elapsed, used, stalled time.Duration

	host, samples int
	peak          int
	refused       int64
}

const (
	// windowLength is what one decision looks at.
	windowLength = 300 * time.Millisecond
	// usedUp, wanted and idle are parts of the CPU time an environment may have, in
	// thousandths: from usedUp on the limit goes down; below wanted it goes up if it
	// refused something; below idle it goes up in any case. The kernel accounts a
	// running task every few milliseconds, which makes a window's value uncertain by
	// one or two per cent.
	usedUp, wanted, idle = 980, 970, 900
	// hostShare is which part of its quota an environment must use for the host's
	// lack of CPU time to count as its own, in thousandths.
	hostShare = 500
	// oneCPU is the quota up to which stalls tell everything: something of the
	// environment runs, or waits, or there is nothing to do.
	oneCPU agent.MilliCPU = 1000
	// leastPerCPU is the least limit for each vCPU, and of an environment.
	leastPerCPU = 4
	// patience is how long the CPU must have been used up before the limit leaves
	// the ceiling.
	patience = 600 * time.Millisecond
	// leastStep and mostStep bound the part of the limit that one step changes;
	// firstStep is that of the first one down from the ceiling.
	leastStep, firstStep, mostStep = 1.0 / 16, 0.25, 0.5
	// mostGrowth is by how much the limit is multiplied at most when CPU time is
	// left.
	mostGrowth = 4
)

func newCPULimit(ceiling int, quota agent.MilliCPU) cpuLimit {
	least := int(math.Ceil(float64(quota) / 1000 * leastPerCPU))
	return cpuLimit{
		ceiling: ceiling, least: min(ceiling, max(leastPerCPU, least)),
		quota: quota, limit: float64(ceiling), step: leastStep,
	}
}

// observe returns how many may run at once; 0 if CPU time does not limit.
func (c *cpuLimit) observe(u Usage, w Work) int {
	if c.quota <= 0 {
		return 0
	}
	c.window.add(u, w)
	c.told = c.told || u.Stalled > 0
	if c.window.elapsed >= windowLength {
		c.decide(c.window)
		c.window = window{}
	}
	if n := int(c.limit); n < c.ceiling {
		return n
	}
	return 0
}

func (w *window) add(u Usage, work Work) {
	w.elapsed += u.Elapsed
	w.used += u.CPU
	w.stalled += max(0, u.Stalled-u.Throttled)
	w.host += u.Host.CPUPermille
	w.samples++
	w.peak = max(w.peak, work.Peak, work.InFlight)
	w.refused += work.Refused
}

// use is which part of the CPU time an environment may have it used, in
// thousandths. Time in which others had the CPU that it wanted was never its to
// use. Where that is not told, it used all it got on a host without CPU time to
// spare; so it may have above one vCPU, whose stalls are those of all its threads.
func (c *cpuLimit) use(w window) float64 {
	own := float64(w.used) / float64(w.elapsed) * 1e6 / float64(c.quota)
	own += float64(w.stalled) / float64(w.elapsed) * 1000
	if host := float64(w.host) / float64(w.samples); own >= hostShare && (!c.told || c.quota > oneCPU) {
		return max(own, host)
	}
	return own
}

func (c *cpuLimit) decide(w window) {
	use := c.use(w)
	if use < usedUp {
		c.saturated = 0
	} else {
		c.saturated += w.elapsed
	}
	switch {
	case use >= usedUp && (c.limit < float64(c.ceiling) || c.saturated >= patience):
		c.turn(down)
		// What is not used is given up at once.
		c.limit = min(c.limit, max(float64(w.peak), 2*float64(c.least)))
		c.limit = max(float64(c.least), c.limit*(1-c.step))
	case use < idle, use < wanted && w.refused > 0:
		c.turn(up)
		// As many more use at most as much more.
		c.limit = min(float64(c.ceiling), c.limit*max(1+c.step, min(usedUp/max(use, 1), mostGrowth))+1)
	default:
		c.went = still
		c.step = leastStep
	}
}

// turn doubles the step if it goes the same way again.
func (c *cpuLimit) turn(d direction) {
	switch {
	case c.went == d:
		c.step = min(mostStep, 2*c.step)
	case d == down && c.limit >= float64(c.ceiling):
		c.step = firstStep
	default:
		c.step = leastStep
	}
	c.went = d
}
