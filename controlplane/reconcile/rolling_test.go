package reconcile_test

import (
	"slices"
	"testing"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// routed is the version of the routing table, nil if there is none.
func (t *tables) routed(q controlplane.Qualifier) *router.Version {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil || t.last.Functions["f"] == nil {
		return nil
	}
	return t.last.Functions["f"].Versions[q]
}

// watch fails the test if, at any swap of the routing table from now on, the
// version has fewer endpoints than least.
func (r *rig) watch(q controlplane.Qualifier, least int) {
	r.routes.mu.Lock()
	defer r.routes.mu.Unlock()
	r.routes.check = func(t *router.Table) {
		if v := t.Functions["f"].Versions[q]; v == nil || len(v.Endpoints) < least {
			r.t.Errorf("the routing table had %+v, want at least %d endpoints at all times", v, least)
		}
	}
}

func (r *rig) unwatch() {
	r.routes.mu.Lock()
	defer r.routes.mu.Unlock()
	r.routes.check = nil
}

// onDemand is a function without a capacity provider of its own.
func onDemand(rev controlplane.Revision, state controlplane.VersionState) controlplane.Function {
	return controlplane.Function{
		Name: "f", Provider: "p", ARN: "arn:f",
		Latest: controlplane.Version{
			Function: "f", Provider: "p", Qualifier: controlplane.Latest, Revision: rev, ARN: "arn:f", State: state,
			Config: controlplane.Config{MemoryMB: 128, TimeoutS: 3, PackageType: "Zip", OnDemand: true},
			Update: controlplane.UpdateSuccessful,
		},
	}
}

func (r *rig) function() (f controlplane.Function) {
	r.t.Helper()
	err := r.db.View(r.t.Context(), func(rd store.Reader) (err error) {
		f, err = rd.Function("f")
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

func TestLatestOfAnOnDemandFunctionRunsAndRolls(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a", "b", "c")
		f := onDemand("r1", controlplane.VersionPending)
		r.update(func(w store.Writer) error { return w.PutFunction(f) })
		r.eventually("an invocable $LATEST", func() bool {
			v := r.routes.routed(controlplane.Latest)
			return v != nil && v.State == controlplane.VersionActive && len(v.Endpoints) == 1
		})
		if got := r.function().Latest; got.State != controlplane.VersionActive {
			r.t.Fatalf("$LATEST is %s", got.State)
		}
		r.watch(controlplane.Latest, 1)
		next := r.function()
		serving := next.Latest.Publication()
		next.Latest.Revision, next.Latest.Update, next.Latest.Serving = "r2", controlplane.UpdateInProgress, &serving
		r.update(func(w store.Writer) error { return w.PutFunction(next) })
		r.eventually("the update", func() bool {
			return r.function().Latest.Update == controlplane.UpdateSuccessful && equal(r.agents.running(), spread("r2", "a"))
		})
		if r.function().Latest.Serving != nil {
			r.t.Error("the old publication is still said to serve")
		}
		r.unwatch()
		r.update(func(w store.Writer) error {
			f := next
			f.Deleting = true
			return w.PutFunction(f)
		})
		r.eventually("nothing to run", func() bool { return len(r.agents.running()) == 0 })
		r.eventually("no function", func() bool {
			var left []controlplane.Function
			_ = r.db.View(r.t.Context(), func(rd store.Reader) (err error) { left, err = rd.Functions(); return err })
			return len(left) == 0
		})
	})
}

func TestAFailedUpdateOfAnOnDemandFunctionLeavesTheOldOneServing(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a")
		r.update(func(w store.Writer) error { return w.PutFunction(onDemand("r1", controlplane.VersionPending)) })
		r.eventually("Active", func() bool { return r.function().Latest.State == controlplane.VersionActive })
		r.watch(controlplane.Latest, 1)
		r.agents.fail["r2"] = "FunctionError.RuntimeInitError"
		next := r.function()
		serving := next.Latest.Publication()
		next.Latest.Revision, next.Latest.Update, next.Latest.Serving = "r2", controlplane.UpdateInProgress, &serving
		r.update(func(w store.Writer) error { return w.PutFunction(next) })
		r.eventually("the failure", func() bool { return r.function().Latest.Update == controlplane.UpdateFailed })
		if v := r.function().Latest; v.State != controlplane.VersionActive || v.UpdateReasonCode != "FunctionError.RuntimeInitError" {
			r.t.Errorf("$LATEST is %s, update reason %s: %s", v.State, v.UpdateReasonCode, v.UpdateReason)
		}
	})
}

func TestAChangedTemplateReplacesInstancesOneAfterTheOtherNewFirst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		edit func(*controlplane.CapacityProvider)
		want map[string]int
	}{
		{"another role", func(p *controlplane.CapacityProvider) { p.OperatorRoleARN = "other" }, spread("r1", "a", "b", "c")},
		{"other zones", func(p *controlplane.CapacityProvider) { p.Zones = []controlplane.Zone{"a", "x", "y"} }, spread("r1", "a", "x", "y")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(r *rig) {
				r.provider(400, "a", "b", "c")
				r.publish("r1", nil)
				r.eventually("Active", r.state(controlplane.VersionActive))
				before := r.agents.ids()
				r.watch(controlplane.LatestPublished, 3)
				r.update(func(w store.Writer) error {
					p, err := w.Provider("p")
					c.edit(&p)
					if err != nil {
						return err
					}
					return w.PutProvider(p)
				})
				r.eventually("other instances", func() bool {
					after := r.agents.ids()
					kept := slices.ContainsFunc(before, func(id controlplane.InstanceID) bool { return slices.Contains(after, id) })
					return len(after) == 3 && equal(r.agents.running(), c.want) && (c.name == "other zones" || !kept)
				})
			})
		})
	}
}

func TestRollingAtMaxVCPUMovesWithinWhatThereIs(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(6, "a", "b", "c") // room for three instances, no more
		r.publish("r1", nil)
		r.eventually("Active", r.state(controlplane.VersionActive))
		before := r.agents.ids()
		r.watch(controlplane.LatestPublished, 3)
		r.update(func(w store.Writer) error {
			p, err := w.Provider("p")
			p.KMSKeyARN = "other"
			if err != nil {
				return err
			}
			return w.PutProvider(p)
		})
		r.eventually("other instances", func() bool {
			after := r.agents.ids()
			kept := slices.ContainsFunc(before, func(id controlplane.InstanceID) bool { return slices.Contains(after, id) })
			return !kept && len(after) > 0
		})
	})
}

func TestAFunctionThatMovesToAnotherProviderIsServedAllTheTime(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a", "b", "c")
		r.update(func(w store.Writer) error {
			return w.PutProvider(controlplane.CapacityProvider{
				Name: "q", State: controlplane.ProviderPending, Zones: []controlplane.Zone{"x", "y", "z"}, MaxVCPU: 400,
			})
		})
		r.publish("r1", nil)
		r.eventually("Active", r.state(controlplane.VersionActive))
		r.watch(controlplane.LatestPublished, 3)
		v := r.version()
		serving := v.Publication()
		r.publish("r2", func(next *controlplane.Version) {
			*next = v
			next.Provider, next.Revision, next.Update, next.Serving = "q", "r2", controlplane.UpdateInProgress, &serving
		})
		r.eventually("the move", func() bool {
			return r.version().Update == controlplane.UpdateSuccessful && equal(r.agents.running(), spread("r2", "x", "y", "z"))
		})
	})
}

func TestAliasesAndReservedConcurrencyAreRouted(t *testing.T) {
	t.Parallel()
	bubble(t, func(r *rig) {
		r.provider(400, "a")
		reserved := 7
		r.update(func(w store.Writer) error {
			f := onDemand("r1", controlplane.VersionPending)
			f.ReservedConcurrency = &reserved
			if err := w.PutAlias(controlplane.Alias{Function: "f", Name: "live", Version: "1", Additional: "2", Weight: 0.25}); err != nil {
				return err
			}
			return w.PutFunction(f)
		})
		r.eventually("the route", func() bool { return r.routes.routed(controlplane.Latest) != nil })
		r.routes.mu.Lock()
		defer r.routes.mu.Unlock()
		f := r.routes.last.Functions["f"]
		if got, want := f.Aliases["live"], (router.Alias{Version: "1", Additional: "2", Weight: 0.25}); got != want {
			r.t.Errorf("alias %+v, want %+v", got, want)
		}
		if f.Reserved == nil || *f.Reserved != 7 || !f.OnDemand {
			r.t.Errorf("reserved %v, on demand %v; want 7 and true", f.Reserved, f.OnDemand)
		}
	})
}
