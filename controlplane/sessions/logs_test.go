package sessions_test

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
)

func TestLogsOfAnInstanceNobodyIsConnectedToAreUnavailable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if got := r.Reachable(); len(got) != 0 {
		t.Errorf("reachable: %q", got)
	}
	err := r.ReadLogs(t.Context(), "i-none", controlplane.LogQuery{Function: "f"}, func(controlplane.LogBatch) error { return nil })
	if !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}

func TestLogsOfAnAgentThatKeepsNoneAreUnavailable(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	r.data(t, a, scripted(nil, nil))
	eventually(t, "the instance to be reachable", func() bool { return len(r.Reachable()) == 1 })
	err := r.ReadLogs(t.Context(), "i-1", controlplane.LogQuery{Function: "f"}, func(controlplane.LogBatch) error { return errors.New("there is nothing to take") })
	if !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}
