package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/capacity"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/placement"
	"github.com/hearth-compute/hearth/controlplane/scaling"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// step looks at the world once and brings it closer to what was asked for.
func (l *Loop) step(ctx context.Context, now time.Time) error {
	w, err := l.observe(ctx, now)
	if err != nil {
		return fmt.Errorf("observing: %w", err)
	}
	snaps := l.snapshots(w)
	plan, failed := l.decide(snaps, now)
	changed, err := l.commit(ctx, w, snaps, plan)
	if err != nil {
		// Nothing was committed, so nothing is acted upon; what is known is routed.
		l.publish(w, snaps)
		return errors.Join(failed, fmt.Errorf("committing: %w", err))
	}
	err = errors.Join(failed, l.act(ctx, w, plan))
	snaps = l.snapshots(w)
	l.publish(w, snaps)
	if changed && err == nil { // what failed is tried again at the next tick, not at once
		l.Nudge() // what was committed may allow more
	}
	return err
}

// plan is what was decided in one step.
type plan struct {
	actions []controlplane.Action
	blocked []capacity.Blocked
}

// decide runs the deciders for every provider that is not blind. A provider
// whose deciders panic is left as it is; the error says so.
func (l *Loop) decide(snaps []controlplane.Snapshot, now time.Time) (p plan, err error) {
	budget := -1
	if most := l.cfg.Policy.MaxInstances; most >= 0 {
		budget = most
		for i := range snaps {
			budget -= len(snaps[i].Instances)
		}
		budget = max(0, budget)
	}
	for i := range snaps {
		s := &snaps[i]
		if l.blind(s, now) {
			continue
		}
		one, failed := l.decideOne(s, budget, now)
		err = errors.Join(err, failed)
		p.actions = append(p.actions, one.actions...)
		p.blocked = append(p.blocked, one.blocked...)
		for _, a := range one.actions {
			if _, ok := a.(controlplane.LaunchInstance); ok && budget > 0 {
				budget--
			}
		}
	}
	return p, err
}

// decideOne decides for one provider; budget is how many instances more the
// fleet may have.
func (l *Loop) decideOne(s *controlplane.Snapshot, budget int, now time.Time) (p plan, err error) {
	defer func() {
		if bug := recover(); bug != nil {
			p = plan{}
			err = fmt.Errorf("deciding for capacity provider %s: panic: %v\n%s: %w", s.Provider.Name, bug, debug.Stack(), errdefs.ErrInternal)
		}
	}()
	cp := l.cfg.Policy.Capacity
	cp.Budget = budget
	pp := l.cfg.Policy.Placement
	pp.MayLaunch, pp.Keep = capacity.MayLaunch(*s, cp), cp.Keep
	placing := placement.Decide(*s, scaling.Decide(*s, now), now, pp)
	room := capacity.Decide(after(*s, placing.Actions), placing.Unplaced, now, cp)
	return plan{actions: append(placing.Actions, room.Actions...), blocked: room.Blocked}, nil
}

// after is s as it will be once the environments of a plan are started: an
// instance that just got one is not idle.
func after(s controlplane.Snapshot, actions []controlplane.Action) controlplane.Snapshot {
	s.Environments = slices.Clip(s.Environments)
	for _, a := range actions {
		if a, ok := a.(controlplane.StartEnvironment); ok {
			s.Environments = append(s.Environments, controlplane.Environment{
				ID: a.Environment, Provider: s.Provider.Name, Function: a.Function, Qualifier: a.Qualifier, Revision: a.Revision,
				Instance: a.Instance, Size: a.Size, State: controlplane.EnvironmentPending,
			})
		}
	}
	return s
}

// commit makes durable what must be before it is acted upon: instances and the
// states of versions, functions and providers. It tells whether anything was
// written, and updates w to match.
func (l *Loop) commit(ctx context.Context, w *world, snaps []controlplane.Snapshot, p plan) (bool, error) {
	ch := l.changes(w, snaps, p)
	if ch.empty() {
		return false, nil
	}
	err := l.cfg.DB.Update(ctx, func(wr store.Writer) error { return ch.write(wr) })
	if err != nil {
		return false, err
	}
	for i := range ch.versions {
		v := &ch.versions[i].next
		l.log.InfoContext(ctx, "version changed state", "function", string(v.Function), "version", string(v.Qualifier), "state", line(v))
		for j := range w.versions {
			if w.versions[j].Function == v.Function && w.versions[j].Qualifier == v.Qualifier {
				w.versions[j] = *v
			}
		}
	}
	return true, nil
}

// act performs the plan. It believes nothing worked: the next step looks.
func (l *Loop) act(ctx context.Context, w *world, p plan) error {
	for _, a := range p.actions {
		l.log.InfoContext(ctx, "decided", "action", a.String(), "reason", string(a.Why()))
		l.cfg.Metrics.action(ctx, a)
		switch a := a.(type) {
		case controlplane.StartEnvironment:
			l.start(w, a)
		case controlplane.StopEnvironment:
			l.stop(a, w.now)
		case controlplane.LaunchInstance, controlplane.DrainInstance, controlplane.TerminateInstance: // are committed, and seen to by ensureInstances
		}
	}
	l.desire(w)
	return l.ensureInstances(ctx, w, p)
}

// start places an environment in memory; desire tells the agent.
func (l *Loop) start(w *world, a controlplane.StartEnvironment) {
	for i := range w.versions {
		v := &w.versions[i]
		if v.Function != a.Function || v.Qualifier != a.Qualifier {
			continue
		}
		pub := v.Publication()
		if pub.Revision != a.Revision && v.Serving != nil {
			pub = *v.Serving
		}
		if pub.Revision != a.Revision {
			return // published again meanwhile: the next step decides anew
		}
		image := controlplane.Image{Ref: cmp.Or(pub.Code.Resolved, pub.Code.Image)}
		if pub.Config.PackageType != "Image" {
			image, _ = l.cfg.Image(pub.Config.Runtime)
		}
		l.placed[a.Environment] = &placed{at: w.now, Placement: controlplane.Placement{
			Instance: a.Instance,
			Assignment: controlplane.Assignment{
				Environment: a.Environment, Function: a.Function, Qualifier: a.Qualifier, ARN: v.ARN,
				Image: image, Publication: pub,
			},
		}}
		l.bookOf(a.Instance).dirty = true
		return
	}
}

func (l *Loop) stop(a controlplane.StopEnvironment, now time.Time) {
	p := l.placed[a.Environment]
	if p == nil {
		return
	}
	b := l.bookOf(a.Instance)
	b.dirty = true
	if a.Graceful {
		p.Draining, p.drainingSince = true, now
		return
	}
	delete(l.placed, a.Environment)
	intent := controlplane.StopDelete
	if a.Reason == controlplane.ReasonDrain {
		intent = controlplane.StopDrain
	}
	b.intent, b.intentAt = intent, b.generation+1
}

// desire sends every instance whose placements changed its whole set.
func (l *Loop) desire(w *world) {
	for i := range w.instances {
		id := w.instances[i].ID
		b := l.books[id]
		if _, heard := w.heard[id]; !heard || b == nil || !b.dirty {
			continue
		}
		b.generation++
		b.dirty = false
		set := controlplane.DesiredSet{Epoch: l.epoch, Generation: b.generation, Intent: b.intent}
		for _, p := range l.placed {
			if p.Instance == id {
				set.Environments = append(set.Environments, p.Placement)
			}
		}
		slices.SortFunc(set.Environments, func(x, y controlplane.Placement) int {
			return cmp.Compare(x.Assignment.Environment, y.Assignment.Environment)
		})
		l.cfg.Agents.Desire(id, set)
	}
}

// ensureInstances repeats launches and terminations until the fleet shows
// their effect.
func (l *Loop) ensureInstances(ctx context.Context, w *world, p plan) error {
	exist, err := l.cfg.Fleet.List(ctx)
	if err != nil {
		return fmt.Errorf("listing instances: %w", err)
	}
	var errs []error
	for id, in := range l.wanted(w, p) {
		if in.Fleet == l.cfg.Fleet.Name() {
			errs = append(errs, l.ensure(ctx, in, slices.Contains(exist, id), w.now))
		}
	}
	return errors.Join(errs...)
}

// ensure does what one instance still needs; there says whether the fleet has
// it.
func (l *Loop) ensure(ctx context.Context, in controlplane.Instance, there bool, now time.Time) error {
	ours := !l.cfg.Policy.Capacity.Keep
	switch {
	case in.State == controlplane.InstanceLaunching && !there && ours:
		return l.launch(ctx, in, now)
	case in.State == controlplane.InstanceTerminating && there:
		return l.cfg.Fleet.Terminate(ctx, in.ID)
	case in.State == controlplane.InstanceTerminating:
		l.Nudge() // there may be room for another once it is forgotten
		return l.forget(ctx, in.ID)
	case !there && ours && vanished(&in):
		l.log.WarnContext(ctx, "an instance vanished from the fleet", "instance", string(in.ID))
		return l.forget(ctx, in.ID)
	}
	return nil
}

// vanished tells whether an instance that had joined, and that the fleet does
// not know, is not heard either: it was ended behind our back, and must not
// count against any limit for ever.
func vanished(in *controlplane.Instance) bool {
	joined := in.State == controlplane.InstanceRunning || in.State == controlplane.InstanceDraining
	return joined && (in.Observed == nil || !in.Observed.Connected)
}

// wanted is the instances as they should be once the plan is done.
func (l *Loop) wanted(w *world, p plan) map[controlplane.InstanceID]controlplane.Instance {
	wanted := map[controlplane.InstanceID]controlplane.Instance{}
	for _, in := range w.instances {
		wanted[in.ID] = in
	}
	for _, a := range p.actions {
		switch a := a.(type) {
		case controlplane.LaunchInstance:
			wanted[a.Instance] = l.launched(a, w)
		case controlplane.TerminateInstance:
			in := wanted[a.Instance]
			in.State = controlplane.InstanceTerminating
			wanted[a.Instance] = in
		case controlplane.StartEnvironment, controlplane.StopEnvironment, controlplane.DrainInstance:
		}
	}
	return wanted
}

func (l *Loop) launched(a controlplane.LaunchInstance, w *world) controlplane.Instance {
	in := controlplane.Instance{
		ID: a.Instance, Provider: a.Provider, Zone: a.Zone, State: controlplane.InstanceLaunching,
		Size: a.Size, Fleet: l.cfg.Fleet.Name(), CreatedAt: w.now,
	}
	for i := range w.providers {
		if p := &w.providers[i]; p.Name == a.Provider {
			in.Template = p.Template()
		}
	}
	return in
}

// launch asks the fleet for the machine. What it has no capacity for is
// forgotten, to be decided anew.
func (l *Loop) launch(ctx context.Context, in controlplane.Instance, now time.Time) error {
	token, _, err := l.cfg.Tokens.Mint(ctx, in.Provider, in.ID, l.cfg.Policy.TokenLifetime, now)
	if err != nil {
		return err
	}
	err = l.cfg.Fleet.Launch(ctx, fleet.LaunchRequest{
		Instance: in.ID, Provider: in.Provider, Zone: in.Zone, Size: in.Size, JoinToken: token,
	})
	if errors.Is(err, fleet.ErrCapacity) || errdefs.IsResourceExhausted(err) {
		return errors.Join(fmt.Errorf("launching %s in %s: %w", in.ID, in.Zone, err), l.forget(ctx, in.ID))
	}
	if err != nil {
		return fmt.Errorf("launching %s in %s: %w", in.ID, in.Zone, err)
	}
	return nil
}

// forget drops an instance that is gone.
func (l *Loop) forget(ctx context.Context, id controlplane.InstanceID) error {
	err := l.cfg.DB.Update(ctx, func(w store.Writer) error { return w.DeleteInstance(id) })
	if err != nil {
		return err
	}
	l.cfg.Agents.Forget(id)
	delete(l.books, id)
	delete(l.known, id)
	for env, p := range l.placed {
		if p.Instance == id {
			delete(l.placed, env)
		}
	}
	l.log.InfoContext(ctx, "instance is gone", "instance", string(id))
	return nil
}

func same(a, b controlplane.Version) bool { return reflect.DeepEqual(a, b) }
