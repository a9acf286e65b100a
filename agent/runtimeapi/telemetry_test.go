package runtimeapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
)

// told are the platform events of a function's log.
type told struct {
	mu     sync.Mutex
	events []telemetry.Event
}

func (l *told) take(e telemetry.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Text = append([]byte(nil), e.Text...)
	l.events = append(l.events, e)
}

// records are the events without their times: type and record.
func (l *told) records(t *testing.T) (all []string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		var whole struct {
			Type   string          `json:"type"`
			Record json.RawMessage `json:"record"`
		}
		if err := json.Unmarshal(e.Text, &whole); err != nil || whole.Type != e.Type {
			t.Fatalf("%s: %s: %v", e.Type, e.Text, err)
		}
		all = append(all, strings.TrimPrefix(e.Type, "platform.")+" "+string(whole.Record))
	}
	return all
}

// hub is one whose events are kept.
func hub() (*telemetry.Hub, *told) {
	log := &told{}
	return telemetry.New(telemetry.Config{
		Version: "7", FunctionARN: "arn", JSON: true, SystemLevel: slog.LevelDebug, Sink: log.take, Log: slog.New(slog.DiscardHandler),
		Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody") },
	}), log
}

const (
	telemetryURL = "http://runtime/2022-07-01/telemetry"
	subscription = `{"schemaVersion":"2025-01-29","types":["platform"],"destination":{"protocol":"HTTP","URI":"http://sandbox:81"}}`
)

// call makes any request and returns status and answer.
func (c *client) call(method, url, body string, header ...string) (status int, answer string, got http.Header) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b)), resp.Header
}

// join registers an internal extension, x, and returns its identifier.
func (c *client) join() string {
	c.t.Helper()
	status, body, header := c.call(http.MethodPost, "http://runtime/2020-01-01/extension/register", `{"events":[]}`, "Lambda-Extension-Name", "x")
	if status != http.StatusOK {
		c.t.Fatalf("registering: %d %s", status, body)
	}
	return header.Get("Lambda-Extension-Identifier")
}

func TestSubscriptionsAreAnsweredAsOnAWS(t *testing.T) {
	t.Parallel()
	h, log := hub()
	api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1, Telemetry: h})
	const known = "Lambda-Extension-Identifier"
	id := c.join()
	for _, step := range []struct {
		method, url, body, id string
		status                int
		want                  string
	}{
		{"PUT", telemetryURL, subscription, "", 403, `{"errorMessage":"Missing Lambda-Extension-Identifier header","errorType":"Extension.MissingExtensionIdentifier"}`},
		{"PUT", telemetryURL, subscription, "x", 403, `{"errorMessage":"Invalid Lambda-Extension-Identifier","errorType":"Extension.InvalidExtensionIdentifier"}`},
		{
			"PUT", telemetryURL, subscription, "7c0c0a9f-5b0f-4b8e-9d2e-3f6f5a0f1a11", 403,
			`{"errorMessage":"Unknown extension 7c0c0a9f-5b0f-4b8e-9d2e-3f6f5a0f1a11","errorType":"Extension.UnknownExtensionIdentifier"}`,
		},
		{"POST", telemetryURL, subscription, id, 405, `{"errorMessage":"Method not allowed","errorType":"MethodNotAllowed"}`},
		{"PUT", telemetryURL, strings.Replace(subscription, "2025-01-29", "1", 1), id, 400, `{"errorMessage":"schema validation error: schemaVersion must be one of [\"2025-01-29\" \"2022-12-13\"], not \"1\"","errorType":"ValidationError"}`},
		{"PUT", telemetryURL, subscription + strings.Repeat(" ", 64<<10), id, 413, `{"errorMessage":"Exceeded maximum allowed payload size (65536 bytes).","errorType":"RequestEntityTooLarge"}`},
		{"PUT", telemetryURL, subscription, id, 200, `"OK"`},
		{"PUT", telemetryURL + "/", subscription, id, 200, `"OK"`},
		{"PUT", "http://runtime/2020-08-15/logs", subscription, id, 404, `{"errorMessage":"Unknown path","errorType":"NotFound"}`},
	} {
		var header []string
		if step.id != "" {
			header = []string{known, step.id}
		}
		if status, got, _ := c.call(step.method, step.url, step.body, header...); status != step.status || got != step.want {
			t.Errorf("%s %s %.80s as %s: got %d %s", step.method, step.url, step.body, step.id, status, got)
		}
	}
	makeReady(t, api, c, id)
	if status, got, _ := c.call("PUT", telemetryURL, subscription, known, id); status != 403 ||
		got != `{"errorMessage":"Telemetry API subscription is closed","errorType":"Telemetry.SubscriptionClosed"}` {
		t.Errorf("too late: got %d %s", status, got)
	}
	if got := log.records(t); len(got) != 2 || got[0] != `telemetrySubscription {"name":"x","state":"Subscribed","types":["platform"]}` {
		t.Errorf("told %q", got)
	}
}

// makeReady asks for the first invocation, and an extension for its first event.
func makeReady(t *testing.T, api *runtimeapi.API, c *client, extensions ...string) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	var asking sync.WaitGroup
	for _, id := range extensions {
		asking.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://runtime/2020-01-01/extension/event/next", nil)
			if err != nil {
				return
			}
			req.Header.Set("Lambda-Extension-Identifier", id)
			if resp, err := c.http.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	asking.Go(func() { c.next(ctx) })
	<-api.Ready()
	cancel(nil)
	asking.Wait()
}

func TestWithoutTelemetrySubscribingSaysSo(t *testing.T) {
	t.Parallel()
	_, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
	id := c.join()
	status, got, _ := c.call("PUT", telemetryURL, subscription, "Lambda-Extension-Identifier", id)
	if status != 202 || got != `{"errorMessage":"Telemetry API is not supported","errorType":"Telemetry.NotSupported"}` {
		t.Errorf("got %d %s", status, got)
	}
}

func TestTheInitialisationIsToldOf(t *testing.T) {
	t.Parallel()
	h, log := hub()
	api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1, Telemetry: h})
	h.InitStart("s")
	makeReady(t, api, c, c.join())
	api.InitFailed("Runtime.ExitError") // too late to be told
	var kinds []string
	for _, r := range log.records(t) {
		kind, _, _ := strings.Cut(r, ",")
		kinds = append(kinds, kind)
	}
	want := []string{
		`initStart {"initializationType":"lambda-managed-instances"`, `initRuntimeDone {"initializationType":"lambda-managed-instances"`,
		`extension {"name":"x"`, `initReport {"initializationType":"lambda-managed-instances"`,
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Error(diff)
	}
	if got := log.records(t); !strings.Contains(got[1], `"status":"success"`) || !strings.Contains(got[2], `"state":"Ready","events":[]`) || !strings.Contains(got[3], `"status":"success"`) {
		t.Errorf("got %q", got)
	}
}

func TestAFailedInitialisationIsToldOf(t *testing.T) {
	t.Parallel()
	for errorType, want := range map[string][]string{
		"Runtime.ExitError": {
			`initRuntimeDone {"initializationType":"lambda-managed-instances","status":"error","phase":"init","errorType":"Runtime.ExitError"}`,
			`extension {"name":"x","state":"Registered","events":[]}`,
			`"status":"error","errorType":"Runtime.ExitError"}`,
		},
		"Sandbox.Timedout": {`extension {"name":"x","state":"Registered","events":[]}`, `"status":"timeout","errorType":"Sandbox.Timedout"}`},
	} {
		h, log := hub()
		api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1, Telemetry: h})
		c.join()
		h.InitStart("s")
		api.InitFailed(errorType)
		got := log.records(t)[1:]
		if len(got) != len(want) {
			t.Fatalf("%s: got %q", errorType, got)
		}
		for i := range want {
			if !strings.HasSuffix(got[i], want[i]) {
				t.Errorf("%s: got %s, want %s", errorType, got[i], want[i])
			}
		}
	}
}

// run runs an invocation that answer answers.
func runInvocation(t *testing.T, api *runtimeapi.API, c *client, id string, answer func()) {
	t.Helper()
	polled := c.poll(t.Context())
	<-api.Ready()
	var asked sync.WaitGroup
	asked.Go(func() {
		out, err := api.Invoke(t.Context(), agent.Invocation{RequestID: id, Timeout: 3 * time.Second, TraceID: "Root=1-5;Sampled=1", Stream: id == "streamed"}, []byte("{}"))
		if err != nil {
			t.Errorf("%s: %v", id, err)
		}
		if out.Stream == nil {
			return
		}
		for _, ok := out.Stream.Next(); ok; _, ok = out.Stream.Next() {
			continue
		}
		out.Stream.End()
	})
	<-polled
	answer()
	asked.Wait()
}

func TestEveryInvocationIsToldOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h, log := hub()
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 9, Telemetry: h})
		defer stop()
		after := func(d time.Duration, f func()) func() { return func() { time.Sleep(d); f() } }
		runInvocation(t, api, c, "fine", after(20*time.Millisecond, func() { c.answer("fine", "{}") }))
		runInvocation(t, api, c, "wrong", after(time.Second, func() {
			c.post("runtime/invocation/wrong/error", strings.NewReader("{}"), "Lambda-Runtime-Function-Error-Type", "Function.Oops")
		}))
		runInvocation(t, api, c, "late", after(4*time.Second, func() { c.answer("late", "{}") }))
		runInvocation(t, api, c, "streamed", after(time.Second, func() {
			c.post("runtime/invocation/streamed/response", io.MultiReader(strings.NewReader("x")), "Lambda-Runtime-Function-Response-Mode", "streaming")
		}))
		runInvocation(t, api, c, "lost", after(time.Second, func() { api.Exited(runtimeapi.Exit{Code: 1}) }))
		const tracing = `"tracing":{"type":"X-Amzn-Trace-Id","value":"Root=1-5;Sampled=1"}`
		start := func(id string) string {
			return fmt.Sprintf(`start {"requestId":%q,"version":"7","functionArn":"arn",%s}`, id, tracing)
		}
		spans := func(start string, latency int) string {
			return fmt.Sprintf(`"spans":[{"name":"responseLatency","start":"2000-01-01T00:00:%sZ","durationMs":%d},`, start, latency)
		}
		want := []string{
			start("fine"),
			`report {"requestId":"fine","status":"success","metrics":{"durationMs":20.000},` + tracing + `,` + spans("00.000", 20) +
				`{"name":"responseDuration","start":"2000-01-01T00:00:00.020Z","durationMs":0}]}`,
			start("wrong"),
			`report {"requestId":"wrong","status":"error","metrics":{"durationMs":1000.000},` + tracing + `,` + spans("00.020", 1000) +
				`{"name":"responseDuration","start":"2000-01-01T00:00:01.020Z","durationMs":0}],"errorType":"Function.Oops"}`,
			start("late"),
			`report {"requestId":"late","status":"timeout","metrics":{"durationMs":3000.000},` + tracing + `,"errorType":"Sandbox.Timedout"}`,
			start("streamed"),
			`report {"requestId":"streamed","status":"success","metrics":{"durationMs":1000.000},` + tracing + `,` + spans("05.020", 1000) +
				`{"name":"responseDuration","start":"2000-01-01T00:00:06.020Z","durationMs":0}]}`,
			start("lost"),
			`report {"requestId":"lost","status":"error","metrics":{"durationMs":1000.000},` + tracing + `,"errorType":"Runtime.ExitError"}`,
		}
		if diff := cmp.Diff(want, log.records(t)); diff != "" {
			t.Error(diff)
		}
	})
}
