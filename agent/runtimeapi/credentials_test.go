package runtimeapi_test

import (
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// ask sends one request for credentials.
func ask(api *runtimeapi.API, method, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, runtimeapi.PathCredentials, http.NoBody)
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}

func TestCredentialsAreForWhoHasTheToken(t *testing.T) {
	t.Parallel()
	api := runtimeapi.New(runtimeapi.Config{Environment: "e-1", Concurrency: 1, Log: slog.New(slog.DiscardHandler)})
	if got := ask(api, http.MethodGet, "token").Code; got != http.StatusNotFound {
		t.Errorf("without credentials to serve: got %d", got)
	}
	var have bool
	api.ServeCredentials(runtimeapi.Credentials{TokenHash: sha256.Sum256([]byte("token")), Get: func() (agent.RoleCredentials, bool) {
		return agent.RoleCredentials{
			RoleARN: "arn:r", AccessKeyID: "ASIA1", SecretAccessKey: "s3cret", SessionToken: "t0ken",
			ExpiresAt: time.Date(2030, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)),
		}, have
	}})
	for _, c := range []struct {
		method, token string
		have          bool
		want          int
	}{
		{http.MethodGet, "", true, http.StatusUnauthorized},
		{http.MethodGet, "other", true, http.StatusForbidden},
		{http.MethodGet, "token ", true, http.StatusForbidden},
		{http.MethodPut, "token", true, http.StatusMethodNotAllowed},
		{http.MethodGet, "token", false, http.StatusServiceUnavailable},
	} {
		have = c.have
		w := ask(api, c.method, c.token)
		if wantClose := c.method == http.MethodGet; wantClose != (w.Header().Get("Connection") == "close") {
			t.Errorf("%+v: Connection: %q", c, w.Header().Get("Connection"))
		}
		if w.Code != c.want || strings.Contains(w.Body.String(), "s3cret") {
			t.Errorf("%+v: got %d %s", c, w.Code, w.Body)
		}
	}
	have = true
	w := ask(api, http.MethodGet, "token")
	var got map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"AccessKeyId": "ASIA1", "SecretAccessKey": "s3cret", "Token": "t0ken",
		"Expiration": "2030-01-02T02:04:05Z", "RoleArn": "arn:r",
	}
	if d := cmp.Diff(want, got); d != "" || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Error(w.Code, w.Header(), d)
	}
}
