package up

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane/sigv4"
)

// TestTheDefaultProviderIsMadeByWhoHasAKey makes it where signatures are verified.
func TestTheDefaultProviderIsMadeByWhoHasAKey(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("[me]\naws_access_key_id = AKID\naws_secret_access_key = a secret of this test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := sigv4.OpenKeys(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	verifier := sigv4.New(keys, "eu-west-1", "lambda")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun, err := verifier.Begin(r, time.Now())
		body, readErr := io.ReadAll(r.Body)
		if err == nil {
			_, err = begun.Finish(body)
		}
		if err := errors.Join(err, readErr); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	defer srv.Close()
	p := Provider{Name: "default", AccountID: "123456789012", Region: "eu-west-1", AccessKeysFile: file}
	if err := p.create(t.Context(), strings.TrimPrefix(srv.URL, "http://")); err != nil {
		t.Error(err)
	}
}

func TestTheDefaultProviderIsMadeOnce(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]func(error) bool{
		http.StatusAccepted:            func(err error) bool { return err == nil },
		http.StatusConflict:            func(err error) bool { return err == nil },
		http.StatusInternalServerError: errdefs.IsUnavailable,
	} {
		var path string
		var body struct {
			CapacityProviderName string
			VpcConfig            map[string][]string
		}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			path = r.Method + " " + r.URL.Path
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			w.WriteHeader(status)
		}))
		err := Provider{Name: "default", AccountID: "123456789012"}.create(t.Context(), strings.TrimPrefix(srv.URL, "http://"))
		srv.Close()
		if !want(err) {
			t.Errorf("answered %d: %v", status, err)
		}
		if path != "POST /2025-11-30/capacity-providers" || body.CapacityProviderName != "default" || len(body.VpcConfig["SubnetIds"]) != 3 {
			t.Errorf("asked %s %+v", path, body)
		}
	}
	if err := (Provider{}).create(t.Context(), "127.0.0.1:1"); err != nil {
		t.Errorf("without a name: %v", err)
	}
}
