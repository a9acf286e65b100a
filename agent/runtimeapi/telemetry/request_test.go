package telemetry_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
)

// body is a subscription with parts of it replaced.
func body(replace ...string) []byte {
	const whole = `{"schemaVersion":"2025-01-29","types":["platform"],"destination":{"protocol":"HTTP","URI":"http://sandbox:81"},` +
		`"buffering":{"maxItems":1000,"maxBytes":262144,"timeoutMs":25}}`
	return []byte(strings.NewReplacer(replace...).Replace(whole))
}

func TestSubscriptionsAreCheckedAsOnAWS(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body []byte
		want string // part of the message; empty if it is accepted
	}{
		"as it is":                {body(), ""},
		"the older schema":        {body("2025-01-29", "2022-12-13"), ""},
		"sandbox.localdomain":     {body("sandbox:", "sandbox.localdomain:"), ""},
		"loopback":                {body("sandbox:", "127.0.0.1:"), ""},
		"no port":                 {body("sandbox:81", "sandbox"), ""},
		"no buffering":            {body(`,"buffering":{"maxItems":1000,"maxBytes":262144,"timeoutMs":25}`, ""), ""},
		"most of all":             {body("1000", "10000", "262144", "1048576", "25}", "30000}"), ""},
		"more members":            {body(`"types"`, `"comment":{},"types"`), ""},
		"not JSON":                {[]byte("{"), "Invalid JSON: "},
		"nothing":                 {nil, "Invalid JSON: "},
		"null":                    {[]byte("null"), "schemaVersion"},
		"an array":                {[]byte("[]"), "Invalid JSON: "},
		"another schema":          {body("2025-01-29", "2020-08-15"), "schemaVersion"},
		"no types":                {body(`["platform"]`, `[]`), "types"},
		"another type":            {body(`["platform"]`, `["platform","logs"]`), "types"},
		"a type that is a number": {body(`["platform"]`, `[1]`), "Invalid JSON: "},
		"no destination":          {body(`"destination":{"protocol":"HTTP","URI":"http://sandbox:81"},`, ""), "destination"},
		"another protocol":        {body("HTTP", "UDP"), "destination"},
		"no URI":                  {body("http://sandbox:81", ""), "destination"},
		"TCP without a port":      {body("HTTP", "TCP"), "destination"},
		"TCP with a port too far": {body(`"HTTP"`, `"TCP","port":65536`), "destination"},
		"nobody listens with TCP": {body(`"HTTP"`, `"TCP","port":82`), "Invalid destination: could not TCP dial provided address 127.0.0.1:82: connect: connection refused"},
		"the host's loopback":     {body("sandbox:", "localhost:"), "Invalid destination: destination.URI host must be sandbox.localdomain"},
		"the cloud":               {body("sandbox:81", "169.254.169.254"), "destination.URI host"},
		"a user and another host": {body("sandbox:81", "sandbox:81@example.com"), "destination.URI host"},
		"https":                   {body("http:", "https:"), "destination.URI scheme"},
		"a port too far":          {body("sandbox:81", "sandbox:65536"), "destination.URI port"},
		"no URI at all":           {body("http://sandbox:81", `http://\u007f`), "could not parse destination.URI"},
		"too few items":           {body("1000", "999"), "buffering.maxItems must be 1000 to 10000, not 999"},
		"too many items":          {body("1000", "10001"), "buffering.maxItems"},
		"too few bytes":           {body("262144", "262143"), "buffering.maxBytes must be 262144 to 1048576, not 262143"},
		"too many bytes":          {body("262144", "1048577"), "buffering.maxBytes"},
		"too soon":                {body("25}", "24}"), "buffering.timeoutMs must be 25 to 30000, not 24"},
		"too late":                {body("25}", "30001}"), "buffering.timeoutMs"},
		"no number":               {body("25}", `"25"}`), "Invalid JSON: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, telemetry.Config{})
			err := w.hub.Subscribe(t.Context(), "x", c.body)
			if c.want == "" {
				if err != nil || len(w.logged()) != 1 {
					t.Errorf("got %v, logged %q", err, w.logged())
				}
				return
			}
			refused, ok := errors.AsType[*telemetry.RefusedError](err)
			if !ok || refused.Type != "ValidationError" || !strings.Contains(refused.Message, c.want) || !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if len(w.logged()) != 0 {
				t.Errorf("logged %q", w.logged())
			}
		})
	}
}

func TestSubscribingEndsWithTheInitialisation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, telemetry.Config{})
	w.hub.Close()
	err := w.hub.Subscribe(t.Context(), "x", body())
	refused, ok := errors.AsType[*telemetry.RefusedError](err)
	if !ok || refused.Type != "Telemetry.SubscriptionClosed" || refused.Message != "Telemetry API subscription is closed" || !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	err = w.hub.Subscribe(t.Context(), "x", []byte("{}"))
	if refused, ok = errors.AsType[*telemetry.RefusedError](err); !ok || refused.Type != "ValidationError" {
		t.Errorf("got %v", err)
	}
}

func TestWhoSubscribesGetsWhatHappenedBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		early, late := w.receive(t, 81, nil), w.receive(t, 82, nil)
		w.hub.InitStart("s")
		w.hub.Function([]byte("one"))
		w.subscribe(t, "early", 81, all, "")
		w.hub.Extension([]byte("two"))
		w.subscribe(t, "late", 82, platform, "")
		w.hub.Close()
		w.hub.Start("r", telemetry.Tracing{})
		w.hub.Flush(t.Context())
		if got := types(early.events()); got != "initStart function telemetrySubscription extension telemetrySubscription start" {
			t.Errorf("early: %s", got)
		}
		if got := types(late.events()); got != "initStart telemetrySubscription telemetrySubscription start" {
			t.Errorf("late: %s", got)
		}
		if got := string(late.events()[2].Record); got != `{"name":"late","state":"Subscribed","types":["platform"]}` {
			t.Errorf("got %s", got)
		}
	})
}

func TestTooMuchBeforeASubscriptionIsDroppedAndTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		r := w.receive(t, 81, nil)
		line := []byte(strings.Repeat("x", 1<<10))
		for range 200 {
			w.hub.Function(line)
		}
		w.subscribe(t, "x", 81, all, "")
		w.hub.Flush(t.Context())
		got := r.events()
		kept := strings.Count(types(got), "function")
		if kept < 100 || kept > 128 {
			t.Errorf("%d were kept", kept)
		}
		last := got[len(got)-1]
		if want := `"droppedRecords":` + strconv.Itoa(200-kept) + `,`; last.Type != "platform.logsDropped" || !strings.Contains(string(last.Record), want) {
			t.Errorf("got %s %s, want %s", last.Type, last.Record, want)
		}
	})
}

func TestASubscriptionTakesThePlaceOfTheFormer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		before, now := w.receive(t, 81, nil), w.receive(t, 82, nil)
		w.subscribe(t, "x", 81, function, "")
		synctest.Wait()
		w.subscribe(t, "x", 82, function, "")
		synctest.Wait()
		w.hub.Close()
		w.hub.Function([]byte("one"))
		w.hub.Flush(t.Context())
		if len(before.events()) != 0 || types(now.events()) != "function" {
			t.Errorf("got %v and %v", before.events(), now.events())
		}
	})
}

func TestConnectionsNobodySendsOnAreClosed(t *testing.T) {
	t.Parallel()
	closed := 0
	h := telemetry.New(telemetry.Config{ // which does not run yet
		Dial: func(context.Context, string) (net.Conn, error) {
			near, _ := net.Pipe()
			return counted{near, &closed}, nil
		},
		Log: slog.New(slog.DiscardHandler),
	})
	for range 3 {
		if err := h.Subscribe(t.Context(), "x", body(`"HTTP"`, `"TCP","port":82`)); err != nil {
			t.Fatal(err)
		}
	}
	if closed != 2 {
		t.Errorf("%d are closed", closed)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(nil)
	h.Run(ctx)
	if closed != 3 {
		t.Errorf("%d are closed in the end", closed)
	}
}

// counted counts being closed.
type counted struct {
	net.Conn

	closed *int
}

func (c counted) Close() error {
	*c.closed++
	return c.Conn.Close()
}

func TestAnswersOfSubscribersLeadNowhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		w.receive(t, 81, hostile)
		w.subscribe(t, "x", 81, function, "")
		w.hub.Function([]byte("one"))
		w.hub.Flush(t.Context())
		for _, address := range w.dialled {
			if address != "127.0.0.1:81" {
				t.Errorf("dialled %s", address)
			}
		}
		if log := strings.Join(w.logged(), "\n"); strings.Contains(log, "logsDropped") {
			t.Errorf("logged %s", log)
		}
	})
}

func TestNobodyIsAHubToo(t *testing.T) {
	t.Parallel()
	var h *telemetry.Hub
	happen(h)
	h.Function(nil)
	h.Extension(nil)
	h.Flush(t.Context())
	h.Run(t.Context())
	h.Close()
}

func TestAfterTheEndNothingIsKept(t *testing.T) {
	t.Parallel()
	h := telemetry.New(telemetry.Config{Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(nil)
	h.Run(ctx)
	h.Function([]byte("one"))
	h.Flush(t.Context())
	err := h.Subscribe(t.Context(), "x", body())
	if refused, ok := errors.AsType[*telemetry.RefusedError](err); !ok || refused.Type != "Telemetry.SubscriptionClosed" {
		t.Errorf("got %v", err)
	}
}

func TestRealSocketsToo(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	var serving sync.WaitGroup
	serving.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		line, _ := io.ReadAll(c)
		got <- string(line)
	})
	defer serving.Wait()
	defer func() { _ = l.Close() }()
	h := telemetry.New(telemetry.Config{
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx) })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := h.Subscribe(t.Context(), "x", body(`"HTTP"`, `"TCP","port":`+port, "platform", "function")); err != nil {
		t.Fatal(err)
	}
	h.Function([]byte("hello"))
	h.Flush(t.Context())
	cancel(nil)
	running.Wait() // which closes the connection
	select {
	case line := <-got:
		if !strings.Contains(line, `"type":"function","record":"hello"}`) || strings.Count(line, "\n") != 1 {
			t.Errorf("got %q", line)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
	}
}

// FuzzSubscribe checks that a subscription is taken or refused properly, whatever
// is asked for, and that nothing outside the environment is ever dialled.
func FuzzSubscribe(f *testing.F) {
	f.Add(body())
	f.Add(body("HTTP", "TCP"))
	f.Add(body(`"HTTP"`, `"TCP","port":82`))
	f.Add(body("sandbox:81", "sandbox:81@example.com/%2f?x#y"))
	f.Add(body("25}", "1e3}"))
	f.Add([]byte(`{"types":null,"destination":7,"buffering":{}}`))
	f.Fuzz(func(t *testing.T, request []byte) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, telemetry.Config{})
			err := w.hub.Subscribe(t.Context(), "x", request)
			if refused, ok := errors.AsType[*telemetry.RefusedError](err); err != nil && (!ok || refused.Type != "ValidationError" || refused.Message == "") {
				t.Fatalf("got %v", err)
			}
			w.hub.Function([]byte("one"))
			w.hub.Flush(t.Context())
			for _, address := range w.dialled {
				if !strings.HasPrefix(address, "127.0.0.1:") {
					t.Fatalf("dialled %s", address)
				}
			}
		})
	})
}
