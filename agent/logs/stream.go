package logs

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"time"
)

const (
	// MaxTail is how much of the end of a request's lines is returned, as on AWS.
	MaxTail = 4 << 10
	// lateLine is how long after the end of a request a line may be its, when none
	// runs since.
	lateLine = 100 * time.Millisecond
	// tailQuiet and tailLimit bound how long a tail waits for lines that were
	// printed before the answer and come after it, by way of a pipe and the shim of
	// the container: until none came for the first, and no longer than the second.
	tailQuiet = 20 * time.Millisecond
	tailLimit = 200 * time.Millisecond
)

// Options describe the function of a stream.
type Options struct {
	Tags

	// Sandbox names the container, FunctionARN the version and Group the log group,
	// for collectors.
	Sandbox, FunctionARN, Group string
	// OneAtATime says that every line printed during a request is that request's.
	OneAtATime bool
	// Level is the least level of JSON lines that are kept, one of AWS's; empty
	// means that all are.
	Level string
}

// Stream takes the lines of one sandbox. Make it with Open.
type Stream struct {
	store   *Store
	journal *journal
	options Options
	least   level
	ship    func(Line)
	close   sync.Once

	mu sync.Mutex // guards the fields below
	// current runs, of those of which only one does; previous ran before.
	current, previous []byte
	ended             time.Time
	tails             map[string]*Tail
}

// Open returns a stream, which must be closed.
func (s *Store) Open(o Options) *Stream {
	st := &Stream{store: s, journal: s.use(o.Tags), options: o, least: parseLevel(o.Level)}
	if s.cfg.Ship != nil {
		st.ship = s.cfg.Ship(o)
	}
	return st
}

// use is journal for one that writes to it.
func (s *Store) use(tags Tags) *journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.journals[tags.Environment]
	if j == nil {
		j = &journal{store: s, tags: tags}
		s.journals[tags.Environment] = j
	}
	j.users++
	s.open[j] = struct{}{}
	return j
}

// Close says that no more lines come. What was printed stays.
func (s *Stream) Close() {
	s.close.Do(func() {
		s.store.mu.Lock()
		defer s.store.mu.Unlock()
		s.journal.users--
	})
}

// Began says that a request runs, of which only one does at a time.
func (s *Stream) Began(requestID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = []byte(requestID)
}

// Ended says that it runs no more.
func (s *Stream) Ended(requestID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(s.current) == requestID {
		s.current, s.previous, s.ended = nil, s.current, time.Now()
	}
}

// Line takes a line that the function or an extension printed.
func (s *Stream) Line(source Source, text []byte) {
	found := scan(text)
	if !found.wanted(s.least) {
		return
	}
	now := time.Now()
	request := s.attribute(found.request, source, text, now)
	s.keep(now, source, request, text, found.level)
}

// attribute finds the request of a line and adds it to its tail.
func (s *Stream) attribute(found []byte, source Source, text []byte, now time.Time) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.options.OneAtATime && source != Extension {
		found = s.runningLocked(found, text, now)
	}
	if len(s.tails) > 0 {
		if t := s.tails[string(found)]; t != nil {
			t.body = addTail(t.body, text)
			t.last = now
		}
	}
	return found
}

// runningLocked is the request of a line when one runs at a time: the one that
// runs, unless the line names the one before it, which ended while the line was
// on its way.
func (s *Stream) runningLocked(found, text []byte, now time.Time) []byte {
	switch {
	case s.previous != nil && bytes.Contains(text, s.previous):
		return s.previous
	case s.current != nil:
		return s.current
	case s.previous != nil && now.Sub(s.ended) < lateLine:
		return s.previous
	}
	return found
}

// Platform takes what the platform says, of a request unless that is empty: one
// line or more. Final says that it comes after all that the function printed.
func (s *Stream) Platform(requestID string, text []byte, final bool) {
	now := time.Now()
	var request []byte
	if len(requestID) <= longestRequest && !strings.ContainsAny(requestID, " \n") {
		var space [longestRequest]byte
		request = append(space[:0], requestID...)
	}
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		s.keep(now, Platform, request, line, nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch t := s.tails[requestID]; {
	case t == nil:
	case final:
		t.closing = addTail(t.closing, text)
	default:
		t.body = addTail(t.body, text)
	}
}

func (s *Stream) keep(at time.Time, source Source, request, text, said []byte) {
	s.journal.append(at, source, request, text)
	if s.ship != nil {
		s.ship(Line{
			Tags: s.options.Tags, Time: at, Source: source, RequestID: string(request), Text: text, Level: parseLevel(string(said)).String(),
		})
	}
}

// Tail gathers the end of what is printed during one request.
type Tail struct {
	stream    *Stream
	requestID string

	// The stream's mutex guards these.
	body, closing []byte
	last          time.Time
}

// Tail begins to gather; Finish ends it.
func (s *Stream) Tail(requestID string) *Tail {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &Tail{stream: s, requestID: requestID}
	if s.tails == nil {
		s.tails = map[string]*Tail{}
	}
	s.tails[requestID] = t
	return t
}

// Drop ends a tail that nobody wants any more.
func (t *Tail) Drop() {
	t.stream.mu.Lock()
	defer t.stream.mu.Unlock()
	if t.stream.tails[t.requestID] == t {
		delete(t.stream.tails, t.requestID)
	}
}

// Finish waits for the lines that are still on their way, a moment, and returns
// the end of all, at most [MaxTail] bytes.
func (t *Tail) Finish(ctx context.Context) []byte {
	defer t.Drop()
	answered := time.Now()
	for {
		wait := min(time.Until(t.heard(answered).Add(tailQuiet)), time.Until(answered.Add(tailLimit)))
		if wait <= 0 {
			return t.text()
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return t.text()
		}
	}
}

// heard is when the last line came, or since if there was none after it.
func (t *Tail) heard(since time.Time) time.Time {
	t.stream.mu.Lock()
	defer t.stream.mu.Unlock()
	if t.last.After(since) {
		return t.last
	}
	return since
}

func (t *Tail) text() []byte {
	t.stream.mu.Lock()
	defer t.stream.mu.Unlock()
	all := append(bytes.Clone(t.body), t.closing...)
	return all[max(0, len(all)-MaxTail):]
}

// addTail adds lines to the end of a tail.
func addTail(tail, text []byte) []byte {
	tail = append(tail, text[max(0, len(text)-MaxTail):]...)
	tail = append(tail, '\n')
	if extra := len(tail) - MaxTail; extra > 0 {
		tail = append(tail[:0], tail[extra:]...)
	}
	return tail
}
