package server

import (
	"testing"

	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/metrics/cgroup"
)

func TestBodiesMayTakeAQuarterOfThisMachine(t *testing.T) {
	t.Parallel()
	if got, all := bodyMemory(0), cgroup.Available(); all == 0 || got != max(all/4, lambdaapi.LeastBodyMemory) {
		t.Errorf("%d of %d bytes", got, all)
	}
	if got := bodyMemory(5); got != 5 {
		t.Errorf("%d, want what was configured", got)
	}
}
