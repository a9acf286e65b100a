package invoke

import (
	"context"
	"sync/atomic"

	"github.com/hearth-compute/hearth/agent"
)

// Environment runs invocations; agent/runtimeapi has the real one.
type Environment interface {
	// Invoke runs one invocation. It returns an error only when the event was
	// not handed to a runtime and will not be.
	Invoke(ctx context.Context, inv agent.Invocation, payload []byte) (agent.Outcome, error)
}

// Table says which environment serves which id now. It is replaced as a whole,
// never changed. The zero value is empty.
type Table struct {
	current atomic.Pointer[map[agent.EnvironmentID]Environment]
}

// Replace makes environments the table. The caller must not change the map any
// more.
func (t *Table) Replace(environments map[agent.EnvironmentID]Environment) {
	t.current.Store(&environments)
}

// Get returns the environment that serves id, or nil.
func (t *Table) Get(id agent.EnvironmentID) Environment {
	m := t.current.Load()
	if m == nil {
		return nil
	}
	return (*m)[id]
}
