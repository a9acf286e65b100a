package reconcile

import (
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
)

// maxSynchronous is how long an invoke whose caller waits may take, whatever
// the function's timeout (lmi-behaviour §2.4).
const maxSynchronous = 900 * time.Second

// publication names what an environment runs.
type publication struct {
	function  controlplane.FunctionName
	qualifier controlplane.Qualifier
	revision  controlplane.Revision
}

// publish hands what is known now to the router and to operators.
func (l *Loop) publish(w *world, snaps []controlplane.Snapshot) {
	l.cfg.Router.Swap(table(w, snaps))
	l.last.Store(&snaps)
}

// table builds the routing table.
func table(w *world, snaps []controlplane.Snapshot) *router.Table {
	t := &router.Table{Functions: functions(w)}
	endpoints, quiet := map[publication][]router.Endpoint{}, map[publication][]router.Endpoint{}
	for i := range snaps {
		for _, e := range snaps[i].Environments {
			if e.State == controlplane.EnvironmentReady && !e.Draining {
				k, to := publication{e.Function, e.Qualifier, e.Revision}, endpoints
				if w.now.Sub(w.heard[e.Instance].At) > quietAfter {
					to = quiet
				}
				to[k] = append(to[k], router.Endpoint{
					Environment: e.ID, Instance: e.Instance, Limit: max(1, e.MaxConcurrency),
				})
			}
		}
	}
	for k, all := range quiet { // an agent that says nothing is better than none
		if len(endpoints[k]) == 0 {
			endpoints[k] = all
		}
	}
	for i := range w.versions {
		v := &w.versions[i]
		f := t.Functions[v.Function]
		if f == nil || v.State == controlplane.VersionDeleting {
			continue
		}
		pub := v.Publication()
		if v.Serving != nil {
			pub = *v.Serving
		}
		f.Versions[v.Qualifier] = &router.Version{
			ARN: v.ARN, Provider: v.Provider, Qualifier: v.Qualifier, State: v.State, ReasonCode: v.ReasonCode, Reason: v.Reason,
			Timeout:   min(time.Duration(pub.Config.TimeoutS)*time.Second, maxSynchronous),
			Endpoints: endpoints[publication{v.Function, v.Qualifier, pub.Revision}],
		}
	}
	return t
}

// functions are the table's functions, without versions.
func functions(w *world) map[controlplane.FunctionName]*router.Function {
	all := make(map[controlplane.FunctionName]*router.Function, len(w.functions))
	for i := range w.functions {
		f := &w.functions[i]
		if !f.Deleting {
			all[f.Name] = &router.Function{
				ARN: f.ARN, OnDemand: f.OnDemand(), Reserved: f.ReservedConcurrency,
				Versions: map[controlplane.Qualifier]*router.Version{},
				Aliases:  map[controlplane.Qualifier]router.Alias{},
			}
		}
	}
	for _, a := range w.aliases {
		if f := all[a.Function]; f != nil {
			f.Aliases[a.Name] = router.Alias{Version: a.Version, Additional: a.Additional, Weight: a.Weight}
		}
	}
	return all
}
