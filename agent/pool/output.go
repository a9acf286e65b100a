package pool

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/logs"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
	"github.com/hearth-compute/hearth/sandbox"
)

const (
	// tailBytes is how much of the end of what a sandbox printed is kept.
	tailBytes = 2 << 10
	// earlyBytes is how much is kept of what sandboxes printed that are not known
	// yet: those from before a restart, until they are adopted.
	earlyBytes = 256 << 10
	// lineBytes is the longest line in the agent's own log, where lines are at level
	// debug.
	lineBytes = 8 << 10
)

// Output takes what sandboxes print: it gives it to the logs and to whoever
// subscribed, and remembers the end for failure reasons. Make it with NewOutput
// and give Line to the sandbox driver.
type Output struct {
	log   *slog.Logger
	store atomic.Pointer[logs.Store]

	mu sync.RWMutex // guards the fields below
	// sandboxes that are followed.
	sandboxes map[sandbox.ID]*followed
	// early is what others printed.
	early     map[sandbox.ID][]earlyLine
	earlySize int
	settled   bool
}

// earlyLine is a line of a sandbox that is not known yet.
type earlyLine struct {
	stream sandbox.Stream
	text   []byte
}

// NewOutput returns an Output that keeps nothing before [Output.Keep].
func NewOutput(log *slog.Logger) *Output {
	return &Output{log: log, sandboxes: map[sandbox.ID]*followed{}, early: map[sandbox.ID][]earlyLine{}}
}

// Keep keeps the lines of sandboxes that are followed from now on in store.
func (o *Output) Keep(store *logs.Store) { o.store.Store(store) }

// Settle says that every sandbox there is is known.
func (o *Output) Settle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.settled, o.early = true, nil
}

// followed is one sandbox.
type followed struct {
	attrs []any
	// stream is nil when nothing is kept.
	stream *logs.Stream
	// hub is nil when nobody can subscribe.
	hub atomic.Pointer[telemetry.Hub]

	mu sync.Mutex // guards the fields below
	// tail is cut at the front; cut says that what it begins with is not the
	// beginning of a line.
	tail []byte
	cut  bool
}

// Line implements sandbox.Output.
func (o *Output) Line(id sandbox.ID, stream sandbox.Stream, line []byte) {
	f := o.get(id)
	if f == nil {
		o.keepEarly(id, stream, line)
		return
	}
	source := logs.Stdout
	if stream == sandbox.Stderr {
		source = logs.Stderr
	}
	f.hub.Load().Function(line)
	o.take(f, source, line)
}

// ExtensionLine takes a line of an extension of a sandbox; like Line it may be
// called from anywhere and does not keep line.
func (o *Output) ExtensionLine(id sandbox.ID, _ string, line []byte) {
	f := o.get(id)
	if f == nil {
		return
	}
	f.hub.Load().Extension(line)
	o.take(f, logs.Extension, line)
}

// platform takes an event for the log of a sandbox, which is kept. No lock of all
// sandboxes is on its way.
func (f *followed) platform(e telemetry.Event) {
	f.stream.Platform(e.RequestID, e.Text, e.Type != "platform.start")
}

func (o *Output) get(id sandbox.ID) *followed {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.sandboxes[id]
}

func (o *Output) take(f *followed, source logs.Source, line []byte) {
	if f.stream != nil {
		f.stream.Line(source, line)
	}
	f.keep(line)
	if ctx := context.Background(); o.log.Enabled(ctx, slog.LevelDebug) {
		o.log.With(f.attrs...).DebugContext(ctx, "line printed", "source", string(source), "line", string(line[:min(len(line), lineBytes)]))
	}
}

// keepEarly keeps a line of a sandbox that nobody follows yet, if there is room.
func (o *Output) keepEarly(id sandbox.ID, stream sandbox.Stream, line []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.settled || o.earlySize+len(line)+1 > earlyBytes {
		return
	}
	o.earlySize += len(line) + 1
	o.early[id] = append(o.early[id], earlyLine{stream, bytes.Clone(line)})
}

// keep adds a line to the tail. One that is too long alone keeps its end.
func (f *followed) keep(line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tail = append(f.tail, line[max(0, len(line)-tailBytes):]...)
	f.tail = append(f.tail, '\n')
	extra := len(f.tail) - tailBytes
	if extra <= 0 {
		return
	}
	f.cut = f.tail[extra-1] != '\n'
	f.tail = append(f.tail[:0], f.tail[extra:]...)
}

// follow takes the output of a sandbox from now on, and what it printed before
// it was known. What it returns is nil when nothing is kept.
func (o *Output) follow(id sandbox.ID, a agent.Assignment) runtimeapi.Logs {
	f := &followed{attrs: []any{
		slog.String("function", a.FunctionName), slog.String("version", a.Version),
		slog.String("environment", string(a.Environment)), slog.String("sandbox", string(id)),
	}}
	if store := o.store.Load(); store != nil {
		options := logs.Options{
			Tags:        logs.Tags{Function: a.FunctionName, Version: a.Version, Environment: a.Environment},
			Sandbox:     string(id),
			FunctionARN: a.FunctionARN,
			Group:       a.Logging.Group,
			OneAtATime:  a.MaxConcurrency <= 1,
		}
		if a.Logging.Format == "JSON" {
			options.Level = a.Logging.ApplicationLevel
		}
		f.stream = store.Open(options)
	}
	o.mu.Lock()
	o.sandboxes[id] = f
	early := o.early[id]
	delete(o.early, id)
	for _, line := range early {
		o.earlySize -= len(line.text) + 1
	}
	o.mu.Unlock()
	for _, line := range early {
		o.Line(id, line.stream, line.text)
	}
	if f.stream == nil {
		return nil
	}
	return tailing{f.stream}
}

// subscribers are given what a sandbox prints from now on.
func (o *Output) subscribers(id sandbox.ID, hub *telemetry.Hub) {
	if f := o.get(id); f != nil {
		f.hub.Store(hub)
	}
}

func (o *Output) forget(id sandbox.ID) {
	o.mu.Lock()
	f := o.sandboxes[id]
	delete(o.sandboxes, id)
	o.mu.Unlock()
	if f != nil && f.stream != nil {
		f.stream.Close()
	}
}

// last is the end of what a sandbox printed: whole lines, unless little of it is.
func (o *Output) last(id sandbox.ID) string {
	f := o.get(id)
	if f == nil {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	text := string(f.tail)
	if _, whole, _ := strings.Cut(text, "\n"); f.cut && len(whole) >= tailBytes/2 {
		return whole
	}
	return text
}

// tailing makes a stream the logs of a Runtime API.
type tailing struct{ *logs.Stream }

// Tail implements runtimeapi.Logs.
func (t tailing) Tail(requestID string) runtimeapi.Tail { return t.Stream.Tail(requestID) }
