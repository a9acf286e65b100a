package reconcile

import (
	"fmt"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/capacity"
	"github.com/hearth-compute/hearth/controlplane/scaling"
)

// facts is what was observed of one version's publications.
type facts struct {
	// environments by publication.
	environments map[controlplane.Revision][]controlplane.Environment
	// blocked is why one of them found no room; nil if none.
	blocked *capacity.Blocked
	// failAfter is how many failed starts in a row fail the version.
	failAfter int
}

func (f *facts) ready(r controlplane.Revision) int {
	n := 0
	for i := range f.environments[r] {
		e := &f.environments[r][i]
		if e.State == controlplane.EnvironmentReady && !e.Draining {
			n++
		}
	}
	return n
}

// failed returns the environment whose starts failed too often, if no other
// of its publication is ready.
func (f *facts) failed(r controlplane.Revision) *controlplane.Environment {
	for i := range f.environments[r] {
		e := &f.environments[r][i]
		enough := f.failAfter
		switch {
		case e.ReasonCode == "FunctionError.InitTimeout":
			enough = 1 // it had minutes already
		case scaling.Recoverable(e.ReasonCode):
			enough = max(enough, hostPatience)
		}
		if e.Failures >= enough && e.ReasonCode != "" && f.ready(r) == 0 {
			return e
		}
	}
	return nil
}

// hostPatience is how many starts in a row may fail for what is not the
// function's fault, with waits that double up to half a minute: a version should
// not fail because containerd is being restarted.
const hostPatience = 10

// troubled returns an environment that waits for its host to recover.
func (f *facts) troubled(r controlplane.Revision) *controlplane.Environment {
	for i := range f.environments[r] {
		if e := &f.environments[r][i]; e.Failures > 0 && scaling.Recoverable(e.ReasonCode) {
			return e
		}
	}
	return nil
}

func (f *facts) none() bool {
	for _, envs := range f.environments {
		if len(envs) > 0 {
			return false
		}
	}
	return true
}

// progress returns v moved on by what was observed. It is a function of its
// arguments alone.
func progress(v controlplane.Version, f facts) controlplane.Version {
	if v.State == controlplane.VersionDeleting {
		return v
	}
	v.Applied = v.WantedScaling()
	if v.Applied == (controlplane.ScalingConfig{}) {
		return deactivate(v, f)
	}
	switch v.State {
	case controlplane.VersionDeactivated, controlplane.VersionDeactivating:
		v = state(v, controlplane.VersionPending, "Creating", "The function is being activated.")
	case controlplane.VersionPending, controlplane.VersionFailed:
		v = settle(v, f)
	case controlplane.VersionActive:
		if v.Update == controlplane.UpdateInProgress {
			v = update(v, f)
		}
	case controlplane.VersionActiveNonInvocable, controlplane.VersionDeleting:
	}
	return v
}

func deactivate(v controlplane.Version, f facts) controlplane.Version {
	if f.none() {
		return state(v, controlplane.VersionDeactivated, "", "")
	}
	return state(v, controlplane.VersionDeactivating, "", "")
}

// settle makes a version Active once its minimum is ready, or Failed.
func settle(v controlplane.Version, f facts) controlplane.Version {
	if v.State == controlplane.VersionFailed && !scaling.Recoverable(v.ReasonCode) {
		return v
	}
	if f.ready(v.Revision) >= v.Applied.Min {
		v.Update, v.UpdateReasonCode, v.UpdateReason = controlplane.UpdateSuccessful, "", ""
		return state(v, controlplane.VersionActive, "", "")
	}
	if e := f.failed(v.Revision); e != nil {
		if v.Update == controlplane.UpdateInProgress {
			v.Update, v.UpdateReasonCode, v.UpdateReason = controlplane.UpdateFailed, e.ReasonCode, e.Reason
		}
		return state(v, controlplane.VersionFailed, e.ReasonCode, e.Reason)
	}
	if f.blocked != nil {
		return state(v, controlplane.VersionFailed, f.blocked.Code, f.blocked.Reason)
	}
	if v.State == controlplane.VersionFailed { // there is room again
		v = state(v, controlplane.VersionPending, "Creating", "The function is being created.")
	}
	if e := f.troubled(v.Revision); e != nil {
		v.Reason = "The function is being created; a start failed and is tried again: " + e.Reason
	}
	return v
}

// update ends the publication of a version that serves already.
func update(v controlplane.Version, f facts) controlplane.Version {
	if f.ready(v.Revision) >= v.Applied.Min {
		v.Serving = nil
		v.Update, v.UpdateReasonCode, v.UpdateReason = controlplane.UpdateSuccessful, "", ""
		return v
	}
	if e := f.failed(v.Revision); e != nil && !scaling.Recoverable(e.ReasonCode) {
		v.Update, v.UpdateReasonCode, v.UpdateReason = controlplane.UpdateFailed, e.ReasonCode, e.Reason
		return v
	}
	if e := f.troubled(v.Revision); e != nil {
		v.UpdateReasonCode, v.UpdateReason = e.ReasonCode, e.Reason
		return v
	}
	if f.blocked != nil {
		v.UpdateReasonCode, v.UpdateReason = f.blocked.Code, f.blocked.Reason
		return v
	}
	v.UpdateReasonCode, v.UpdateReason = "Creating", "The function is being updated."
	return v
}

func state(v controlplane.Version, s controlplane.VersionState, code, reason string) controlplane.Version {
	v.State, v.ReasonCode, v.Reason = s, code, reason
	return v
}

// line is one line about a version's state for the log.
func line(v *controlplane.Version) string {
	s := string(v.State)
	if v.Update != "" {
		s += "/" + string(v.Update)
	}
	if v.ReasonCode != "" {
		s += fmt.Sprintf(" (%s: %s)", v.ReasonCode, v.Reason)
	}
	return s
}
