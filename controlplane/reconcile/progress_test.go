package reconcile

import (
	"testing"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/capacity"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	ready := controlplane.Environment{State: controlplane.EnvironmentReady}
	failing := controlplane.Environment{State: controlplane.EnvironmentFailed, Failures: 3, ReasonCode: "FunctionError.RuntimeInitError", Reason: "boom"}
	once := failing
	once.Failures = 1
	publishing := controlplane.Version{State: controlplane.VersionPending, ReasonCode: "Creating", Update: controlplane.UpdateInProgress}
	hung := once
	hung.ReasonCode = "FunctionError.InitTimeout"
	envs := func(n int, e controlplane.Environment) []controlplane.Environment {
		var out []controlplane.Environment
		for range n {
			out = append(out, e)
		}
		return out
	}
	trouble := failing
	trouble.ReasonCode, trouble.Reason = "InternalError", "containerd does not answer"
	desperate := trouble
	desperate.Failures = hostPatience
	inTrouble := controlplane.Version{State: controlplane.VersionFailed, ReasonCode: "InternalError"}
	blocked := &capacity.Blocked{Code: "CapacityProviderScalingLimitExceeded", Reason: "full"}
	pending := controlplane.Version{State: controlplane.VersionPending, ReasonCode: "Creating"}
	active := controlplane.Version{State: controlplane.VersionActive}
	updating := controlplane.Version{
		State: controlplane.VersionActive, Update: controlplane.UpdateInProgress, Revision: "new",
		Serving: &controlplane.Publication{Revision: "old"},
	}
	noRoom := controlplane.Version{State: controlplane.VersionFailed, ReasonCode: "CapacityProviderScalingLimitExceeded"}
	broken := controlplane.Version{State: controlplane.VersionFailed, ReasonCode: "FunctionError.RuntimeInitError"}
	off := func(v controlplane.Version) controlplane.Version {
		v.Scaling = &controlplane.ScalingConfig{}
		return v
	}
	type want struct {
		state   controlplane.VersionState
		code    string
		update  controlplane.UpdateStatus
		serving bool
	}
	for _, c := range []struct {
		name    string
		version controlplane.Version
		envs    map[controlplane.Revision][]controlplane.Environment
		blocked *capacity.Blocked
		want    want
	}{
		{"two of three ready is not enough", pending, map[controlplane.Revision][]controlplane.Environment{"": envs(2, ready)}, nil, want{state: controlplane.VersionPending, code: "Creating"}},
		{"three ready", pending, map[controlplane.Revision][]controlplane.Environment{"": envs(3, ready)}, nil, want{state: controlplane.VersionActive, update: controlplane.UpdateSuccessful}},
		{"one failed start is not the end", pending, map[controlplane.Revision][]controlplane.Environment{"": envs(3, once)}, nil, want{state: controlplane.VersionPending, code: "Creating"}},
		{"starts failed too often", pending, map[controlplane.Revision][]controlplane.Environment{"": envs(3, failing)}, nil, want{state: controlplane.VersionFailed, code: "FunctionError.RuntimeInitError"}},
		{"the first publication fails as an update does", publishing, map[controlplane.Revision][]controlplane.Environment{"": envs(3, failing)}, nil, want{state: controlplane.VersionFailed, code: "FunctionError.RuntimeInitError", update: controlplane.UpdateFailed}},
		{"a runtime that never asked for an event had minutes: once is enough", pending, map[controlplane.Revision][]controlplane.Environment{"": envs(1, hung)}, nil, want{state: controlplane.VersionFailed, code: "FunctionError.InitTimeout"}},
		{"failing here, ready there: not the function's fault", pending, map[controlplane.Revision][]controlplane.Environment{"": append(envs(1, failing), ready)}, nil, want{state: controlplane.VersionPending, code: "Creating"}},
		{"a host in trouble is waited for", pending, map[controlplane.Revision][]controlplane.Environment{"": envs(3, trouble)}, nil, want{state: controlplane.VersionPending, code: "Creating"}},
		{"a host in trouble for long", pending, map[controlplane.Revision][]controlplane.Environment{"": envs(3, desperate)}, nil, want{state: controlplane.VersionFailed, code: "InternalError"}},
		{"a host that recovered", inTrouble, map[controlplane.Revision][]controlplane.Environment{"": envs(3, ready)}, nil, want{state: controlplane.VersionActive, update: controlplane.UpdateSuccessful}},
		{"an update waits for a host in trouble", updating, map[controlplane.Revision][]controlplane.Environment{"new": envs(3, desperate), "old": envs(3, ready)}, nil, want{state: controlplane.VersionActive, update: controlplane.UpdateInProgress, serving: true}},
		{"no room", pending, nil, blocked, want{state: controlplane.VersionFailed, code: "CapacityProviderScalingLimitExceeded"}},
		{"room again", noRoom, nil, nil, want{state: controlplane.VersionPending, code: "Creating"}},
		{"a broken function stays failed", broken, nil, nil, want{state: controlplane.VersionFailed, code: "FunctionError.RuntimeInitError"}},
		{"an active version stays so whatever dies", active, nil, nil, want{state: controlplane.VersionActive}},
		{"update under way", updating, map[controlplane.Revision][]controlplane.Environment{"old": envs(3, ready)}, nil, want{state: controlplane.VersionActive, update: controlplane.UpdateInProgress, serving: true}},
		{"update done", updating, map[controlplane.Revision][]controlplane.Environment{"new": envs(3, ready)}, nil, want{state: controlplane.VersionActive, update: controlplane.UpdateSuccessful}},
		{"update failed: the old one serves on", updating, map[controlplane.Revision][]controlplane.Environment{"new": envs(3, failing), "old": envs(3, ready)}, nil, want{state: controlplane.VersionActive, update: controlplane.UpdateFailed, serving: true}},
		{"switched off, draining", off(active), map[controlplane.Revision][]controlplane.Environment{"": envs(1, ready)}, nil, want{state: controlplane.VersionDeactivating}},
		{"switched off", off(active), nil, nil, want{state: controlplane.VersionDeactivated}},
		{"switched on again", controlplane.Version{State: controlplane.VersionDeactivated}, nil, nil, want{state: controlplane.VersionPending, code: "Creating"}},
		{"deleting is the loop's business", controlplane.Version{State: controlplane.VersionDeleting}, nil, nil, want{state: controlplane.VersionDeleting}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := progress(c.version, facts{environments: c.envs, blocked: c.blocked, failAfter: 3})
			got := want{v.State, v.ReasonCode, v.Update, v.Serving != nil}
			if got != c.want {
				t.Errorf("got %+v want %+v", got, c.want)
			}
		})
	}
}
