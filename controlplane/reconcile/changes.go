package reconcile

import (
	"slices"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// changes is what one step makes durable.
type changes struct {
	versions  []versionChange
	instances []controlplane.Instance
	// activate, and drop what is deleted and has nothing left.
	activate      []controlplane.ProviderName
	dropProviders []controlplane.ProviderName
	dropFunctions []controlplane.FunctionName
	dropVersions  []versionKey
}

type versionKey struct {
	function  controlplane.FunctionName
	qualifier controlplane.Qualifier
}

// versionChange moves a version on, unless somebody changed it meanwhile.
type versionChange struct {
	facts facts
	seen  controlplane.Version
	next  controlplane.Version
}

func (c *changes) empty() bool {
	return len(c.versions)+len(c.instances)+len(c.activate)+len(c.dropProviders)+len(c.dropFunctions)+len(c.dropVersions) == 0
}

// changes works out what a step has to write.
func (l *Loop) changes(w *world, snaps []controlplane.Snapshot, p plan) *changes {
	ch := &changes{}
	busy := map[controlplane.FunctionName]bool{} // functions with environments
	for i := range snaps {
		s := &snaps[i]
		for _, e := range s.Environments {
			busy[e.Function] = true
		}
		if !l.blind(s, w.now) {
			l.versionChanges(ch, s, p)
		}
		providerChanges(ch, s, w)
	}
	for _, f := range w.functions {
		if f.Deleting && !busy[f.Name] {
			ch.dropFunctions = append(ch.dropFunctions, f.Name)
		}
	}
	l.instanceChanges(ch, w, p)
	return ch
}

func (l *Loop) versionChanges(ch *changes, s *controlplane.Snapshot, p plan) {
	for _, v := range s.Versions {
		if v.Provider != s.Provider.Name {
			continue // it moves: its new provider's snapshot has its state
		}
		f := l.factsOf(&v, s, p)
		if v.Qualifier != controlplane.Latest && v.State == controlplane.VersionDeleting && f.none() {
			ch.dropVersions = append(ch.dropVersions, versionKey{v.Function, v.Qualifier})
			continue
		}
		if next := progress(v, f); !same(v, next) {
			ch.versions = append(ch.versions, versionChange{facts: f, seen: v, next: next})
		}
	}
}

// factsOf collects what is known of a version.
func (l *Loop) factsOf(v *controlplane.Version, s *controlplane.Snapshot, p plan) facts {
	f := facts{environments: map[controlplane.Revision][]controlplane.Environment{}, failAfter: l.cfg.Policy.FailAfter}
	for _, e := range s.Environments {
		if e.Function == v.Function && e.Qualifier == v.Qualifier {
			f.environments[e.Revision] = append(f.environments[e.Revision], e)
		}
	}
	for i := range p.blocked {
		if p.blocked[i].Function == v.Function && p.blocked[i].Qualifier == v.Qualifier {
			f.blocked = &p.blocked[i]
		}
	}
	return f
}

func providerChanges(ch *changes, s *controlplane.Snapshot, w *world) {
	switch s.Provider.State {
	case controlplane.ProviderPending:
		ch.activate = append(ch.activate, s.Provider.Name)
	case controlplane.ProviderDeleting:
		bound := slices.ContainsFunc(w.functions, func(f controlplane.Function) bool { return f.Provider == s.Provider.Name })
		if len(s.Instances) == 0 && len(s.Versions) == 0 && !bound {
			ch.dropProviders = append(ch.dropProviders, s.Provider.Name)
		}
	case controlplane.ProviderActive, controlplane.ProviderFailed:
	}
}

func (l *Loop) instanceChanges(ch *changes, w *world, p plan) {
	for _, in := range w.instances {
		if in.State == controlplane.InstanceLaunching && in.Observed != nil && in.Observed.Connected {
			in.State = controlplane.InstanceRunning
			in.Observed = nil
			ch.instances = append(ch.instances, in)
			l.log.Info("instance is running", "instance", string(in.ID), "zone", string(in.Zone))
			if !w.has(in.Provider, in.Zone) {
				l.log.Warn("an instance is in a zone its capacity provider does not have: nothing will run on it",
					"instance", string(in.ID), "zone", string(in.Zone), "capacity_provider", string(in.Provider))
			}
		}
	}
	for _, a := range p.actions {
		switch a := a.(type) {
		case controlplane.LaunchInstance:
			ch.instances = append(ch.instances, l.launched(a, w))
		case controlplane.DrainInstance:
			ch.move(w, a.Instance, controlplane.InstanceDraining)
		case controlplane.TerminateInstance:
			ch.move(w, a.Instance, controlplane.InstanceTerminating)
		case controlplane.StartEnvironment, controlplane.StopEnvironment:
		}
	}
}

// has tells whether a provider has a zone.
func (w *world) has(name controlplane.ProviderName, zone controlplane.Zone) bool {
	return slices.ContainsFunc(w.providers, func(p controlplane.CapacityProvider) bool {
		return p.Name == name && slices.Contains(p.Zones, zone)
	})
}

// move gives an instance a further state.
func (c *changes) move(w *world, id controlplane.InstanceID, to controlplane.InstanceState) {
	for _, in := range w.instances {
		if in.ID == id {
			in.State, in.Observed = to, nil
			c.instances = append(c.instances, in)
		}
	}
}

// write applies the changes to the state as it is now: the API may have
// written since it was read.
func (c *changes) write(w store.Writer) error {
	for i := range c.versions {
		if err := c.versions[i].write(w); err != nil {
			return err
		}
	}
	if err := c.putInstances(w); err != nil {
		return err
	}
	for _, name := range c.activate {
		p, err := w.Provider(name)
		if err != nil || p.State != controlplane.ProviderPending {
			continue
		}
		p.State = controlplane.ProviderActive
		if err := w.PutProvider(p); err != nil {
			return err
		}
	}
	return c.drop(w)
}

// putInstances writes the instances. One that joined is Running only if it is
// still Launching: an operator may have begun to drain it.
func (c *changes) putInstances(w store.Writer) error {
	for _, in := range c.instances {
		if in.State == controlplane.InstanceRunning {
			switch cur, err := w.Instance(in.ID); {
			case errdefs.IsNotFound(err), err == nil && cur.State != controlplane.InstanceLaunching:
				continue
			case err != nil:
				return err
			}
		}
		if err := w.PutInstance(in); err != nil {
			return err
		}
	}
	return nil
}

func (c *versionChange) write(w store.Writer) error {
	cur, put, err := current(w, c.seen.Function, c.seen.Qualifier)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !same(cur, c.seen) {
		// Changed meanwhile. If it is still the same publication its facts hold.
		if cur.Revision != c.seen.Revision {
			c.next = cur
			return nil
		}
		c.next = progress(cur, c.facts)
	}
	return put(c.next)
}

// current reads a version, which for $LATEST is part of its function, and
// returns what writes it back.
func current(w store.Writer, name controlplane.FunctionName, q controlplane.Qualifier) (
	v controlplane.Version, put func(controlplane.Version) error, err error,
) {
	if q != controlplane.Latest {
		v, err = w.Version(name, q)
		return v, w.PutVersion, err
	}
	f, err := w.Function(name)
	return f.Latest, func(v controlplane.Version) error {
		f.Latest = v
		return w.PutFunction(f)
	}, err
}

func (c *changes) drop(w store.Writer) error {
	for _, k := range c.dropVersions {
		if err := w.DeleteVersion(k.function, k.qualifier); err != nil {
			return err
		}
	}
	for _, f := range c.dropFunctions {
		if err := w.DeleteFunction(f); err != nil {
			return err
		}
	}
	for _, p := range c.dropProviders {
		if err := w.DeleteProvider(p); err != nil {
			return err
		}
	}
	return nil
}
