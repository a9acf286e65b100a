package runtimeapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

const extensionBase = "http://runtime/2020-01-01/extension/"

// reply is an answer of the Extensions API.
type reply struct {
	status int
	header http.Header
	body   string
}

// extension makes a request of the Extensions API; headers are names and values
// in turn.
func (c *client) extension(ctx context.Context, method, path, body string, headers ...string) reply {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, extensionBase+path, strings.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return reply{}
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{}
	}
	defer func() { _ = resp.Body.Close() }()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Error(err)
	}
	return reply{resp.StatusCode, resp.Header, string(content)}
}

func (c *client) register(name, body string, headers ...string) reply {
	c.t.Helper()
	return c.extension(context.Background(), "POST", "register", body, append(headers, "Lambda-Extension-Name", name)...)
}

const identifier = "Lambda-Extension-Identifier"

// refused wants a 403 with an error type and a part of its message.
func (r reply) refused(t *testing.T, errorType, says string) {
	t.Helper()
	var e struct{ ErrorType, ErrorMessage string }
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || r.status != http.StatusForbidden || e.ErrorType != errorType || !strings.Contains(e.ErrorMessage, says) {
		t.Errorf("got %d %s, want 403 %s %q", r.status, r.body, errorType, says)
	}
}

func accompanied() runtimeapi.Config {
	return runtimeapi.Config{Concurrency: 2, Function: runtimeapi.Function{Name: "f", Version: "7", Handler: "h.x", AccountID: "123456789012"}}
}

func TestAnExtensionLearnsWhomItAccompanies(t *testing.T) {
	t.Parallel()
	api, c, stop := serve(t, accompanied())
	defer stop()
	api.Expect([]string{"a", "b"})
	for name, feature := range map[string]string{"a": "", "b": "other, accountId"} {
		got := c.register(name, `{"events":["SHUTDOWN"]}`, "Lambda-Extension-Accept-Feature", feature)
		want := `{"functionName":"f","functionVersion":"7","handler":"h.x"}` + "\n"
		if feature != "" {
			want = `{"accountId":"123456789012",` + want[1:]
		}
		if _, err := uuid.Parse(got.header.Get(identifier)); got.status != http.StatusOK || got.body != want || err != nil {
			t.Errorf("got %+v, want %s", got, want)
		}
	}
	select {
	case <-api.Registered():
	default:
		t.Error("not all have registered")
	}
}

func TestEveryRegistrationThatIsRefusedSaysWhy(t *testing.T) {
	t.Parallel()
	api, c, stop := serve(t, accompanied())
	defer stop()
	api.Expect([]string{"a"})
	c.register("", `{}`).refused(t, "Extension.InvalidExtensionName", "Empty extension name")
	c.register(strings.Repeat("x", 300), `{}`).refused(t, "Extension.InvalidExtensionName", "too long")
	c.register("a", `{`).refused(t, "InvalidRequestFormat", "")
	c.register("a", `{"configurationKeys":["k"]}`).refused(t, "InvalidRequestFormat", "configurationKeys are deprecated")
	c.register("a", `{"events":["SHUTDOWN","INVOKE"]}`).refused(t, "Extension.InvalidEventType", "INVOKE: ErrorInvalidEventType")
	if why := api.ExtensionRefusal("a"); !strings.Contains(why, `"INVOKE"`) {
		t.Errorf("why a could not register: %q", why)
	}
	if got := c.register("a", `{"events":[]}`); got.status != http.StatusOK || api.ExtensionRefusal("a") != "" {
		t.Errorf("got %+v, %q", got, api.ExtensionRefusal("a"))
	}
	c.register("a", `{}`).refused(t, "Extension.InvalidExtensionState", "State transition from Registered to Registered failed for extension a.")
	c.register("inside", `{"events":["SHUTDOWN"]}`).refused(t, "Extension.InvalidEventType", "No events allowed for internal extensions")
	for i := range 9 {
		if got := c.register(fmt.Sprint("inside-", i), `{}`); got.status != http.StatusOK {
			t.Errorf("got %+v", got)
		}
	}
	c.register("inside-1", `{}`).refused(t, "Extension.InvalidExtensionState", "already registered")
	c.register("one-more", `{}`).refused(t, "Extension.TooManyExtensions", "Extension limit (10) reached")
	if got := c.register("a", `"`+strings.Repeat("x", 70_000)+`"`); got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: got %+v", got)
	}
}

func TestNobodyRegistersOnceTheRuntimeIsReady(t *testing.T) {
	t.Parallel()
	api, c, stop := serve(t, accompanied())
	defer stop()
	go c.next(t.Context())
	<-api.Ready()
	c.register("late", `{}`).refused(t, "Extension.RegistrationClosed", "Extension registration closed already")
}

func TestWhoeverIsNotKnownIsToldSo(t *testing.T) {
	t.Parallel()
	_, c, stop := serve(t, accompanied())
	defer stop()
	for _, path := range []string{"GET event/next", "POST init/error", "POST exit/error"} {
		method, path, _ := strings.Cut(path, " ")
		call := func(headers ...string) reply { return c.extension(context.Background(), method, path, "", headers...) }
		call().refused(t, "Extension.MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header")
		call(identifier, "x").refused(t, "Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier")
		call(identifier, uuid.NewString()).refused(t, "Extension.UnknownExtensionIdentifier", "Unknown ")
		if got := c.extension(context.Background(), "PUT", path, ""); got.status != http.StatusMethodNotAllowed {
			t.Errorf("PUT %s: got %+v", path, got)
		}
	}
	if got := c.extension(context.Background(), "GET", "nowhere", ""); got.status != http.StatusNotFound {
		t.Errorf("got %+v", got)
	}
}

func TestReadyMeansTheRuntimeAndEveryExtension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, accompanied())
		defer stop()
		api.Expect([]string{"a"})
		ready := func() bool {
			synctest.Wait()
			select {
			case <-api.Ready():
				return true
			default:
				return false
			}
		}
		missing := func(want string) {
			t.Helper()
			if got := api.Missing(); got != want {
				t.Errorf("missing is %q, want %q", got, want)
			}
		}
		missing("extension a did not register")
		a := c.register("a", `{"events":["SHUTDOWN"]}`).header.Get(identifier)
		inside := c.register("inside", `{}`).header.Get(identifier)
		missing("runtime did not ask for its first invocation")
		go c.next(t.Context())
		if ready() {
			t.Error("ready without extensions")
		}
		missing("extension a, inside did not ask for its first event")
		go c.extension(t.Context(), "GET", "event/next", "", identifier, a)
		if ready() {
			t.Error("ready without the internal extension")
		}
		go c.extension(t.Context(), "GET", "event/next", "", identifier, inside)
		if !ready() {
			t.Error("not ready")
		}
	})
}

func TestShutdownIsToldOnceToThoseWhoAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, accompanied())
		defer stop()
		api.Expect([]string{"a", "b"})
		a := c.register("a", `{"events":["SHUTDOWN"]}`).header.Get(identifier)
		b := c.register("b", `{}`).header.Get(identifier)
		inside := c.register("inside", `{}`).header.Get(identifier)
		if !api.HasExtensions() {
			t.Error("it has extensions")
		}
		got := make(chan reply, 4)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		for _, id := range []string{a, b, inside} {
			go func() { got <- c.extension(ctx, "GET", "event/next", "", identifier, id) }()
		}
		synctest.Wait()
		c.extension(ctx, "GET", "event/next", "", identifier, a).refused(t, "Extension.InvalidExtensionState", "State transition from Ready to Ready failed for extension "+a)
		deadline := time.Now().Add(2 * time.Second)
		told, others := api.Shutdown(runtimeapi.Failure, deadline)
		if diff := cmp.Diff([][]string{{"a"}, {"b"}}, [][]string{told, others}); diff != "" {
			t.Error(diff)
		}
		api.Shutdown(runtimeapi.Spindown, deadline.Add(time.Hour)) // comes too late
		event := <-got
		want := fmt.Sprintf(`{"eventType":"SHUTDOWN","deadlineMs":%d,"shutdownReason":"failure"}`+"\n", deadline.UnixMilli())
		if _, err := uuid.Parse(event.header.Get("Lambda-Extension-Event-Identifier")); event.body != want || err != nil || event.header.Get("Content-Type") != "application/json" {
			t.Errorf("got %+v, want %s", event, want)
		}
		go func() { got <- c.extension(ctx, "GET", "event/next", "", identifier, a) }()
		synctest.Wait()
		select {
		case again := <-got:
			t.Errorf("somebody else got %+v", again)
		default:
		}
	})
}

func TestAnExtensionThatDialsAgainWaitsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, accompanied())
		defer stop()
		api.Expect([]string{"a"})
		a := c.register("a", `{"events":["SHUTDOWN"]}`).header.Get(identifier)
		ctx, cancel := context.WithCancelCause(t.Context())
		go c.extension(ctx, "GET", "event/next", "", identifier, a)
		synctest.Wait()
		cancel(nil)
		synctest.Wait()
		got := make(chan reply, 1)
		go func() { got <- c.extension(t.Context(), "GET", "event/next", "", identifier, a) }()
		synctest.Wait()
		api.Shutdown(runtimeapi.Spindown, time.Now())
		if e := <-got; !strings.Contains(e.body, "SHUTDOWN") {
			t.Errorf("got %+v", e)
		}
	})
}

func TestAnExtensionSaysWhyItGivesUp(t *testing.T) {
	t.Parallel()
	const header = "Lambda-Extension-Function-Error-Type"
	api, c, stop := serve(t, accompanied())
	defer stop()
	api.Expect([]string{"a", "b"})
	a := c.register("a", `{}`).header.Get(identifier)
	b := c.register("b", `{}`).header.Get(identifier)
	post := func(path, id, kind string) reply {
		return c.extension(context.Background(), "POST", path, `{"errorMessage":"no key"}`, identifier, id, header, kind)
	}
	post("exit/error", a, "").refused(t, "Extension.MissingHeader", header+" not found")
	for range 2 { // the second is no error
		if got := post("exit/error", a, "what?"); got.status != http.StatusAccepted {
			t.Errorf("got %+v", got)
		}
	}
	if got := api.ExtensionFault(); got != "Extension.ExitError" {
		t.Errorf("the fault is %s", got)
	}
	post("init/error", a, "Extension.NoKey").refused(t, "Extension.InvalidExtensionState", "State transition from ExitError to InitError failed for extension "+a)
	c.extension(context.Background(), "GET", "event/next", "", identifier, a).refused(t, "Extension.InvalidExtensionState", "from ExitError to Ready")
	if got := post("init/error", b, "Extension.NoKey"); got.status != http.StatusAccepted || got.body != "{\"status\":\"OK\"}\n" {
		t.Errorf("got %+v", got)
	}
	<-api.Failed()
	if diff := cmp.Diff(runtimeapi.InitError{Type: "Extension.NoKey", Message: "extension b: no key"}, api.InitError()); diff != "" {
		t.Error(diff)
	}
	go c.next(t.Context()) // changes nothing
	select {
	case <-api.Ready():
		t.Error("ready although it failed")
	case <-time.After(20 * time.Millisecond):
	}
}
