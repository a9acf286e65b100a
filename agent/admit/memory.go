package admit

import (
	"math"
	"time"

	"github.com/hearth-compute/hearth/agent"
)

// memoryLimit learns what an invocation takes and says how many fit.
//
// What one takes is what the environment holds above what it has held at least
// over the last while, divided by how many ran: at once when that is more than
// was learned, else slowly less, so that it stays near the most (the 99th of
// 100). It is learned only while something runs.
//
// How many fit follows from pairs of what ran and what was held at that moment:
// what is free beside them, divided by what one takes, may run in addition. Of
// the pairs of the last second the best counts: a runtime that keeps memory to
// use it again has room for what it had room for just now.
type memoryLimit struct {
	perInvoke agent.Bytes
	// proven is the most that ran when one ended.
	proven int
	// floors are the least memory held in each of the last seconds.
	floors [floorSeconds]agent.Bytes
	second int
	within time.Duration
	// fits are how many could run by each of the last samples.
	fits [pairs]int
	next int
}

const (
	// floorSeconds is over how long the least memory is taken for what the
	// environment needs when idle.
	floorSeconds = 30
	// pairs is how many samples how many fit is decided by: a second's.
	pairs = 10
	// halfLife is after how long at work half of what was learned too much is
	// forgotten.
	halfLife = 10 * time.Second
	// fitsUpTo is the part of the limit that may be planned with, in thousandths:
	// below fullAt, so that what was planned does not close the gate.
	fitsUpTo = 900
	// unknownSlots is how many may run before it was seen what one takes: what AWS
	// starts its densest runtime with on 1 vCPU.
	unknownSlots = 64
	// growth is by which part more may run than ran when invocations ended: what
	// those that run take is not seen before they have taken it.
	growth = 4
	// leastPerInvoke is what an invocation takes at least.
	leastPerInvoke agent.Bytes = 16 << 10
)

// observe returns how many may run at once; 0 if memory does not limit.
func (m *memoryLimit) observe(u Usage, w Work) int {
	if u.MemoryLimit <= 0 || u.Memory <= 0 {
		return 0
	}
	floor := m.floor(u)
	if w.InFlight > 0 {
		m.learn(max(0, u.Memory-floor)/agent.Bytes(w.InFlight), u.Elapsed)
	}
	if m.perInvoke == 0 {
		return unknownSlots
	}
	free := u.MemoryLimit/1000*fitsUpTo - u.Memory
	m.fits[m.next%pairs] = max(1, w.InFlight+int(free/max(m.perInvoke, leastPerInvoke)))
	m.next++
	best := 0
	for _, n := range m.fits {
		best = max(best, n)
	}
	if w.Completed > 0 {
		m.proven = max(m.proven, w.InFlight)
	}
	return min(best, max(unknownSlots, m.proven+m.proven/growth))
}

func (m *memoryLimit) learn(took agent.Bytes, elapsed time.Duration) {
	if took >= m.perInvoke {
		m.perInvoke = took
		return
	}
	keep := math.Exp2(-float64(elapsed) / float64(halfLife))
	m.perInvoke = took + agent.Bytes(float64(m.perInvoke-took)*keep)
}

// floor is the least memory held over the last floorSeconds.
func (m *memoryLimit) floor(u Usage) agent.Bytes {
	m.within += u.Elapsed
	if m.within >= time.Second {
		m.within = 0
		m.second = (m.second + 1) % floorSeconds
		m.floors[m.second] = 0
	}
	if f := &m.floors[m.second]; *f == 0 || u.Memory < *f {
		*f = u.Memory
	}
	least := u.Memory
	for _, f := range m.floors {
		if f > 0 {
			least = min(least, f)
		}
	}
	return least
}
