package daemon

import (
	"testing"

	"github.com/hearth-compute/hearth/agent"
)

func TestAMachineKeepsAReserveIfItIsLargeEnough(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	for _, c := range []struct{ configured, machine, want agent.Resources }{
		{agent.Resources{}, agent.Resources{CPU: 8000, Memory: 32 * gib}, agent.Resources{CPU: 7000, Memory: 31 * gib}},
		{agent.Resources{}, agent.Resources{CPU: 1000, Memory: gib}, agent.Resources{CPU: 1000, Memory: gib}},
		{agent.Resources{CPU: 500}, agent.Resources{CPU: 8000, Memory: 32 * gib}, agent.Resources{CPU: 500, Memory: 31 * gib}},
		{agent.Resources{CPU: 9000, Memory: 64 * gib}, agent.Resources{CPU: 8000, Memory: 32 * gib}, agent.Resources{CPU: 9000, Memory: 64 * gib}},
	} {
		if got := allocatable(c.configured, c.machine); got != c.want {
			t.Errorf("%+v on %+v: got %+v want %+v", c.configured, c.machine, got, c.want)
		}
	}
}
