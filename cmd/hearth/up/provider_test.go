package up

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

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
