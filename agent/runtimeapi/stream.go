package runtimeapi

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hearth-compute/hearth/agent"
)

const (
	// MaxStream is the largest answer a runtime may stream.
	MaxStream = 200 << 20
	// firstPiece and largePiece are how much of a streamed answer is passed on at
	// once: a token is small, a file is not. A stream has two of them.
	firstPiece = 4 << 10
	largePiece = 32 << 10
	// streamBurst is what a stream may send before it is held to its rate.
	streamBurst = 6 << 20
)

// stream is an answer on its way from the runtime that gives it to the caller
// that takes it as it comes. At most two pieces are between them, so that the
// slower holds up the other, until the answer is over.
type stream struct {
	pieces chan []byte
	// over is closed once end is set.
	over chan struct{}
	once sync.Once
	end  agent.Outcome
	// ended, unless nil, is told how it ended, by the caller.
	ended func(agent.Outcome)
	timer *time.Timer
	pace  pace
}

// Next implements agent.Stream.
func (s *stream) Next() ([]byte, bool) {
	select {
	case p := <-s.pieces:
		return p, true
	case <-s.over:
		return nil, false
	}
}

// End implements agent.Stream.
func (s *stream) End() agent.Outcome {
	<-s.over
	if s.ended != nil {
		s.ended(s.end)
		s.ended = nil
	}
	return s.end
}

// finish ends the stream, unless it has ended.
func (s *stream) finish(out agent.Outcome) (ended bool) {
	s.once.Do(func() {
		s.end, ended = out, true
		close(s.over)
		s.timer.Stop()
	})
	return ended
}

// put waits until the caller takes p, and is done with the piece before it; false
// when the stream is over.
func (s *stream) put(p []byte) bool {
	select {
	case s.pieces <- p:
		return s.pace.wait(len(p), s.over)
	case <-s.over:
		return false
	}
}

// fill passes a body on as it comes. What nobody takes any more is read too: a
// runtime client may exit when its answer is not.
func (s *stream) fill(body io.Reader) error {
	var buffers [2][]byte
	var total int64
	for size, i := firstPiece, 0; ; i = 1 - i {
		if len(buffers[i]) < size {
			buffers[i] = make([]byte, size)
		}
		n, err := body.Read(buffers[i])
		if n == len(buffers[i]) {
			size = largePiece
		}
		if total += int64(n); total > MaxStream {
			_, _ = io.CopyN(io.Discard, body, MaxStream)
			return errTooLarge
		}
		if n > 0 && !s.put(buffers[i][:n]) {
			_, err := io.Copy(io.Discard, body)
			return err
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// pace holds a stream to a rate of bytes per second; the zero value does not.
type pace struct {
	rate  int64
	left  int64 // below 0: owed
	since time.Time
}

// wait waits until n bytes more may have been sent; false when over is closed
// first.
func (p *pace) wait(n int, over <-chan struct{}) bool {
	if p.rate <= 0 {
		return true
	}
	now := time.Now()
	if p.since.IsZero() {
		p.left = streamBurst
	} else {
		p.left = min(streamBurst, p.left+int64(now.Sub(p.since).Seconds()*float64(p.rate)))
	}
	p.since, p.left = now, p.left-int64(n)
	if p.left >= 0 {
		return true
	}
	owed := time.NewTimer(time.Duration(float64(-p.left) / float64(p.rate) * float64(time.Second)))
	defer owed.Stop()
	select {
	case <-owed.C:
		return true
	case <-over:
		return false
	}
}

// begin gives the caller of x, which is claimed, an answer that is only beginning.
// When nobody wants it, it is over already.
func (a *API) begin(x *invocation, contentType string) *stream {
	s := &stream{
		pieces: make(chan []byte), over: make(chan struct{}), pace: pace{rate: int64(a.cfg.StreamRate)},
		ended: func(out agent.Outcome) { a.ended(x, out) },
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running[x.RequestID] != x || x.left {
		close(s.over)
		return s
	}
	s.timer = time.AfterFunc(time.Until(x.deadline), func() { a.expire(x, s) })
	x.stream = s
	x.done <- agent.Outcome{ContentType: contentType, Stream: s} // has room: the end goes to the stream
	return s
}

// expire ends the part of x's caller in a stream whose deadline has passed. The
// runtime keeps its slot until it is done.
func (a *API) expire(x *invocation, s *stream) {
	a.mu.Lock()
	running := a.running[x.RequestID] == x
	if running {
		a.leaveLocked(x)
	}
	a.mu.Unlock()
	out := failed("Sandbox.Timedout", timedOut(x))
	out.Duration = time.Since(x.handed)
	if running && s.finish(out) && a.cfg.TimedOut != nil {
		a.cfg.TimedOut()
	}
}

// wantsStream tells whether an answer to x goes to its caller as it comes. Most
// clients do not say that they stream; what says how long it is does not.
func wantsStream(x *invocation, r *http.Request) bool {
	return x.Stream && (r.ContentLength < 0 || streams(r))
}

// streams tells whether the runtime says that it streams its answer.
func streams(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get(headerResponseMode), "streaming")
}

// streamResponse passes an answer to x on as it comes.
func (a *API) streamResponse(x *invocation, w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // it may take as long as the function
	err := a.begin(x, contentType(r)).fill(r.Body)
	switch {
	case errors.Is(err, errTooLarge):
		message := fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", MaxStream)
		a.finish(x, failure("Function.ResponseSizeTooLarge", message))
		tooLarge(w, MaxStream)
	case err != nil:
		a.finish(x, truncated())
		fail(w, http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")
	default:
		out, _ := trailerError(r)
		a.finish(x, out)
		accepted(w)
	}
}

// trailerError is the error that ended an answer midway, which runtimes put into
// trailers; false when there is none.
func trailerError(r *http.Request) (agent.Outcome, bool) {
	errorType := r.Trailer.Get(headerErrorType)
	if errorType == "" {
		return agent.Outcome{}, false
	}
	errorType = knownType(errorType)
	document, err := base64.StdEncoding.DecodeString(r.Trailer.Get(headerErrorBody))
	if err != nil || len(document) == 0 {
		return failure(errorType, ""), true
	}
	return failed(errorType, document), true
}

// interrupt reserves the right to end, by an error, the answer to id that is being
// streamed; nil when there is none. What comes of the answer after it is discarded.
func (a *API) interrupt(id string) *invocation {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.running[id]
	if x == nil || x.stream == nil || x.interrupted {
		return nil
	}
	x.interrupted = true
	return x
}
