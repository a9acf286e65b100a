package containerd

import (
	"testing"

	"github.com/containerd/containerd/v2/core/containers"

	"github.com/hearth-compute/hearth/sandbox"
)

// TestWhatIsBeingCreatedHasNotStopped although it has a record and no task yet:
// its creation may have ended since the tasks were asked for.
func TestWhatIsBeingCreatedHasNotStopped(t *testing.T) {
	t.Parallel()
	d := &Driver{}
	records := []containers.Container{{ID: "created"}, {ID: "gone"}, {ID: "runs"}}
	got := d.statuses(records, map[string]*process{"runs": {state: sandbox.StateRunning, pid: 7}}, map[sandbox.ID]bool{"created": true})
	if len(got) != 2 || got[0].ID != "gone" || got[0].State != sandbox.StateStopped || got[1].ID != "runs" || got[1].PID != 7 {
		t.Errorf("got %+v, want gone, which stopped, and runs", got)
	}
}
