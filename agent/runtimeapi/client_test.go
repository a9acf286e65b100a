package runtimeapi_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

const base = "http://runtime/2018-06-01/"

// client is a runtime client without opinions.
type client struct {
	t    testing.TB
	http *http.Client
}

// event is what /next returned.
type event struct {
	header http.Header
	body   string
	err    error
}

func (e event) id() string { return e.header.Get("Lambda-Runtime-Aws-Request-Id") }

// serve runs the API of an environment in memory and returns a client of it.
// Everything ends with the returned function, which may be called inside a
// synctest bubble, and with the test.
func serve(t testing.TB, cfg runtimeapi.Config) (*runtimeapi.API, *client, func()) {
	t.Helper()
	cfg.Environment = "e-1"
	cfg.Log = slog.New(slog.DiscardHandler)
	api := runtimeapi.New(cfg)
	lis := bufconn.Listen(64 << 10)
	ctx, cancel := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := api.Serve(ctx, steady{lis}); err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	transport := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return lis.DialContext(ctx) },
		MaxIdleConnsPerHost: 64,
	}
	stop := sync.OnceFunc(func() {
		transport.CloseIdleConnections()
		cancel(nil)
		wg.Wait()
	})
	t.Cleanup(stop)
	return api, &client{t: t, http: &http.Client{Transport: transport}}, stop
}

// next polls once.
func (c *client) next(ctx context.Context) event {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"runtime/invocation/next", nil)
	if err != nil {
		return event{err: err}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return event{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return event{header: resp.Header, body: string(body), err: err}
}

// poll starts a /next whose event arrives on the channel.
func (c *client) poll(ctx context.Context) <-chan event {
	got := make(chan event, 1)
	go func() { got <- c.next(ctx) }()
	return got
}

// post sends a body and returns status and answer.
func (c *client) post(path string, body io.Reader, header ...string) (int, string) {
	c.t.Helper()
	return c.do(http.MethodPost, path, body, header...)
}

func (c *client) do(method, path string, body io.Reader, header ...string) (int, string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, base+path, body)
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
	return resp.StatusCode, strings.TrimSpace(string(b))
}

// answer posts a response and requires 202.
func (c *client) answer(id, body string) {
	c.t.Helper()
	if status, text := c.post("runtime/invocation/"+id+"/response", strings.NewReader(body)); status != http.StatusAccepted || text != `{"status":"OK"}` {
		c.t.Fatalf("answering %s: got %d %s", id, status, text)
	}
}

// result is what a caller got.
type result struct {
	out agent.Outcome
	err error
}

// call starts an invocation whose result arrives on the channel.
func call(ctx context.Context, api *runtimeapi.API, id string) <-chan result {
	got := make(chan result, 1)
	go func() {
		out, err := api.Invoke(ctx, invocation(id), nil)
		got <- result{out, err}
	}()
	return got
}

func invocation(id string) agent.Invocation {
	return agent.Invocation{
		RequestID:   id,
		Environment: "e-1",
		InvokedARN:  "arn:aws:lambda:us-east-1:123456789012:function:f:1",
		Timeout:     3 * time.Second,
	}
}

// zeros is a body of n bytes that is not kept in memory.
func zeros(n int) io.Reader { return io.LimitReader(zeroReader{}, int64(n)) }

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// sized is zeros with a Content-Length.
func sized(n int) io.Reader { return bytes.NewReader(make([]byte, n)) }
