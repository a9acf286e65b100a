package runtimeapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"time"

	"github.com/hearth-compute/hearth/agent"
)

// PathCredentials is where functions read the credentials of their execution
// role, in the form that AWS's SDKs know from container services. It is the path
// that AWS uses where it serves credentials so.
const PathCredentials = "/2021-04-23/credentials" //nolint:gosec // G101: a path

// Credentials is who may read what at PathCredentials.
type Credentials struct {
	// TokenHash is the SHA-256 of what a request must have as its Authorization.
	TokenHash [sha256.Size]byte
	// Get returns the credentials that work now, if there are any.
	Get func() (agent.RoleCredentials, bool)
}

// ServeCredentials makes the API answer at PathCredentials, which it does not
// otherwise. It must not be called after Serve.
func (a *API) ServeCredentials(c Credentials) { a.credentials = &c }

// serveCredentials answers one request. SDKs try again after a 503. They ask
// seldom, but code that configures an SDK for each event would keep a connection
// each time, until there are no more for the runtime: they are closed.
func (c *Credentials) serveCredentials(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close")
	given := r.Header.Get("Authorization")
	hash := sha256.Sum256([]byte(given))
	switch {
	case given == "":
		refuse(w, http.StatusUnauthorized, "Unauthorized", "The Authorization header is missing")
		return
	case subtle.ConstantTimeCompare(hash[:], c.TokenHash[:]) != 1:
		refuse(w, http.StatusForbidden, "Forbidden", "The Authorization header is not AWS_CONTAINER_AUTHORIZATION_TOKEN")
		return
	}
	role, ok := c.Get()
	if !ok {
		refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "There are no credentials of the execution role now")
		return
	}
	w.Header().Set("Content-Type", contentTypeJSON)
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(struct {
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
		Expiration      time.Time
		RoleARN         string `json:"RoleArn"`
	}{role.AccessKeyID, role.SecretAccessKey, role.SessionToken, role.ExpiresAt.UTC().Truncate(time.Second), role.RoleARN})
}

// refuse says why there are no credentials in the form SDKs read.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", contentTypeJSON)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}{code, message})
}
