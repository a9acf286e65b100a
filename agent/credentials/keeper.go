// Package credentials keeps the sessions of execution roles that the control
// service sends, in memory and nowhere else, until they end.
package credentials

import (
	"context"
	"sync"
	"time"

	"github.com/hearth-compute/hearth/agent"
)

// Keeper has the sessions. Use New. It may be used from everywhere at once.
type Keeper struct {
	mu    sync.Mutex // guards the fields below
	roles map[string]agent.RoleCredentials
	// came is closed, and replaced, when something comes.
	came chan struct{}
}

// New returns a keeper of nothing.
func New() *Keeper {
	return &Keeper{roles: map[string]agent.RoleCredentials{}, came: make(chan struct{})}
}

// Put keeps a session instead of the one its role had, unless that lasts longer:
// two control services may send sessions of one role. Those that have ended are
// forgotten.
func (k *Keeper) Put(c agent.RoleCredentials) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	for role, old := range k.roles {
		if !now.Before(old.ExpiresAt) {
			delete(k.roles, role)
		}
	}
	if old := k.roles[c.RoleARN]; !c.ExpiresAt.After(old.ExpiresAt) || !now.Before(c.ExpiresAt) {
		return
	}
	k.roles[c.RoleARN] = c
	close(k.came)
	k.came = make(chan struct{})
}

// Get returns the session of a role, if there is one that has not ended.
func (k *Keeper) Get(role string) (agent.RoleCredentials, bool) {
	c, ok, _ := k.look(role)
	return c, ok
}

// Wait waits until there is a session of a role, and reports false when ctx ends
// first.
func (k *Keeper) Wait(ctx context.Context, role string) bool {
	for {
		_, ok, came := k.look(role)
		if ok {
			return true
		}
		select {
		case <-came:
		case <-ctx.Done():
			return false
		}
	}
}

func (k *Keeper) look(role string) (agent.RoleCredentials, bool, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.roles[role]
	if !ok || !time.Now().Before(c.ExpiresAt) {
		return agent.RoleCredentials{}, false, k.came
	}
	return c, true, k.came
}
