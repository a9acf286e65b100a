// Package admit decides whether one more invocation may run in an environment
// now, and says why not.
//
// # Model
//
// [Decide] compares integers: what is in flight with what the environment may
// take. What it may take is worked out ten times a second by a [Governor], from
// what was measured since.
//
//   - The ceiling is configured.
//   - The CPU limit is searched for: where the environment's CPU time is all used,
//     more invocations at once only make each slower. See [Governor].
//   - The memory limit is how many fit, from what an invocation of this function
//     was seen to take; so a burst that outruns the samples is refused, too.
//   - Memory and /tmp that are full refuse everything until they are not.
//
// # Invariants
//
//  1. More load never turns a refusal into an admission.
//  2. A refusal carries exactly one reason: the first that applies in the order
//     not ready, draining, memory, disk, cpu, concurrency.
//  3. An environment whose CPU is not used up takes as many as are configured.
package admit

import (
	"time"

	"github.com/hearth-compute/hearth/agent"
)

// Load is what an environment is doing now.
type Load struct {
	// Ready says that its runtime has asked for an invocation.
	Ready bool
	// Draining says that it, or the agent, takes nothing new.
	Draining bool
	// InFlight counts invocations that hold a slot.
	InFlight int
}

// Limits is what an environment may do.
type Limits struct {
	// Concurrency is the configured number of slots, at least 1.
	Concurrency int
	// CPU and Memory are how many invocations may run at once by the CPU time and
	// by the memory there is; 0 means that they do not limit.
	CPU, Memory int
	// MemoryFull and DiskFull say that nothing may start.
	MemoryFull, DiskFull bool
	// RetryAfter is when a slot becomes free, by how long invocations take.
	RetryAfter time.Duration
}

// Slots is how many invocations may run at once now.
func (l Limits) Slots() int {
	n := l.Concurrency
	switch {
	case l.MemoryFull || l.DiskFull:
		return 0
	case l.CPU > 0:
		n = min(n, l.CPU)
	}
	if l.Memory > 0 {
		n = min(n, l.Memory)
	}
	return n
}

// Decide answers whether one more invocation may run under the load.
func Decide(load Load, limits Limits) agent.Verdict {
	reason := agent.Reason("")
	switch {
	case !load.Ready:
		return agent.Verdict{Reason: agent.ReasonNotReady}
	case load.Draining:
		return agent.Verdict{Reason: agent.ReasonDraining}
	case limits.MemoryFull || limits.Memory > 0 && load.InFlight >= limits.Memory:
		reason = agent.ReasonMemory
	case limits.DiskFull:
		reason = agent.ReasonDisk
	case limits.CPU > 0 && load.InFlight >= limits.CPU:
		reason = agent.ReasonCPU
	case load.InFlight >= limits.Concurrency:
		reason = agent.ReasonConcurrency
	default:
		return agent.Verdict{Admitted: true}
	}
	return agent.Verdict{Reason: reason, RetryAfter: limits.RetryAfter}
}
