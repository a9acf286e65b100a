package router

import (
	"math/rand/v2"

	"github.com/hearth-compute/hearth/controlplane"
)

// resolve finds the version an invoke means, with the errors of
// lmi-behaviour §4.2. With a VersionStateError there is a version, too.
func (r *Router) resolve(req controlplane.InvokeRequest) (*Function, *Version, error) {
	f := r.table.Load().Functions[req.Function]
	if f == nil {
		return nil, nil, &controlplane.FunctionNotFoundError{ARN: req.InvokedARN}
	}
	q := req.Qualifier
	if a, ok := f.Aliases[q]; ok {
		q = a.pick(rand.Float64()) //nolint:gosec // shares load, keeps no secret
	}
	published := f.Versions[controlplane.LatestPublished]
	switch {
	case q != "" && q != controlplane.Latest:
	case f.OnDemand:
		q = controlplane.Latest
	case published == nil:
		return nil, nil, &controlplane.NoPublishedVersionError{Function: req.Function}
	case q == controlplane.Latest:
		return nil, nil, &controlplane.LatestNotInvocableError{Function: req.Function}
	default:
		q = controlplane.LatestPublished
	}
	v := f.Versions[q]
	if v == nil {
		return nil, nil, &controlplane.FunctionNotFoundError{ARN: req.InvokedARN}
	}
	if v.State != controlplane.VersionActive {
		return f, v, &controlplane.VersionStateError{ARN: v.ARN, State: v.State, ReasonCode: v.ReasonCode, Reason: v.Reason}
	}
	return f, v, nil
}

// pick returns the version that gets an invoke; at is random, 0 ≤ at < 1.
func (a Alias) pick(at float64) controlplane.Qualifier {
	if a.Additional != "" && at < a.Weight {
		return a.Additional
	}
	return a.Version
}
