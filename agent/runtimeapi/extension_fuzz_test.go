package runtimeapi_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// FuzzExtensions sends what hostile extensions might. Whatever it is, every
// answer is one of the API's, and no more register than may.
func FuzzExtensions(f *testing.F) {
	f.Add("register", "a", "", "", `{"events":["SHUTDOWN"]}`)
	f.Add("register", "inside", "", "accountId", `{"configurationKeys":[1]}`)
	f.Add("register", strings.Repeat("x", 300), "", "", `{"events":[null,"INVOKE"]}`)
	f.Add("event/next", "", "00000000-0000-0000-0000-000000000000", "", "")
	f.Add("init/error", "", "{00000000-0000-0000-0000-000000000000}", "Extension.X", `{"errorMessage":"\u0000"}`)
	f.Add("exit/error", "", "urn:uuid:", "Extension.\xff", "[")
	f.Fuzz(func(t *testing.T, path, name, id, kind, body string) {
		api := runtimeapi.New(runtimeapi.Config{Environment: "e", Concurrency: 1, Log: slog.New(slog.DiscardHandler)})
		api.Expect([]string{"a"})
		gone, leave := context.WithCancelCause(t.Context())
		leave(nil) // nobody waits for an event
		registered := 0
		for i := range 2 * runtimeapi.MaxExtensions {
			method := http.MethodPost
			if path == "event/next" {
				method = http.MethodGet
			}
			r := httptest.NewRequestWithContext(gone, method, "/", strings.NewReader(body))
			r.URL.Path = "/2020-01-01/extension/" + path
			r.Header.Set("Lambda-Extension-Name", name+strconv.Itoa(i))
			r.Header.Set("Lambda-Extension-Identifier", id)
			r.Header.Set("Lambda-Extension-Accept-Feature", kind)
			r.Header.Set("Lambda-Extension-Function-Error-Type", kind)
			w := httptest.NewRecorder()
			api.ServeHTTP(w, r)
			switch w.Code {
			case http.StatusOK:
				registered++
			case http.StatusAccepted, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge:
			default:
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
		}
		if registered > runtimeapi.MaxExtensions-1 { // one place is kept for a
			t.Errorf("%d have registered", registered)
		}
	})
}
