// Package scaling decides how many environments each publication of a version
// should have. For now that is its minimum; load does not count yet.
package scaling

import (
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// Decide returns a target for every publication that runs or should run,
// ordered as the versions of s are; the one that still serves comes after the
// one that replaces it. It is a function of s alone.
func Decide(s controlplane.Snapshot, _ time.Time) []controlplane.Target {
	var targets []controlplane.Target
	for i := range s.Versions {
		v := &s.Versions[i]
		next := target(v, v.Publication())
		next.Count, next.Reason = count(s.Provider.State, v)
		if v.Serving == nil {
			targets = append(targets, next)
			continue
		}
		// The newer publication starts beside the one that serves, which goes
		// only once it is replaced, and stays if the newer one failed.
		serving := target(v, *v.Serving)
		serving.Count, serving.Reason = next.Count, next.Reason
		serving.Keep = next.Count > 0
		if v.Update == controlplane.UpdateFailed {
			next.Count, next.Reason = 0, controlplane.ReasonSurplus
		}
		targets = append(targets, next, serving)
	}
	return targets
}

func target(v *controlplane.Version, p controlplane.Publication) controlplane.Target {
	return controlplane.Target{
		Function: v.Function, Qualifier: v.Qualifier, Revision: p.Revision, Size: p.Config.Resources(),
	}
}

// count is how many environments the version should have, and why.
func count(provider controlplane.ProviderState, v *controlplane.Version) (int, controlplane.Reason) {
	if provider == controlplane.ProviderDeleting {
		return 0, controlplane.ReasonProviderDelete
	}
	switch v.State {
	case controlplane.VersionDeleting:
		return 0, controlplane.ReasonGone
	case controlplane.VersionFailed:
		if !Recoverable(v.ReasonCode) {
			return 0, controlplane.ReasonGone
		}
	case controlplane.VersionActiveNonInvocable:
		return 0, controlplane.ReasonGone
	case controlplane.VersionPending, controlplane.VersionActive,
		controlplane.VersionDeactivating, controlplane.VersionDeactivated:
	}
	wanted := v.WantedScaling()
	if wanted == (controlplane.ScalingConfig{}) {
		return 0, controlplane.ReasonDeactivated
	}
	if wanted.Max > 0 {
		return min(wanted.Min, wanted.Max), controlplane.ReasonMinimum
	}
	return wanted.Min, controlplane.ReasonMinimum
}

// Recoverable tells whether a version that failed for this StateReasonCode is
// still worth trying: the cause is a lack of capacity, or trouble of a host, not
// the function.
func Recoverable(reasonCode string) bool {
	switch reasonCode {
	case "CapacityProviderScalingLimitExceeded", "VcpuLimitExceeded", "InsufficientCapacity", "EC2RequestLimitExceeded", "InternalError":
		return true
	}
	return false
}
