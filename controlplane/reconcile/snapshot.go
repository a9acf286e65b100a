package reconcile

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// world is everything one step looks at.
type world struct {
	now       time.Time
	providers []controlplane.CapacityProvider
	functions []controlplane.Function
	// versions are those that may run: $LATEST of on-demand functions among them.
	versions  []controlplane.Version
	aliases   []controlplane.Alias
	instances []controlplane.Instance
	heard     map[controlplane.InstanceID]sessions.Heard
}

// observe reads the store and the agents' words.
func (l *Loop) observe(ctx context.Context, now time.Time) (*world, error) {
	w := &world{now: now, heard: map[controlplane.InstanceID]sessions.Heard{}}
	if err := l.cfg.DB.View(ctx, w.read); err != nil {
		return nil, err
	}
	for _, h := range l.cfg.Agents.Heard() {
		if !h.At.IsZero() {
			w.heard[h.Instance] = h
		}
	}
	for _, in := range w.instances {
		if h, ok := w.heard[in.ID]; ok && l.books[in.ID] == nil {
			l.adopt(w, &in, h)
		}
	}
	occupied := map[controlplane.InstanceID]bool{}
	for _, p := range l.placed {
		occupied[p.Instance] = true
	}
	for i := range w.instances {
		l.join(w, &w.instances[i], occupied)
	}
	return w, nil
}

// read reads what the store has.
func (w *world) read(r store.Reader) error {
	var errs [5]error
	w.providers, errs[0] = r.Providers()
	w.functions, errs[1] = r.Functions()
	w.versions, errs[2] = r.Versions("")
	w.aliases, errs[3] = r.Aliases("")
	w.instances, errs[4] = r.Instances()
	w.addLatest()
	return errors.Join(errs[:]...)
}

// published tells whether an assignment is of a publication that the provider's
// instances run, with its code.
func (w *world) published(provider controlplane.ProviderName, a *controlplane.Assignment) bool {
	is := func(p controlplane.Publication) bool {
		ours := p.Provider == provider || p.Provider == "" // before publications had one
		return ours && p.Revision == a.Revision && p.Code.SHA256 == a.Code.SHA256
	}
	for i := range w.versions {
		v := &w.versions[i]
		if v.Function != a.Function || v.Qualifier != a.Qualifier {
			continue
		}
		if is(v.Publication()) || v.Serving != nil && is(*v.Serving) {
			return true
		}
	}
	return false
}

// addLatest makes $LATEST of every on-demand function a version among the others.
func (w *world) addLatest() {
	for i := range w.functions {
		f := &w.functions[i]
		if !f.OnDemand() {
			continue
		}
		v := f.Latest
		if f.Deleting {
			v.State, v.ReasonCode, v.Reason = controlplane.VersionDeleting, "", ""
		}
		w.versions = append(w.versions, v)
	}
}

// join adds what its agent says to an instance.
func (l *Loop) join(w *world, in *controlplane.Instance, occupied map[controlplane.InstanceID]bool) {
	if l.known[in.ID].IsZero() {
		l.known[in.ID] = w.now
	}
	in.KnownSince = l.known[in.ID]
	h, ok := w.heard[in.ID]
	if !ok {
		return
	}
	if in.Zone == "" {
		in.Zone = h.Zone // a host that joined by itself
	}
	b := l.bookOf(in.ID)
	switch {
	case occupied[in.ID]:
		b.emptySince = time.Time{}
	case b.emptySince.IsZero():
		b.emptySince = w.now
	}
	in.Observed = &controlplane.InstanceObservation{
		Connected: h.Connected, Stopping: h.Stopping, Allocatable: h.Allocatable, HeardAt: h.At,
		AgentVersion: h.AgentVersion, Hostname: h.Hostname, Heat: h.Host, EmptySince: b.emptySince,
	}
	l.insist(in.ID, h, b)
	if b.intent != controlplane.StopFew && h.Epoch == l.epoch && h.Generation >= b.intentAt {
		b.intent = controlplane.StopFew
	}
}

// insist answers an agent that refused our set because it stops much of what
// the agent runs: an agent that was killed comes back with what we had stopped
// before. We took over what it runs, so whatever is missing was decided by us.
// An agent that follows a later term than ours is right to refuse.
func (l *Loop) insist(id controlplane.InstanceID, h sessions.Heard, b *book) {
	if h.Refused == "" || b.dirty || h.Epoch > l.epoch || h.Epoch == l.epoch && h.Generation >= b.generation {
		return
	}
	l.log.Warn("an agent refused its desired set; saying that it is meant", "instance", string(id), "reason", h.Refused)
	b.intent, b.intentAt, b.dirty = controlplane.StopDelete, b.generation+1, true
}

// adopt takes over what an agent was told by an earlier process, as far as that
// is what an earlier process may have said: publications of versions of the
// instance's own provider. The agent lets anything else finish what it runs.
func (l *Loop) adopt(w *world, in *controlplane.Instance, h sessions.Heard) {
	id, now := in.ID, w.now
	b := l.bookOf(id)
	b.dirty = true // our term begins with a set of our own
	for _, p := range h.Accepted.Environments {
		p.Instance = id
		if !w.published(in.Provider, &p.Assignment) {
			l.log.Warn("an agent runs what it should not; it is told to stop it", "instance", string(id),
				"environment", string(p.Assignment.Environment), "function", string(p.Assignment.Function))
			continue
		}
		if l.placed[p.Assignment.Environment] == nil {
			l.placed[p.Assignment.Environment] = &placed{Placement: p, at: now, drainingSince: now}
		}
	}
	if n := len(h.Accepted.Environments); n > 0 {
		l.log.Info("took over what an agent runs", "instance", string(id), "environments", n)
	}
}

// snapshots cuts the world into one snapshot for each provider.
func (l *Loop) snapshots(w *world) []controlplane.Snapshot {
	byProvider := map[controlplane.ProviderName]*controlplane.Snapshot{}
	out := make([]controlplane.Snapshot, len(w.providers))
	for i, p := range w.providers {
		out[i].Provider = p
		byProvider[p.Name] = &out[i]
	}
	home := map[controlplane.InstanceID]*controlplane.Snapshot{}
	for _, in := range w.instances {
		if s := byProvider[in.Provider]; s != nil {
			s.Instances = append(s.Instances, in)
			home[in.ID] = s
		}
	}
	addVersions(byProvider, w.versions)
	statuses := map[statusKey]controlplane.EnvironmentStatus{}
	for id, h := range w.heard {
		for _, e := range h.Environments {
			statuses[statusKey{id, e.ID}] = e
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(l.placed), cmp.Compare) {
		p := l.placed[id]
		if s := home[p.Instance]; s != nil {
			s.Environments = append(s.Environments, environment(p, s.Provider.Name, w.heard[p.Instance], statuses))
		}
	}
	return out
}

// addVersions gives every version to its provider, and one that moves also to
// the one it leaves.
func addVersions(snaps map[controlplane.ProviderName]*controlplane.Snapshot, versions []controlplane.Version) {
	for _, v := range versions {
		if s := snaps[v.Provider]; s != nil {
			s.Versions = append(s.Versions, v)
		}
		if v.Serving == nil || v.Serving.Provider == "" || v.Serving.Provider == v.Provider {
			continue
		}
		if s := snaps[v.Serving.Provider]; s != nil {
			s.Versions = append(s.Versions, moving(v))
		}
	}
}

// moving is what is left of v on the provider it moves away from: the
// publication that serves until the one on the new provider is ready. Its
// Provider is the new one, by which it is known not to be at home.
func moving(v controlplane.Version) controlplane.Version {
	v.Config, v.Code, v.Revision, v.Serving = v.Serving.Config, v.Serving.Code, v.Serving.Revision, nil
	return v
}

// statusKey names what one agent says of an environment: it speaks only for
// what was placed on its own instance.
type statusKey struct {
	instance    controlplane.InstanceID
	environment controlplane.EnvironmentID
}

// environment joins a placement with what its agent says.
func environment(p *placed, provider controlplane.ProviderName, h sessions.Heard, statuses map[statusKey]controlplane.EnvironmentStatus) controlplane.Environment {
	a := &p.Assignment
	e := controlplane.Environment{
		ID: a.Environment, Provider: provider, Function: a.Function, Qualifier: a.Qualifier, Revision: a.Revision,
		Instance: p.Instance, Size: a.Config.Resources(), Draining: p.Draining, PlacedAt: p.at,
		State: controlplane.EnvironmentPending, Since: p.at, MaxConcurrency: a.Config.Concurrency(),
		DrainingSince: p.drainingSince,
	}
	if st, ok := statuses[statusKey{p.Instance, a.Environment}]; ok {
		e.State, e.ReasonCode, e.Reason = st.State, st.ReasonCode, st.Reason
		e.Failures, e.Sandbox, e.Heat = st.Failures, st.Sandbox, st.Heat
		e.Since = time.UnixMilli(st.SinceUnixMilli)
		if st.MaxConcurrency > 0 {
			e.MaxConcurrency = st.MaxConcurrency
		}
	}
	// An agent that has just connected has not said yet what it runs: what is
	// not known must not pass for not started, or a drain would end it at once.
	if !h.Connected || !h.Reported {
		e.State = controlplane.EnvironmentUnknown
	}
	return e
}
