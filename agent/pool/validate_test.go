package pool

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/agent"
)

func TestAnAssignmentThatCannotBeMeantIsItsOwnFailure(t *testing.T) {
	t.Parallel()
	good := agent.Assignment{
		Image: agent.Image{Ref: "i"}, Limits: agent.Resources{CPU: 1000, Memory: 1 << 30}, EphemeralStorage: 1 << 29,
		Timeout: 3 * time.Second, InitTimeout: time.Minute, MaxConcurrency: 1600,
	}
	if err := validate(good); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*agent.Assignment, int64){
		"limits":            func(a *agent.Assignment, n int64) { a.Limits.CPU = agent.MilliCPU(n) },
		"valid limits":      func(a *agent.Assignment, n int64) { a.Limits.Memory = agent.Bytes(n) },
		"ephemeral storage": func(a *agent.Assignment, n int64) { a.EphemeralStorage = agent.Bytes(n) },
		"timeout":           func(a *agent.Assignment, n int64) { a.Timeout = time.Duration(n) },
		"init timeout":      func(a *agent.Assignment, n int64) { a.InitTimeout = time.Duration(n) },
		"concurrency":       func(a *agent.Assignment, n int64) { a.MaxConcurrency = int(n) },
	} {
		for _, n := range []int64{0, -1, math.MinInt64, math.MaxInt64} {
			a := good
			change(&a, n)
			code, reason := failure(validate(a))
			if code != codeInvalidConfig || !strings.Contains(reason, what) {
				t.Errorf("%s of %d: got %s %q", what, n, code, reason)
			}
		}
	}
}
