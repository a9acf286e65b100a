package session

import (
	"github.com/hearth-compute/hearth/agent"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// credentials passes a session of a role on. One that is not whole is of no use
// to any function, and the one before it is kept.
func (s *Session) credentials(m *agentv1.RoleCredentials) {
	for _, field := range []string{m.GetRoleArn(), m.GetAccessKeyId(), m.GetSecretAccessKey(), m.GetSessionToken()} {
		if field == "" || len(field) > maxCredential {
			s.cfg.Log.Warn("credentials of a role are not whole", "role", text(m.GetRoleArn(), maxName))
			return
		}
	}
	s.cfg.Node.Credentials(agent.RoleCredentials{
		RoleARN:         m.GetRoleArn(),
		AccessKeyID:     m.GetAccessKeyId(),
		SecretAccessKey: m.GetSecretAccessKey(),
		SessionToken:    m.GetSessionToken(),
		ExpiresAt:       m.GetExpiresAt().AsTime(),
	})
}
