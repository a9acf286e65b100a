package pool

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// credentialsWait is how long the start of an environment waits for credentials
// that have not come yet. After it the function runs and is answered 503 until
// they come: it may do without, and other things than credentials may be its
// purpose.
const credentialsWait = 2 * time.Second

// labelToken keeps the hash of a sandbox's token, for the agent process that
// adopts it.
const labelToken = "hearth.credentials-token-sha256" //nolint:gosec // a label, no credential

var errNoCredentials = errors.New("no credentials of the execution role have come")

// Roles has the sessions of execution roles; agent/credentials has the real one.
type Roles interface {
	// Get returns the session of a role, if there is one that works.
	Get(role string) (agent.RoleCredentials, bool)
	// Wait waits for one, and reports false when ctx ends first.
	Wait(ctx context.Context, role string) bool
}

// newToken makes what the function of an assignment shows to read its role's
// credentials; empty if it gets none.
func (p *Pool) newToken(a agent.Assignment) string {
	if p.cfg.Roles == nil || a.RoleARN == "" {
		return ""
	}
	return rand.Text()
}

// tokenHash is the form in which a token is kept and checked; empty for none.
func tokenHash(token string) string {
	if token == "" {
		return ""
	}
	hash := sha256.Sum256([]byte(token))
	return hex.EncodeToString(hash[:])
}

// grant lets whoever has the token of a hash read the credentials of the
// incarnation's role, and nobody else.
func (p *Pool) grant(in *incarnation, hash string) {
	sum, err := hex.DecodeString(hash)
	if err != nil || len(sum) != sha256.Size || p.cfg.Roles == nil {
		return // it gets none
	}
	role := in.assignment.RoleARN
	in.api.ServeCredentials(runtimeapi.Credentials{
		TokenHash: [sha256.Size]byte(sum),
		Get:       func() (agent.RoleCredentials, bool) { return p.cfg.Roles.Get(role) },
	})
}

// awaitCredentials gives the role's credentials a moment to come.
func (p *Pool) awaitCredentials(ctx context.Context, in *incarnation) {
	if in.token == "" {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, credentialsWait, errNoCredentials)
	defer cancel()
	if !p.cfg.Roles.Wait(ctx, in.assignment.RoleARN) && errors.Is(context.Cause(ctx), errNoCredentials) {
		p.cfg.Log.WarnContext(ctx, "environment starts without credentials", "environment", string(in.assignment.Environment),
			"function", in.assignment.FunctionName, "role", in.assignment.RoleARN)
	}
}

// credentials are the variables that lead SDKs to the role's credentials. Those
// that would lead them elsewhere first are absent.
func (b build) credentials() map[string]string {
	if b.token == "" {
		return nil
	}
	return map[string]string{
		"AWS_CONTAINER_CREDENTIALS_FULL_URI":     "http://" + runtimeAddress + runtimeapi.PathCredentials,
		"AWS_CONTAINER_AUTHORIZATION_TOKEN":      b.token,
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "",
	}
}
