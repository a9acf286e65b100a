package pool

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/sandbox"
)

const (
	// tailBytes is how much of the end of what a sandbox printed is kept.
	tailBytes = 2 << 10
	// linesPerSecond bounds what one sandbox may add to the agent's log.
	linesPerSecond = 200
	// lineBytes is the longest line in the agent's log.
	lineBytes = 8 << 10
)

// Output takes what sandboxes print: it logs it, at a bounded rate, and
// remembers the end for failure reasons. Make it with NewOutput and give Line
// to the sandbox driver.
type Output struct {
	log *slog.Logger

	mu    sync.RWMutex // guards tails
	tails map[sandbox.ID]*tail
}

// NewOutput returns an Output that logs to log.
func NewOutput(log *slog.Logger) *Output {
	return &Output{log: log, tails: map[sandbox.ID]*tail{}}
}

// tail is the end of what one sandbox printed.
type tail struct {
	attrs []any

	mu sync.Mutex // guards the fields below
	// text is cut at the front; cut says that what it begins with is not the
	// beginning of a line.
	text    []byte
	cut     bool
	second  int64
	lines   int
	dropped int
}

// Line implements sandbox.Output.
func (o *Output) Line(id sandbox.ID, stream sandbox.Stream, line []byte) {
	o.mu.RLock()
	t := o.tails[id]
	o.mu.RUnlock()
	if t == nil {
		return
	}
	admitted, dropped := t.add(line, time.Now().Unix())
	log := o.log.With(t.attrs...)
	if dropped > 0 {
		log.Warn("function output was dropped from the log", "lines", dropped)
	}
	if admitted && log.Enabled(context.Background(), slog.LevelInfo) {
		log.Info("function output", "stream", string(stream), "line", string(line[:min(len(line), lineBytes)]))
	}
}

// ExtensionLine takes a line of an extension of a sandbox; like Line it may be
// called from anywhere and does not keep line.
func (o *Output) ExtensionLine(id sandbox.ID, extension string, line []byte) {
	o.Line(id, sandbox.Stream("extension "+extension), line)
}

// add keeps the line and says whether it may be logged and how many were not
// since the last second that had any.
func (t *tail) add(line []byte, second int64) (admitted bool, dropped int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keep(line)
	if second != t.second {
		dropped = t.dropped
		t.second, t.lines, t.dropped = second, 0, 0
	}
	if t.lines++; t.lines > linesPerSecond {
		t.dropped++
		return false, dropped
	}
	return true, dropped
}

// keep adds a line to the text. One that is too long alone keeps its end.
func (t *tail) keep(line []byte) {
	t.text = append(t.text, line[max(0, len(line)-tailBytes):]...)
	t.text = append(t.text, '\n')
	extra := len(t.text) - tailBytes
	if extra <= 0 {
		return
	}
	t.cut = t.text[extra-1] != '\n'
	t.text = append(t.text[:0], t.text[extra:]...)
}

// follow starts keeping the output of a sandbox.
func (o *Output) follow(id sandbox.ID, a agent.Assignment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tails[id] = &tail{attrs: []any{
		slog.String("function", a.FunctionName), slog.String("version", a.Version),
		slog.String("environment", string(a.Environment)), slog.String("sandbox", string(id)),
	}}
}

func (o *Output) forget(id sandbox.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.tails, id)
}

// last is the end of what a sandbox printed: whole lines, unless little of it is.
func (o *Output) last(id sandbox.ID) string {
	o.mu.RLock()
	t := o.tails[id]
	o.mu.RUnlock()
	if t == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	text := string(t.text)
	if _, whole, _ := strings.Cut(text, "\n"); t.cut && len(whole) >= tailBytes/2 {
		return whole
	}
	return text
}
