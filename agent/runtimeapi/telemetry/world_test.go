package telemetry_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
)

// world is the inside of an environment: listeners by address, and what the
// function's log was told.
type world struct {
	hub *telemetry.Hub

	mu        sync.Mutex
	listeners map[string]*bufconn.Listener
	dialled   []string
	log       []string
}

// newWorld makes a hub that runs until the test ends.
func newWorld(t *testing.T, cfg telemetry.Config) *world {
	t.Helper()
	w := &world{listeners: map[string]*bufconn.Listener{}}
	cfg.Dial, cfg.Log, cfg.Sink = w.dial, slog.New(slog.DiscardHandler), w.sink
	w.hub = telemetry.New(cfg)
	ctx, cancel := context.WithCancelCause(t.Context())
	var running sync.WaitGroup
	running.Go(func() { w.hub.Run(ctx) })
	t.Cleanup(func() {
		cancel(nil)
		running.Wait()
	})
	return w
}

func (w *world) dial(ctx context.Context, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialled = append(w.dialled, address)
	l := w.listeners[address]
	w.mu.Unlock()
	if l == nil {
		return nil, &net.OpError{Op: "dial", Err: fmt.Errorf("connect: connection refused")}
	}
	return l.DialContext(ctx)
}

func (w *world) sink(e telemetry.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf("%s %s %s %s", e.Type, e.RequestID, e.Level, e.Text))
}

func (w *world) logged() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.log...)
}

func (w *world) listen(t *testing.T, port int) *bufconn.Listener {
	t.Helper()
	l := bufconn.Listen(64 << 10)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listeners[fmt.Sprintf("127.0.0.1:%d", port)] = l
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// post is one request a subscriber got.
type post struct {
	at              time.Time
	path, sequence  string
	host, mediaType string
	body            string
	events          []event
}

type event struct {
	Time   string          `json:"time"`
	Type   string          `json:"type"`
	Record json.RawMessage `json:"record"`
}

// receiver is an extension that listens with HTTP.
type receiver struct {
	answer http.HandlerFunc // nil answers 200

	mu    sync.Mutex
	posts []post
}

func (w *world) receive(t *testing.T, port int, answer http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{answer: answer}
	srv := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	l := w.listen(t, port)
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		_ = srv.Close()
		serving.Wait()
	})
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	p := post{
		at: time.Now(), path: req.URL.RequestURI(), sequence: req.Header.Get("Sequence-Id"),
		host: req.Host, mediaType: req.Header.Get("Content-Type"), body: string(body),
	}
	if err == nil {
		err = json.Unmarshal(body, &p.events)
	}
	if err != nil {
		p.body = "broken: " + err.Error() + ": " + p.body
	}
	r.mu.Lock()
	r.posts = append(r.posts, p)
	r.mu.Unlock()
	if r.answer != nil {
		r.answer(w, req)
	}
}

func (r *receiver) got() []post {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]post(nil), r.posts...)
}

// events are all that came, in order.
func (r *receiver) events() (all []event) {
	for _, p := range r.got() {
		all = append(all, p.events...)
	}
	return all
}

// types are the types of events.
func types(all []event) string {
	var names []string
	for _, e := range all {
		names = append(names, strings.TrimPrefix(e.Type, "platform."))
	}
	return strings.Join(names, " ")
}

// lines accepts TCP connections and keeps the lines that come.
type lines struct {
	mu    sync.Mutex
	lines []string
	conns int
}

func (w *world) receiveLines(t *testing.T, port int, closeAfter int) *lines {
	t.Helper()
	k, l := &lines{}, w.listen(t, port)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { k.read(c, closeAfter) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		w.hub.Close()
	})
	return k
}

func (k *lines) read(c net.Conn, closeAfter int) {
	defer func() { _ = c.Close() }()
	k.mu.Lock()
	k.conns++
	k.mu.Unlock()
	in := bufio.NewReader(c)
	for n := 1; ; n++ {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		k.mu.Lock()
		k.lines = append(k.lines, line)
		k.mu.Unlock()
		if n == closeAfter {
			return
		}
	}
}

func (k *lines) got() (lines []string, conns int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.lines...), k.conns
}

// subscribe subscribes an extension that listens with HTTP.
func (w *world) subscribe(t *testing.T, name string, port int, kinds string, buffering string) {
	t.Helper()
	body := fmt.Sprintf(`{"schemaVersion":"2025-01-29","types":[%s],"destination":{"protocol":"HTTP","URI":"http://sandbox.localdomain:%d/in"}%s}`,
		kinds, port, buffering)
	if err := w.hub.Subscribe(t.Context(), name, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

const (
	all      = `"platform","function","extension"`
	platform = `"platform"`
	function = `"function"`
)

// hostile answers with a redirect to somewhere else and a body without end.
func hostile(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Location", "http://169.254.169.254/latest/meta-data")
	w.WriteHeader(http.StatusTemporaryRedirect)
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}
