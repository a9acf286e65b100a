// Command extension-go is an external Lambda extension: it registers for the
// SHUTDOWN event, subscribes to the Telemetry API, counts what it is told, and
// says so when the environment ends. It needs nothing but the standard library.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// port is where telemetry is delivered.
	port = "4243"
	// requestLimit bounds every request but the one that waits for an event.
	requestLimit = 5 * time.Second
	// maxBatch is more than the Telemetry API sends at once.
	maxBatch = 4 << 20
)

var errTooSlow = errors.New("no answer from Lambda in time")

func main() {
	x := newExtension(filepath.Base(os.Args[0]), os.Getenv("AWS_LAMBDA_RUNTIME_API"), os.Stdout) //nolint:forbidigo // this is package main, which may
	if err := x.run(context.Background()); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, x.name+":", err)
		os.Exit(1) //nolint:forbidigo // this is package main, which may
	}
}

// extension talks to the Extensions API on one side and takes telemetry on the
// other.
type extension struct {
	name, api string
	out       io.Writer
	client    http.Client
	id        string // given by registering

	mu     sync.Mutex // guards counts
	counts map[string]int
}

func newExtension(name, api string, out io.Writer) *extension {
	return &extension{name: name, api: "http://" + api, out: out, counts: map[string]int{}}
}

// run works until the environment ends. The order matters: telemetry can be
// subscribed to only before the environment is ready, and it becomes ready when
// the extension asks for its first event.
func (x *extension) run(ctx context.Context) error {
	if err := x.register(ctx); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ":"+port)
	if err != nil {
		return x.giveUp(ctx, "init/error", "Extension.NoListener", err)
	}
	server := &http.Server{Handler: http.HandlerFunc(x.telemetry), ReadHeaderTimeout: requestLimit}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // until it is closed
	}()
	defer func() {
		_ = server.Close()
		<-served
	}()
	if err := x.subscribe(ctx); err != nil {
		return x.giveUp(ctx, "init/error", "Extension.NoTelemetry", err)
	}
	event, err := x.next(ctx)
	if err != nil {
		return x.giveUp(ctx, "exit/error", "Extension.NoEvent", err)
	}
	// Telemetry is flushed before SHUTDOWN is sent: everything is here.
	_, err = fmt.Fprintf(x.out, "%s: %s because of %s, told of %s\n", x.name, event.EventType, event.ShutdownReason, x.told())
	return err
}

// event is what the Extensions API sends. On managed instances there is one
// kind only.
type event struct {
	EventType      string `json:"eventType"`
	ShutdownReason string `json:"shutdownReason"`
	DeadlineMS     int64  `json:"deadlineMs"`
}

func (x *extension) register(ctx context.Context) error {
	header, err := x.call(ctx, http.MethodPost, "/2020-01-01/extension/register",
		map[string]any{"events": []string{"SHUTDOWN"}}, "Lambda-Extension-Name", x.name)
	if err != nil {
		return fmt.Errorf("registering: %w", err)
	}
	x.id = header.Get("Lambda-Extension-Identifier")
	return nil
}

// subscribe asks for everything but what extensions print, this one's lines among
// them.
func (x *extension) subscribe(ctx context.Context) error {
	_, err := x.call(ctx, http.MethodPut, "/2022-07-01/telemetry", map[string]any{
		"schemaVersion": "2025-01-29",
		"types":         []string{"platform", "function"},
		"buffering":     map[string]int{"timeoutMs": 100},
		"destination":   map[string]string{"protocol": "HTTP", "URI": "http://sandbox.localdomain:" + port},
	})
	if err != nil {
		return fmt.Errorf("subscribing to telemetry: %w", err)
	}
	return nil
}

// next waits for the next event, however long it takes.
func (x *extension) next(ctx context.Context) (e event, err error) {
	_, body, err := x.request(ctx, http.MethodGet, "/2020-01-01/extension/event/next", nil)
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	if err != nil {
		return e, fmt.Errorf("waiting for an event: %w", err)
	}
	return e, nil
}

// giveUp tells the Extensions API why, and returns why.
func (x *extension) giveUp(ctx context.Context, how, kind string, why error) error {
	_, err := x.call(ctx, http.MethodPost, "/2020-01-01/extension/"+how,
		map[string]string{"errorType": kind, "errorMessage": why.Error()}, "Lambda-Extension-Function-Error-Type", kind)
	return errors.Join(why, err)
}

// telemetry counts a batch of events by their type.
func (x *extension) telemetry(w http.ResponseWriter, r *http.Request) {
	var batch []struct {
		Type string `json:"type"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBatch)).Decode(&batch); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range batch {
		x.counts[e.Type]++
	}
}

// told is what was counted, in one line.
func (x *extension) told() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var parts []string
	for kind, n := range x.counts {
		parts = append(parts, fmt.Sprintf("%s %d", kind, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// call makes a request that is answered soon.
func (x *extension) call(ctx context.Context, method, path string, body any, headers ...string) (http.Header, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestLimit, errTooSlow)
	defer cancel()
	header, _, err := x.request(ctx, method, path, body, headers...)
	return header, err
}

// request makes a request; headers are names and values in turn.
func (x *extension) request(ctx context.Context, method, path string, body any, headers ...string) (http.Header, []byte, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	if body == nil {
		content = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, x.api+path, bytes.NewReader(content)) //nolint:gosec // G704: Lambda gives the address
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if x.id != "" {
		req.Header.Set("Lambda-Extension-Identifier", x.id)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := x.client.Do(req) //nolint:gosec // G704: as above
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBatch))
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, bytes.TrimSpace(answer))
	}
	return resp.Header, answer, err
}
