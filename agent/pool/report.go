package pool

import (
	"cmp"
	"maps"
	"slices"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// Position is which set the pool follows.
type Position struct {
	Epoch, Generation uint64
	// Refused says why the last received set was refused; empty if accepted.
	Refused string
}

// Position returns which set the pool follows.
func (p *Pool) Position() Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Position{Epoch: p.accepted.Epoch, Generation: p.accepted.Generation, Refused: p.refused}
}

// Accepted is the set the pool follows. A process that has not received one
// yet follows what it adopted, as a set of epoch and generation zero; it
// reports false when there is nothing of that either.
func (p *Pool) Accepted() (agent.DesiredSet, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hasSet {
		return p.accepted, true
	}
	var set agent.DesiredSet
	for _, id := range slices.Sorted(maps.Keys(p.environments)) {
		e := p.environments[id]
		set.Environments = append(set.Environments, agent.DesiredEnvironment{Assignment: e.assignment, Draining: e.draining})
	}
	return set, len(set.Environments) > 0
}

// Statuses is every environment the pool has, ordered by id, without heat but
// for what their invokes say.
func (p *Pool) Statuses() []agent.EnvironmentStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	statuses := make([]agent.EnvironmentStatus, 0, len(p.environments))
	for id, e := range p.environments {
		s := agent.EnvironmentStatus{
			Environment:    id,
			FunctionARN:    e.assignment.FunctionARN,
			Revision:       e.assignment.Revision,
			State:          e.state,
			Failures:       e.failures,
			Sandbox:        string(e.sandbox),
			Since:          e.since,
			MaxConcurrency: e.assignment.MaxConcurrency,
		}
		if e.state == agent.StateFailed {
			s.ReasonCode, s.Reason = e.code, e.reason
		}
		if in := e.serving(); in != nil {
			s.Sandbox = string(in.id)
			s.Heat.Limit = in.api.Load().Limit
		}
		for _, in := range e.incarnations {
			s.Heat.InFlight += in.api.InFlight()
			s.Heat.Overrun += in.api.Overrun()
		}
		s.Heat.Refusals = e.refusalsLocked()
		statuses = append(statuses, s)
	}
	slices.SortFunc(statuses, func(a, b agent.EnvironmentStatus) int { return cmp.Compare(a.Environment, b.Environment) })
	return statuses
}

// Refusals counts what all environments refused since the pool exists, those that
// are gone included.
func (p *Pool) Refusals() agent.Refusals {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.forgotten
	for _, e := range p.environments {
		all = all.Plus(e.refusalsLocked())
	}
	return all
}

// forgetLocked ends an environment that is gone.
func (p *Pool) forgetLocked(id agent.EnvironmentID) {
	if e := p.environments[id]; e != nil {
		p.forgotten = p.forgotten.Plus(e.refusalsLocked())
	}
	delete(p.environments, id)
}

func (e *environment) refusalsLocked() agent.Refusals {
	all := e.refused
	for _, in := range e.incarnations {
		all = all.Plus(in.api.Refusals())
	}
	return all
}

// learnedLocked is how much memory an invocation takes, as far as it was seen.
func (e *environment) learnedLocked() agent.Bytes {
	for _, in := range slices.Backward(e.incarnations) {
		if n := in.api.PerInvoke(); n > 0 {
			return n
		}
	}
	return e.perInvoke
}

// Live is one sandbox that exists, for whoever measures it.
type Live struct {
	Environment agent.EnvironmentID
	Sandbox     string
	// CgroupPath and TmpPath are empty if the driver has none.
	CgroupPath, TmpPath string
	// API is told what is measured.
	API *runtimeapi.API
}

// Live appends every sandbox that exists to into, ordered by its id.
func (p *Pool) Live(into []Live) []Live {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, in := range p.sandboxes {
		if in.created {
			into = append(into, Live{
				Environment: in.assignment.Environment, Sandbox: string(id),
				CgroupPath: in.cgroup, TmpPath: in.tmpPath, API: in.api,
			})
		}
	}
	slices.SortFunc(into, func(a, b Live) int { return cmp.Compare(a.Sandbox, b.Sandbox) })
	return into
}
