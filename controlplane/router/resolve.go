package router

import (
	"github.com/hearth-compute/hearth/controlplane"
)

// resolve finds the version an invoke means, with the errors of
// lmi-behaviour §4.2.
func (r *Router) resolve(req controlplane.InvokeRequest) (*Version, error) {
	f := r.table.Load().Functions[req.Function]
	if f == nil {
		return nil, &controlplane.FunctionNotFoundError{ARN: req.InvokedARN}
	}
	q := req.Qualifier
	published := f.Versions[controlplane.LatestPublished]
	switch {
	case q != "" && q != controlplane.Latest:
	case published == nil:
		return nil, &controlplane.NoPublishedVersionError{Function: req.Function}
	case q == controlplane.Latest:
		return nil, &controlplane.LatestNotInvocableError{Function: req.Function}
	default:
		q = controlplane.LatestPublished
	}
	v := f.Versions[q]
	if v == nil {
		return nil, &controlplane.FunctionNotFoundError{ARN: f.ARN + ":" + string(q)}
	}
	if v.State != controlplane.VersionActive {
		return nil, &controlplane.VersionStateError{ARN: v.ARN, State: v.State, ReasonCode: v.ReasonCode, Reason: v.Reason}
	}
	return v, nil
}
