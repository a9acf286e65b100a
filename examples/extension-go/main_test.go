package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// api plays Lambda: it answers every call and delivers telemetry before the
// event.
func api(t *testing.T, calls *[]string, refuse string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		*calls = append(*calls, r.Method+" "+r.URL.Path+" "+r.Header.Get("Lambda-Extension-Name")+r.Header.Get("Lambda-Extension-Identifier")+" "+string(body))
		switch {
		case r.URL.Path == refuse:
			http.Error(w, "no", http.StatusForbidden)
		case strings.HasSuffix(r.URL.Path, "/register"):
			w.Header().Set("Lambda-Extension-Identifier", "id-1")
		case strings.HasSuffix(r.URL.Path, "/event/next"):
			batch := `[{"type":"platform.start"},{"type":"function"},{"type":"platform.start"}]`
			resp, err := new(http.Client).Post("http://127.0.0.1:"+port, "application/json", strings.NewReader(batch))
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			_ = json.NewEncoder(w).Encode(event{EventType: "SHUTDOWN", ShutdownReason: "spindown"})
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestSaysAtTheEndWhatItWasTold(t *testing.T) {
	var calls []string
	var out bytes.Buffer
	s := api(t, &calls, "")
	if err := newExtension("x", strings.TrimPrefix(s.URL, "http://"), &out).run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if out.String() != "x: SHUTDOWN because of spindown, told of function 1, platform.start 2\n" {
		t.Errorf("it printed %q", out.String())
	}
	want := []string{
		`POST /2020-01-01/extension/register x {"events":["SHUTDOWN"]}`,
		`PUT /2022-07-01/telemetry id-1 {"buffering":{"timeoutMs":100},"destination":{"URI":"http://sandbox.localdomain:4243","protocol":"HTTP"},"schemaVersion":"2025-01-29","types":["platform","function"]}`,
		`GET /2020-01-01/extension/event/next id-1 `,
	}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Error(diff)
	}
}

func TestSaysWhyItGivesUp(t *testing.T) {
	var calls []string
	s := api(t, &calls, "/2022-07-01/telemetry")
	err := newExtension("x", strings.TrimPrefix(s.URL, "http://"), io.Discard).run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("got %v", err)
	}
	last := calls[len(calls)-1]
	if !strings.HasPrefix(last, "POST /2020-01-01/extension/init/error id-1 ") || !strings.Contains(last, `"errorType":"Extension.NoTelemetry"`) {
		t.Errorf("the last it said was %s", last)
	}
}
