package sessions_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// vault has sessions of roles by ARN.
type vault struct {
	mu     sync.Mutex
	keys   map[string]string
	nudges int
}

func (v *vault) Get(role string) (controlplane.RoleCredentials, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key, ok := v.keys[role]
	return controlplane.RoleCredentials{
		RoleARN: role, AccessKeyID: key, SecretAccessKey: "secret", SessionToken: "session",
		ExpiresAt: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}, ok
}

func (v *vault) Nudge() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.nudges++
}

func (v *vault) put(role, key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys[role] = key
}

// runningSet is a set of environments that run functions with roles.
func runningSet(generation uint64, roles map[controlplane.FunctionName]string) controlplane.DesiredSet {
	set := controlplane.DesiredSet{Epoch: 1, Generation: generation}
	for name, role := range roles {
		set.Environments = append(set.Environments, controlplane.Placement{Assignment: controlplane.Assignment{
			Environment: controlplane.EnvironmentID("e-" + name), Function: name, Qualifier: "1",
			Publication: controlplane.Publication{Config: controlplane.Config{RoleARN: role, MemoryMB: 512, TimeoutS: 3}},
		}})
	}
	return set
}

// next is the next message to an agent: a role and its key, or a set's
// generation.
func next(t *testing.T, s agentv1.AgentService_SessionClient) any {
	t.Helper()
	m, err := s.Recv()
	must(t, err)
	if c := m.GetRoleCredentials(); c != nil {
		if c.GetSecretAccessKey() != "secret" || c.GetSessionToken() != "session" || c.GetExpiresAt().AsTime().Year() != 2100 {
			t.Error("credentials are not whole")
		}
		return c.GetRoleArn() + " " + c.GetAccessKeyId()
	}
	return m.GetDesiredSet().GetGeneration()
}

func TestCredentialsGoBeforeTheSetThatNeedsThemAndToNobodyElse(t *testing.T) {
	t.Parallel()
	v := &vault{keys: map[string]string{"arn:a": "A1", "arn:b": "B1"}}
	r := newRigWith(t, v)
	first, second := r.join(t, r.mint(t, "i-1")), r.join(t, r.mint(t, "i-2"))
	r.Desire("i-1", runningSet(1, map[controlplane.FunctionName]string{"fa": "arn:a"}))
	r.Desire("i-2", runningSet(1, map[controlplane.FunctionName]string{"fb": "arn:b", "fc": "arn:later"}))
	one, two := r.open(t, t.Context(), first, register("a")), r.open(t, t.Context(), second, register("a"))
	for i, want := range []any{"arn:a A1", uint64(1)} {
		if d := cmp.Diff(want, next(t, one)); d != "" {
			t.Errorf("message %d to the first: %s", i, d)
		}
	}
	for i, want := range []any{"arn:b B1", uint64(1)} {
		if d := cmp.Diff(want, next(t, two)); d != "" {
			t.Errorf("message %d to the second: %s", i, d)
		}
	}
	// Only what is new is sent, and no set again.
	v.put("arn:a", "A2")
	v.put("arn:later", "L1")
	r.CredentialsChanged()
	if got := next(t, one); got != "arn:a A2" {
		t.Errorf("after a renewal the first hears %v", got)
	}
	if got := next(t, two); got != "arn:later L1" {
		t.Errorf("after what was missing came the second hears %v", got)
	}
	// What it does not run any more is not sent any more.
	r.Desire("i-1", runningSet(2, nil))
	if got := next(t, one); got != uint64(2) {
		t.Errorf("got %v", got)
	}
	v.put("arn:a", "A3")
	r.CredentialsChanged()
	r.Desire("i-1", runningSet(3, nil))
	if got := next(t, one); got != uint64(3) {
		t.Errorf("an instance without a function of the role hears %v", got)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.nudges != 4 {
		t.Errorf("told %d times that other roles may be needed, want once for each of 4 sets", v.nudges)
	}
}

func TestSessionsAreNamedAfterTheFunctionWhoseRoleItIs(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, &vault{})
	r.Desire("i-1", runningSet(1, map[controlplane.FunctionName]string{"thumb": "arn:a", "x": "arn:x", "fb": "arn:shared", "fc": "arn:shared", "none": ""}))
	r.Desire("i-2", runningSet(1, map[controlplane.FunctionName]string{"thumb": "arn:a", "fd": "arn:far", "x": "arn:x"}))
	r.Desire("i-3", runningSet(1, map[controlplane.FunctionName]string{"fe": "arn:far"}))
	want := map[string]string{"arn:a": "thumb", "arn:x": "hearth-x", "arn:shared": "hearth", "arn:far": "hearth"}
	if d := cmp.Diff(want, r.Roles()); d != "" {
		t.Error(d)
	}
	r.Forget("i-3")
	if got := r.Roles()["arn:far"]; got != "fd" {
		t.Errorf("after an instance is gone: got %q", got)
	}
}

func TestWhereNobodyAssumesRolesFunctionsHaveNone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	r.Desire("i-1", runningSet(1, map[controlplane.FunctionName]string{"fa": "arn:a"}))
	m, err := r.open(t, t.Context(), a, register("a")).Recv()
	must(t, err)
	if role := m.GetDesiredSet().GetEnvironments()[0].GetAssignment().GetRoleArn(); role != "" || len(r.Roles()) != 0 {
		t.Errorf("got role %q, needed %v", role, r.Roles())
	}
}
