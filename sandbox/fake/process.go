package fake

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hearth-compute/hearth/sandbox"
)

// pipeSize is how much output waits for a driver on each stream.
const pipeSize = 64 << 10

// Process is what a Program sees of its sandbox.
type Process struct {
	// ID is the sandbox's.
	ID sandbox.ID
	// Args, Env and WorkingDir are the Spec's.
	Args, Env  []string
	WorkingDir string
	// Stdout and Stderr are the output streams.
	Stdout, Stderr io.Writer

	host *Host
	box  *box
}

// IgnoreTerm makes SIGTERM do nothing from now on: the program's context ends
// only when it is killed.
func (p *Process) IgnoreTerm() {
	p.host.mu.Lock()
	defer p.host.mu.Unlock()
	p.box.stubborn = true
}

// Getenv returns the value of a variable, empty if it is not set.
func (p *Process) Getenv(name string) string {
	for _, e := range p.Env {
		if key, value, _ := strings.Cut(e, "="); key == name {
			return value
		}
	}
	return ""
}

// Dial connects to a listener that was opened in this sandbox.
func (p *Process) Dial(ctx context.Context, address string) (net.Conn, error) {
	return p.box.net.dial(ctx, address)
}

// Listen opens a listener that is reached from this sandbox, and with the
// driver's Dial. It closes when the program returns.
func (p *Process) Listen(address string) (net.Listener, error) {
	return p.box.net.listen(address, nil)
}

// box is one sandbox. The fields are guarded by Host.mu, except those set once.
type box struct {
	spec     sandbox.Spec
	program  Program
	stubborn bool
	created  time.Time
	net      *network

	state  sandbox.State
	cancel context.CancelCauseFunc
	done   chan struct{} // set by start, closed when the program has returned
	killed bool
	oom    bool
	exit   sandbox.Exit
}

// run is the life of a program.
func (h *Host) run(ctx context.Context, b *box) {
	out := &stream{h: h, id: b.spec.ID, name: sandbox.Stdout}
	err := &stream{h: h, id: b.spec.ID, name: sandbox.Stderr}
	h.attach(out, err)
	code := b.program(ctx, &Process{
		ID: b.spec.ID, Args: b.spec.Args, Env: b.spec.Env, WorkingDir: b.spec.WorkingDir,
		Stdout: out, Stderr: err, host: h, box: b,
	})
	b.net.closeOf(nil)
	out.end()
	err.end()
	h.mu.Lock()
	defer h.mu.Unlock()
	if b.killed {
		code = exitKilled
	}
	b.state = sandbox.StateStopped
	b.exit = sandbox.Exit{Code: code, OOMKilled: b.oom, At: time.Now()}
	for w := range h.watchers {
		w.push(sandbox.Event{ID: b.spec.ID, Exit: b.exit})
	}
	close(b.done)
}

// attach remembers the streams so that a later driver gets what waits in them.
func (h *Host) attach(streams ...*stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range streams {
		s.driver = h.driver
	}
	for _, b := range h.boxes {
		if b.spec.ID == streams[0].id {
			b.net.streams = streams
		}
	}
}

// stream is one output stream of a program.
type stream struct {
	h    *Host
	id   sandbox.ID
	name sandbox.Stream

	mu      sync.Mutex
	driver  *Runtime
	waiting []byte // printed while no driver listened
	partial []byte
	ended   bool
}

// Write delivers whole lines to the driver, if there is one.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.driver == nil {
		room := max(0, pipeSize-len(s.waiting))
		s.waiting = append(s.waiting, p[:min(room, len(p))]...)
		return len(p), nil
	}
	s.cut(p)
	return len(p), nil
}

func (s *stream) cut(p []byte) {
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte{'\n'})
		if room := sandbox.MaxLine - len(s.partial); len(line) > room {
			s.partial = append(s.partial, line[:room]...)
			s.flush()
			p = p[room:]
			continue
		}
		s.partial = append(s.partial, line...)
		if whole {
			s.driver.output(s.id, s.name, bytes.TrimSuffix(s.partial, []byte{'\r'}))
			s.partial = s.partial[:0]
		}
		p = rest
	}
}

func (s *stream) flush() {
	if len(s.partial) > 0 {
		s.driver.output(s.id, s.name, s.partial)
		s.partial = s.partial[:0]
	}
}

// end delivers a last line without an ending.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.driver != nil {
		s.flush()
	}
}

// moveTo gives the stream to another driver, nil for none.
func (s *stream) moveTo(r *Runtime) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.driver = r
	if r != nil {
		waiting := s.waiting
		s.waiting = nil
		s.cut(waiting)
		if s.ended {
			s.flush()
		}
	}
}

// watcher is a queue of events for one Watch.
type watcher struct {
	mu    sync.Mutex
	queue []sandbox.Event
	more  chan struct{} // capacity 1: something was pushed
}

func (w *watcher) push(e sandbox.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, e)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []sandbox.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.queue
	w.queue = nil
	return taken
}
