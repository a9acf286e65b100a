// Package admit decides whether one more invocation may run in an environment
// now, and says why not.
//
// # Invariants
//
//  1. More load never turns a refusal into an admission.
//  2. A refusal carries exactly one reason: the first that applies in the order
//     not ready, draining, concurrency.
package admit

import "github.com/hearth-compute/hearth/agent"

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
	// Concurrency is the number of slots, at least 1.
	Concurrency int
}

// Decide answers whether one more invocation may run under the load.
func Decide(load Load, limits Limits) agent.Verdict {
	switch {
	case !load.Ready:
		return agent.Verdict{Reason: agent.ReasonNotReady}
	case load.Draining:
		return agent.Verdict{Reason: agent.ReasonDraining}
	case load.InFlight >= limits.Concurrency:
		return agent.Verdict{Reason: agent.ReasonConcurrency}
	}
	return agent.Verdict{Admitted: true}
}
