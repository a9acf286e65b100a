package runtimeapi_test

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// fuzzedRequest makes a request to a path as it was sent, which a URL may not
// hold.
func fuzzedRequest(ctx context.Context, method, path, body string, header http.Header) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", strings.NewReader(body))
	r.Method, r.URL.Path, r.Header = method, path, header
	return r
}

// FuzzTelemetry asks for telemetry as any extension, or none, might. Every answer
// is one of the API's, only a subscription that is whole is OK, and no subscriber
// is dialled outside the environment.
func FuzzTelemetry(f *testing.F) {
	f.Add(http.MethodPut, "", true, subscription)
	f.Add(http.MethodPut, "/", true, `{"schemaVersion":"2025-01-29","types":["function"],"destination":{"protocol":"TCP","port":1}}`)
	f.Add(http.MethodPost, "", true, subscription)
	f.Add(http.MethodPut, "", false, subscription)
	f.Add(http.MethodPut, "", true, strings.Repeat(" ", 70<<10))
	f.Add(http.MethodPut, "x", true, "{")
	f.Fuzz(func(t *testing.T, method, path string, known bool, body string) {
		hub, _ := hub()
		api := runtimeapi.New(runtimeapi.Config{Environment: "e", Concurrency: 1, Telemetry: hub, Log: slog.New(slog.DiscardHandler)})
		w := httptest.NewRecorder()
		api.ServeHTTP(w, fuzzedRequest(t.Context(), http.MethodPost, "/2020-01-01/extension/register", `{"events":[]}`, http.Header{"Lambda-Extension-Name": {"x"}}))
		header := http.Header{}
		if known {
			header.Set("Lambda-Extension-Identifier", w.Header().Get("Lambda-Extension-Identifier"))
		}
		w = httptest.NewRecorder()
		api.ServeHTTP(w, fuzzedRequest(t.Context(), method, "/2022-07-01/telemetry"+path, body, header))
		switch w.Code {
		case http.StatusOK:
			if !known || method != http.MethodPut || !strings.Contains(body, "{") {
				t.Errorf("%s with %q is OK", method, body)
			}
		case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge:
		default:
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	})
}

// FuzzCredentials tries to read an execution role's credentials without their
// token.
func FuzzCredentials(f *testing.F) {
	f.Add(http.MethodGet, runtimeapi.PathCredentials, "")
	f.Add(http.MethodGet, runtimeapi.PathCredentials, "token")
	f.Add(http.MethodGet, runtimeapi.PathCredentials+"/", "right")
	f.Add(http.MethodHead, runtimeapi.PathCredentials, "Bearer right")
	f.Fuzz(func(t *testing.T, method, path, token string) {
		api := runtimeapi.New(runtimeapi.Config{Environment: "e", Concurrency: 1, Log: slog.New(slog.DiscardHandler)})
		api.ServeCredentials(runtimeapi.Credentials{TokenHash: sha256.Sum256([]byte("right")), Get: func() (agent.RoleCredentials, bool) {
			return agent.RoleCredentials{AccessKeyID: "ASIA1", SecretAccessKey: "s3cret", SessionToken: "t0ken"}, true
		}})
		gone, leave := context.WithCancelCause(t.Context())
		leave(nil) // nobody waits for an event
		w := httptest.NewRecorder()
		api.ServeHTTP(w, fuzzedRequest(gone, method, path, "", http.Header{"Authorization": {token}}))
		allowed := method == http.MethodGet && path == runtimeapi.PathCredentials && token == "right"
		if given := strings.Contains(w.Body.String(), "s3cret"); given != allowed {
			t.Errorf("%s %q with %q: got %d %s", method, path, token, w.Code, w.Body)
		}
	})
}
