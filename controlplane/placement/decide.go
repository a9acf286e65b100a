// Package placement decides which environment runs on which instance: the
// environments of a version spread over zones first, then on the instance they
// fit most tightly.
//
// # Invariants
//
//  1. The sum of what is placed on an instance never exceeds what it has.
//  2. Environments of one version are spread over the provider's zones within
//     one of even, as far as there is room.
//  3. A publication that serves loses no environment before the one that
//     replaces it is ready.
//  4. An environment on an instance being drained is stopped only once another
//     is ready in its place.
package placement

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// Policy is what operators may tune.
type Policy struct {
	// LostAfter is how long an agent may be silent before its environments are
	// replaced elsewhere.
	LostAfter time.Duration
	// DrainLimit is how long an environment may take to finish its invokes
	// beyond the function's timeout.
	DrainLimit time.Duration
	// LaunchPatience is how long a launching instance counts as room to come.
	LaunchPatience time.Duration
	// MayLaunch says that an environment without room in its zone may wait for
	// a further instance there. Otherwise it takes room in any zone.
	MayLaunch bool
	// Keep says that the machines are not ours, so that none is drained for being
	// outdated: its environments move away all the same, and back if it fits again.
	Keep bool
}

// Decision is what Decide returns.
type Decision struct {
	// Actions are StartEnvironment and StopEnvironment.
	Actions []controlplane.Action
	// Unplaced found no room, in the order of the targets.
	Unplaced []controlplane.Unplaced
}

// Decide returns the changes that bring the environments of s toward targets.
// It is a function of its arguments alone.
func Decide(s controlplane.Snapshot, targets []controlplane.Target, now time.Time, p Policy) Decision {
	b := newBoard(s, now, p)
	for _, t := range targets {
		b.start(t)
	}
	for _, t := range targets {
		b.surplus(t)
	}
	b.strays(targets)
	b.finish()
	return b.out
}

// board is the plan in the making.
type board struct {
	snap      controlplane.Snapshot
	now       time.Time
	policy    Policy
	free      map[controlplane.InstanceID]controlplane.Resources
	coming    []room // on instances that are launching
	instances map[controlplane.InstanceID]*controlplane.Instance
	outdated  map[controlplane.InstanceID]bool
	byPub     map[pub][]*controlplane.Environment
	out       Decision
	taken     map[controlplane.EnvironmentID]bool
	serial    int
}

// room is what is free on an instance that is not there yet.
type room struct {
	zone controlplane.Zone
	free controlplane.Resources
}

// pub names a publication.
type pub struct {
	function  controlplane.FunctionName
	qualifier controlplane.Qualifier
	revision  controlplane.Revision
}

func pubOf(t controlplane.Target) pub { return pub{t.Function, t.Qualifier, t.Revision} }

func newBoard(s controlplane.Snapshot, now time.Time, p Policy) *board {
	b := &board{
		snap: s, now: now, policy: p,
		free:      map[controlplane.InstanceID]controlplane.Resources{},
		instances: map[controlplane.InstanceID]*controlplane.Instance{},
		outdated:  map[controlplane.InstanceID]bool{},
		byPub:     map[pub][]*controlplane.Environment{},
		taken:     map[controlplane.EnvironmentID]bool{},
	}
	for i := range s.Instances {
		in := &s.Instances[i]
		b.instances[in.ID] = in
		b.outdated[in.ID] = s.Outdated(in)
		if in.Observed != nil {
			b.free[in.ID] = in.Observed.Allocatable
		}
		if in.State == controlplane.InstanceLaunching && now.Sub(in.KnownSince) < p.LaunchPatience && !b.outdated[in.ID] {
			b.coming = append(b.coming, room{zone: in.Zone, free: in.Size})
		}
	}
	for i := range s.Environments {
		e := &s.Environments[i]
		k := pub{e.Function, e.Qualifier, e.Revision}
		b.byPub[k] = append(b.byPub[k], e)
		b.taken[e.ID] = true
		b.free[e.Instance] = b.free[e.Instance].Minus(e.Size)
	}
	return b
}

// usable instances take new environments.
func usable(in *controlplane.Instance) bool {
	return in.State == controlplane.InstanceRunning && in.Observed != nil &&
		in.Observed.Connected && !in.Observed.Stopping
}

// lost environments do not count: their instance is gone or silent too long.
func (b *board) lost(e *controlplane.Environment) bool {
	in := b.instances[e.Instance]
	if in == nil || in.State == controlplane.InstanceTerminating {
		return true
	}
	return in.Observed == nil || !in.Observed.Connected && b.now.Sub(in.Observed.HeardAt) > b.policy.LostAfter
}

// counts tells whether e is one of those a target asks for.
func (b *board) counts(e *controlplane.Environment) bool {
	return !e.Draining && !b.lost(e) && !b.leaving(e)
}

// leaving environments are on an instance that is being emptied.
func (b *board) leaving(e *controlplane.Environment) bool {
	in := b.instances[e.Instance]
	return in != nil && (in.State == controlplane.InstanceDraining || b.policy.Keep && b.outdated[in.ID])
}

// start places what the target lacks.
func (b *board) start(t controlplane.Target) {
	k := pubOf(t)
	perZone := map[controlplane.Zone]int{}
	have := 0
	for _, e := range b.byPub[k] {
		if !b.counts(e) {
			continue
		}
		have++
		if in := b.instances[e.Instance]; in != nil {
			perZone[in.Zone]++
		}
	}
	// An old publication that only serves until it is replaced is not topped up
	// beyond what it needs either: it lost an environment, it gets another.
	for range t.Count - have {
		zone, in := b.choose(t.Size, perZone)
		perZone[zone]++
		if in == nil {
			b.out.Unplaced = append(b.out.Unplaced, controlplane.Unplaced{
				Function: t.Function, Qualifier: t.Qualifier, Revision: t.Revision, Size: t.Size, Zone: zone,
			})
			continue
		}
		b.place(t, in)
	}
}

// choose returns the zone that should get the next environment and the
// instance there it fits most tightly, nil if none has room.
func (b *board) choose(size controlplane.Resources, perZone map[controlplane.Zone]int) (controlplane.Zone, *controlplane.Instance) {
	zones := slices.Clone(b.snap.Provider.Zones)
	slices.SortStableFunc(zones, func(x, y controlplane.Zone) int {
		return cmp.Or(cmp.Compare(perZone[x], perZone[y]), cmp.Compare(x, y))
	})
	if len(zones) == 0 {
		return "", nil
	}
	for _, z := range zones {
		if in := b.tightest(z, size, false); in != nil {
			return z, in
		}
		if b.takeComing(z, size) || b.policy.MayLaunch {
			return z, nil // wait for an instance in the zone that lacks room
		}
		if in := b.tightest(z, size, true); in != nil {
			return z, in // it will have to move again, but there is nothing better
		}
	}
	return zones[0], nil
}

// takeComing sets room aside on an instance on its way to the zone.
func (b *board) takeComing(z controlplane.Zone, size controlplane.Resources) bool {
	for i := range b.coming {
		if r := &b.coming[i]; r.zone == z && size.Fits(r.free) {
			r.free = r.free.Minus(size)
			return true
		}
	}
	return false
}

// tightest is the instance of the zone that size fits most tightly, among those
// that are outdated or those that are not.
func (b *board) tightest(z controlplane.Zone, size controlplane.Resources, outdated bool) *controlplane.Instance {
	var best *controlplane.Instance
	for i := range b.snap.Instances {
		in := &b.snap.Instances[i]
		if in.Zone != z || !usable(in) || !size.Fits(b.free[in.ID]) || b.outdated[in.ID] != outdated {
			continue
		}
		if best == nil || slack(b.free[in.ID], in) < slack(b.free[best.ID], best) {
			best = in
		}
	}
	return best
}

// slack is how much of an instance is free, as the larger share of CPU and
// memory. The instances are ordered by id, so equals resolve to the first.
func slack(free controlplane.Resources, in *controlplane.Instance) float64 {
	all := in.Observed.Allocatable
	if all.CPU <= 0 || all.Memory <= 0 {
		return math.Inf(1)
	}
	return max(float64(free.CPU)/float64(all.CPU), float64(free.Memory)/float64(all.Memory))
}

func (b *board) place(t controlplane.Target, in *controlplane.Instance) {
	b.free[in.ID] = b.free[in.ID].Minus(t.Size)
	b.out.Actions = append(b.out.Actions, controlplane.StartEnvironment{
		Environment: b.environmentID(t, in.ID),
		Function:    t.Function, Qualifier: t.Qualifier, Revision: t.Revision,
		Instance: in.ID, Size: t.Size, Reason: t.Reason,
	})
}

// environmentID names an environment after the decision to start it, so that
// deciding again gives the same name, and never one that is taken.
func (b *board) environmentID(t controlplane.Target, in controlplane.InstanceID) controlplane.EnvironmentID {
	for {
		b.serial++
		h := fnv.New64a()
		_, _ = fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s\x00%d\x00%d", t.Function, t.Qualifier, t.Revision, in, b.now.UnixNano(), b.serial)
		id := controlplane.EnvironmentID(fmt.Sprintf("e-%016x", h.Sum64()))
		if !b.taken[id] {
			b.taken[id] = true
			return id
		}
	}
}

// surplus stops what a target no longer wants.
func (b *board) surplus(t controlplane.Target) {
	var extra []*controlplane.Environment
	ready := 0
	for _, e := range b.byPub[pubOf(t)] {
		if b.counts(e) {
			ready += useful(e)
			extra = append(extra, e)
		}
	}
	b.leave(t, ready)
	if t.Keep || len(extra) <= t.Count {
		return
	}
	reason := t.Reason
	if t.Count > 0 {
		reason = controlplane.ReasonSurplus
	}
	for len(extra) > t.Count {
		i := b.leastUseful(extra)
		b.stop(extra[i], reason)
		extra = slices.Delete(extra, i, i+1)
	}
}

// leastUseful chooses which of envs should go: not ready before ready, then
// where the zone has most of them, then the youngest.
func (b *board) leastUseful(envs []*controlplane.Environment) int {
	perZone := map[controlplane.Zone]int{}
	for _, e := range envs {
		perZone[b.zone(e)]++
	}
	least := 0
	for i, e := range envs {
		l := envs[least]
		if cmp.Or(
			cmp.Compare(useful(e), useful(l)),
			cmp.Compare(perZone[b.zone(l)], perZone[b.zone(e)]),
			l.PlacedAt.Compare(e.PlacedAt),
			cmp.Compare(e.ID, l.ID)) < 0 {
			least = i
		}
	}
	return least
}

// zone is where e runs; empty if its instance is not known.
func (b *board) zone(e *controlplane.Environment) controlplane.Zone {
	if in := b.instances[e.Instance]; in != nil {
		return in.Zone
	}
	return ""
}

// leave stops environments on draining instances: as soon as enough others are
// ready, or at once when none is wanted or they serve nobody anyway.
func (b *board) leave(t controlplane.Target, ready int) {
	for _, e := range b.byPub[pubOf(t)] {
		if !e.Draining && b.leaving(e) && (ready >= t.Count || !mayServe(e)) {
			b.stop(e, controlplane.ReasonDrain)
		}
	}
}

// mayServe tells whether an environment may have invokes.
func mayServe(e *controlplane.Environment) bool {
	return e.State == controlplane.EnvironmentReady || e.State == controlplane.EnvironmentUnknown
}

func useful(e *controlplane.Environment) int {
	if e.State == controlplane.EnvironmentReady {
		return 1
	}
	return 0
}

// strays are environments no target knows: their version was deleted or their
// publication replaced.
func (b *board) strays(targets []controlplane.Target) {
	known := map[pub]bool{}
	versions := map[controlplane.FunctionName]map[controlplane.Qualifier]bool{}
	for _, t := range targets {
		known[pubOf(t)] = true
		if versions[t.Function] == nil {
			versions[t.Function] = map[controlplane.Qualifier]bool{}
		}
		versions[t.Function][t.Qualifier] = true
	}
	for i := range b.snap.Environments {
		e := &b.snap.Environments[i]
		if e.Draining || known[pub{e.Function, e.Qualifier, e.Revision}] {
			continue
		}
		reason := controlplane.ReasonGone
		if versions[e.Function][e.Qualifier] {
			reason = controlplane.ReasonReplaced
		}
		b.stop(e, reason)
	}
}

// stop drains an environment that may have invokes, and removes one that has
// none at once.
func (b *board) stop(e *controlplane.Environment, reason controlplane.Reason) {
	b.out.Actions = append(b.out.Actions, controlplane.StopEnvironment{
		Environment: e.ID, Instance: e.Instance, Reason: reason,
		Graceful: mayServe(e),
	})
}

// finish removes draining environments that became idle, took too long, or are
// lost.
func (b *board) finish() {
	limits := map[pub]time.Duration{}
	for i := range b.snap.Versions {
		v := &b.snap.Versions[i]
		limits[pub{v.Function, v.Qualifier, v.Revision}] = time.Duration(v.Config.TimeoutS) * time.Second
	}
	for i := range b.snap.Environments {
		e := &b.snap.Environments[i]
		if !e.Draining {
			continue
		}
		limit, known := limits[pub{e.Function, e.Qualifier, e.Revision}]
		if !known {
			limit = maxTimeout
		}
		if b.over(e, limit+b.policy.DrainLimit) {
			b.out.Actions = append(b.out.Actions, controlplane.StopEnvironment{
				Environment: e.ID, Instance: e.Instance, Reason: controlplane.ReasonDrain,
			})
		}
	}
}

// over tells whether a draining environment is idle, never ran, took longer
// than limit, or is on a host that was not heard for as long.
func (b *board) over(e *controlplane.Environment, limit time.Duration) bool {
	switch e.State {
	case controlplane.EnvironmentDraining:
		return e.Heat.InFlight == 0 || !e.DrainingSince.IsZero() && b.now.Sub(e.DrainingSince) > limit
	case controlplane.EnvironmentFailed, controlplane.EnvironmentPending:
		return true
	case controlplane.EnvironmentUnknown:
		return b.silent(e) > limit
	case controlplane.EnvironmentStarting, controlplane.EnvironmentReady: // it has not heard of it yet
	}
	return false
}

// silent is how long the agent of e was not heard; 0 while it is connected.
func (b *board) silent(e *controlplane.Environment) time.Duration {
	in := b.instances[e.Instance]
	if in == nil || in.Observed == nil || in.Observed.Connected {
		return 0
	}
	return b.now.Sub(in.Observed.HeardAt)
}

// maxTimeout is the longest timeout a function may have.
const maxTimeout = 900 * time.Second
