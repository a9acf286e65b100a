// Package capacity decides which instances to launch and to give back.
//
// # Invariants
//
//  1. The vCPUs of a provider's instances, launching ones included, never
//     exceed its MaxVCpuCount.
//  2. No instance that has environments is terminated, unless its provider is
//     being deleted and they are gone.
package capacity

import (
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// Policy is what operators may tune.
type Policy struct {
	// Size of one instance.
	Size controlplane.Resources
	// Budget is how many further instances the fleet allows; negative means no
	// limit. A fleet that cannot launch has 0.
	Budget int
	// IdleAfter is how long an instance may be empty before it is given back.
	IdleAfter time.Duration
	// LaunchPatience is how long an instance may take to join. Then it is no
	// longer counted on and given back. Zero means for ever.
	LaunchPatience time.Duration
	// Keep forbids draining and terminating: the machines are not ours. What runs
	// on one that is outdated is moved by placement alone.
	Keep bool
}

// MayLaunch tells whether the provider may have a further instance.
func MayLaunch(s controlplane.Snapshot, p Policy) bool {
	return s.Provider.State == controlplane.ProviderActive && p.Budget != 0 && vcpus(s)+p.Size.CPU <= limit(s)
}

func limit(s controlplane.Snapshot) controlplane.MilliCPU {
	return controlplane.MilliCPU(s.Provider.MaxVCPU) * 1000
}

// vcpus is what all instances of the provider have together.
func vcpus(s controlplane.Snapshot) controlplane.MilliCPU {
	var sum controlplane.MilliCPU
	for i := range s.Instances {
		sum += size(&s.Instances[i]).CPU
	}
	return sum
}

// size is what an instance has: as its agent says, or as asked for.
func size(in *controlplane.Instance) controlplane.Resources {
	if in.Observed != nil && in.Observed.Allocatable.CPU > 0 {
		return in.Observed.Allocatable
	}
	return in.Size
}

// Blocked is an environment for which there is no room and will be none until
// something changes.
type Blocked struct {
	controlplane.Unplaced
	// Code is a StateReasonCode of the Lambda API, Reason the same for people.
	Code, Reason string
}

// Decision is what Decide returns.
type Decision struct {
	// Actions are LaunchInstance, DrainInstance and TerminateInstance.
	Actions []controlplane.Action
	Blocked []Blocked
}

// Decide returns the instances to launch for what is unplaced, the outdated ones
// to empty and the idle ones to terminate. It is a function of its arguments alone.
func Decide(s controlplane.Snapshot, unplaced []controlplane.Unplaced, now time.Time, p Policy) Decision {
	var d Decision
	coming := launching(s, now, p)
	budget, used := p.Budget, vcpus(s)
	names := newNames(s, now)
	for _, u := range unplaced {
		if takeComing(coming[u.Zone], u.Size) {
			continue
		}
		switch {
		case !u.Size.Fits(p.Size) && p.Budget != 0:
			d.block(u, "InsufficientCapacity", fmt.Sprintf(
				"An execution environment of this function needs %s; the instances of the capacity provider have %s.", say(u.Size), say(p.Size)))
		case used+p.Size.CPU > limit(s):
			d.block(u, "CapacityProviderScalingLimitExceeded", fmt.Sprintf(
				"The capacity provider is at its MaxVCpuCount of %d and has no room for a further execution environment of %s.", s.Provider.MaxVCPU, say(u.Size)))
		case budget == 0:
			d.block(u, "InsufficientCapacity", fmt.Sprintf(
				"No instance has room for an execution environment of %s and no further instance can be launched.", say(u.Size)))
		default:
			free := p.Size.Minus(u.Size)
			coming[u.Zone] = append(coming[u.Zone], &free)
			budget, used = budget-1, used+p.Size.CPU
			d.Actions = append(d.Actions, controlplane.LaunchInstance{
				Instance: names.next(u.Zone),
				Provider: s.Provider.Name, Zone: u.Zone, Size: p.Size, Reason: controlplane.ReasonNoRoom,
			})
		}
	}
	if id, yes := nextOutdated(s); yes && !p.Keep {
		d.Actions = append(d.Actions, controlplane.DrainInstance{Instance: id, Reason: controlplane.ReasonOutdated})
	}
	for i := range s.Instances {
		if why, yes := done(s, &s.Instances[i], now, p); yes {
			d.Actions = append(d.Actions, controlplane.TerminateInstance{Instance: s.Instances[i].ID, Reason: why})
		}
	}
	return d
}

func (d *Decision) block(u controlplane.Unplaced, code, reason string) {
	d.Blocked = append(d.Blocked, Blocked{Unplaced: u, Code: code, Reason: reason})
}

// launching is the room on instances that are on their way, by zone.
func launching(s controlplane.Snapshot, now time.Time, p Policy) map[controlplane.Zone][]*controlplane.Resources {
	coming := map[controlplane.Zone][]*controlplane.Resources{}
	for i := range s.Instances {
		in := &s.Instances[i]
		if in.State == controlplane.InstanceLaunching && !overdue(in, now, p) && !s.Outdated(in) {
			free := in.Size
			coming[in.Zone] = append(coming[in.Zone], &free)
		}
	}
	return coming
}

// overdue tells whether an instance should have joined by now.
func overdue(in *controlplane.Instance, now time.Time, p Policy) bool {
	joined := in.Observed != nil && in.Observed.Connected
	return in.State == controlplane.InstanceLaunching && !joined && p.LaunchPatience > 0 &&
		now.Sub(in.KnownSince) >= p.LaunchPatience
}

func takeComing(coming []*controlplane.Resources, size controlplane.Resources) bool {
	for _, free := range coming {
		if size.Fits(*free) {
			*free = free.Minus(size)
			return true
		}
	}
	return false
}

// done tells whether an instance should be given back.
func done(s controlplane.Snapshot, in *controlplane.Instance, now time.Time, p Policy) (controlplane.Reason, bool) {
	if in.State == controlplane.InstanceTerminating {
		return "", false
	}
	switch occupied := occupied(s, in.ID); {
	case s.Provider.State == controlplane.ProviderDeleting:
		return controlplane.ReasonProviderDelete, !occupied
	case p.Keep || occupied:
		return "", false
	case overdue(in, now, p):
		return controlplane.ReasonNeverJoined, true
	case s.Outdated(in):
		return controlplane.ReasonOutdated, true
	case in.Observed == nil || in.Observed.EmptySince.IsZero():
		return "", false
	}
	return controlplane.ReasonIdle, now.Sub(in.Observed.EmptySince) >= p.IdleAfter
}

func occupied(s controlplane.Snapshot, id controlplane.InstanceID) bool {
	return slices.ContainsFunc(s.Environments, func(e controlplane.Environment) bool { return e.Instance == id })
}

// nextOutdated chooses the next instance to empty because the provider asks for
// another kind now. One at a time: what runs on it is started elsewhere first.
func nextOutdated(s controlplane.Snapshot) (id controlplane.InstanceID, yes bool) {
	if s.Provider.State != controlplane.ProviderActive {
		return "", false
	}
	for i := range s.Instances {
		in := &s.Instances[i]
		switch {
		case !s.Outdated(in) || !occupied(s, in.ID):
		case in.State == controlplane.InstanceDraining:
			return "", false // one is under way
		case in.State == controlplane.InstanceRunning && !yes:
			id, yes = in.ID, true
		}
	}
	return id, yes
}

// names makes the ids of instances from the decision to launch them, so that
// deciding again gives the same ones, and never one that is taken.
type names struct {
	provider controlplane.ProviderName
	now      time.Time
	taken    map[controlplane.InstanceID]bool
	serial   int
}

func newNames(s controlplane.Snapshot, now time.Time) *names {
	n := &names{provider: s.Provider.Name, now: now, taken: map[controlplane.InstanceID]bool{}}
	for i := range s.Instances {
		n.taken[s.Instances[i].ID] = true
	}
	return n
}

func (n *names) next(z controlplane.Zone) controlplane.InstanceID {
	for {
		h := fnv.New128a()
		_, _ = fmt.Fprintf(h, "%s\x00%s\x00%d\x00%d", n.provider, z, n.now.UnixNano(), n.serial)
		n.serial++
		id := controlplane.InstanceID(fmt.Sprintf("i-%x", h.Sum(nil))[:19])
		if !n.taken[id] {
			n.taken[id] = true
			return id
		}
	}
}

func say(r controlplane.Resources) string {
	return fmt.Sprintf("%g vCPU and %d MiB", float64(r.CPU)/1000, r.Memory>>20)
}
