package sessions

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/controlplane"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// Credentials has the sessions of execution roles; controlplane/credentials has
// the real one.
type Credentials interface {
	// Get returns the session of a role, if there is one that works.
	Get(role string) (controlplane.RoleCredentials, bool)
	// Nudge says that other roles may be needed. It must not block.
	Nudge()
}

// sessionName is what the session of a role is called that several functions
// share.
const sessionName = "hearth"

// rolesOf returns the roles of a set, each with the name of the function that
// runs with it, or sessionName if those are several.
func rolesOf(set *agentv1.DesiredSet) map[string]string {
	roles := map[string]string{}
	for _, e := range set.GetEnvironments() {
		if a := e.GetAssignment(); a.GetRoleArn() != "" {
			addRole(roles, a.GetRoleArn(), a.GetFunctionName())
		}
	}
	return roles
}

func addRole(roles map[string]string, role, name string) {
	if len(name) < 2 { // STS wants two characters
		name = sessionName + "-" + name
	}
	if cmp.Or(roles[role], name) != name {
		name = sessionName
	}
	roles[role] = name
}

// Roles returns the execution roles that instances need now, each with a name for
// its session: the function's whose role it is.
func (s *Server) Roles() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]string{}
	for _, a := range s.agents {
		for role, name := range a.roles {
			addRole(all, role, name)
		}
	}
	return all
}

// CredentialsChanged sends the agents what they have not got yet. It never
// blocks.
func (s *Server) CredentialsChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.agents {
		a.nudgeLocked()
	}
}

// withhold takes the roles from a set if nobody assumes roles: functions then
// find no credentials, rather than none that work.
func (s *Server) withhold(set *agentv1.DesiredSet) {
	if s.cfg.Credentials != nil {
		return
	}
	for _, e := range set.GetEnvironments() {
		e.GetAssignment().RoleArn = ""
	}
}

// ledger is which credentials went out over one stream: role to access key id.
type ledger map[string]string

// sendCredentials sends the credentials that a set needs and that the agent has
// not got over this stream.
func (s *Server) sendCredentials(set *agentv1.DesiredSet, sent ledger, stream agentv1.AgentService_SessionServer) error {
	if s.cfg.Credentials == nil {
		return nil
	}
	roles := rolesOf(set)
	maps.DeleteFunc(sent, func(role, _ string) bool { return roles[role] == "" })
	for _, role := range slices.Sorted(maps.Keys(roles)) {
		c, ok := s.cfg.Credentials.Get(role)
		if !ok || sent[role] == c.AccessKeyID {
			continue
		}
		m := &agentv1.SessionResponse_RoleCredentials{RoleCredentials: &agentv1.RoleCredentials{
			RoleArn: role, AccessKeyId: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey,
			SessionToken: c.SessionToken, ExpiresAt: timestamppb.New(c.ExpiresAt),
		}}
		if err := stream.Send(&agentv1.SessionResponse{Message: m}); err != nil {
			return err
		}
		sent[role] = c.AccessKeyID
	}
	return nil
}
