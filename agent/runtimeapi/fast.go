package runtimeapi

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/hearth-compute/hearth/agent"
)

// Two requests are made for every invocation, and they are simple: they are read
// and answered here, without net/http and at a fraction of its cost. A connection
// on which anything else comes, or anything unusual, goes over to net/http for the
// rest of its life, from the first byte that was not answered.

const (
	// startBuffer is what a connection has to read into; it grows up to
	// maxBuffer, which holds the largest answer that is not counted.
	startBuffer = 2 << 10
	// keptBuffer is the most it keeps for reading, and for writing, while it waits.
	keptBuffer = 8 << 10
	maxBuffer  = smallAnswer + 8<<10
	// inlineEvent is the largest event that is copied behind its header.
	inlineEvent = 16 << 10
	// writeTimeout is how long a client may take to take an answer of some bytes.
	writeTimeout = 10 * time.Second
)

// acceptedResponse is the whole answer to POST …/response.
const acceptedResponse = "HTTP/1.1 202 Accepted\r\nContent-Type: " + contentTypeJSON + "\r\nContent-Length: 16\r\n\r\n" + statusOK

// plainNext stands for a GET …/next that goes over to net/http.
const plainNext = lineNext + "Host: x\r\n\r\n"

// step is what becomes of a connection.
type step int

const (
	// goOn: see what comes next.
	goOn step = iota
	// goOver: net/http goes on with what was read.
	goOver
	// end: it has ended, or has to.
	end
)

// fast serves one connection. Its fields belong to serve, but for what give
// needs while the connection's /next is pending.
type fast struct {
	api  *API
	conn net.Conn
	poll poller

	// in is what was read and not answered.
	in []byte
	// kept is what in was before it was lent a large buffer.
	kept []byte
	// limited says that reading has a deadline.
	limited bool
	// out is what is written.
	out []byte
	// given says whether the event was written, once the poll was taken.
	given chan bool

	// raw and look tell whether the other end has hung up; nil if nothing can.
	raw    syscall.RawConn
	look   func(fd uintptr)
	isOpen bool
}

func newFast(a *API, conn net.Conn) *fast {
	f := &fast{api: a, conn: conn}
	f.in, _ = a.small.Get().([]byte)
	if f.in == nil {
		f.in = make([]byte, 0, startBuffer)
	}
	return f
}

// close gives back what the next connection can use.
func (f *fast) close() {
	if cap(f.in) == startBuffer {
		f.api.small.Put(f.in[:0]) //nolint:staticcheck // SA6002: once for each connection
	}
	f.in = nil
}

// prepare is done before the first poll: many connections never poll.
func (f *fast) prepare() {
	f.given = make(chan bool, 1)
	f.poll.give, f.poll.drop = f.give, func() { _ = f.conn.Close() }
	c, ok := f.conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	var one [1]byte
	f.raw = raw
	f.look = func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		f.isOpen = n > 0 || errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR)
	}
}

// serve answers what comes until the connection ends, or goes over to net/http:
// then it returns true, and what was read and not answered is in f.in.
func (f *fast) serve() bool {
	for {
		req, what := parseHot(f.in)
		var s step
		switch {
		case what == other:
			s = goOver
		case what == partial && req.chunked && f.api.wantsPieces(req.id):
			s = goOver // its answer is passed on as it comes
		case what == partial:
			s = f.read()
		case req.answer:
			if s = f.answer(req); s == goOn {
				f.consume(req.size)
			}
		default:
			f.consume(req.size)
			s = f.next()
		}
		if s != goOn {
			return s == goOver
		}
	}
}

func (f *fast) consume(n int) { f.in = f.in[:copy(f.in, f.in[n:])] }

// read reads until something came.
func (f *fast) read() step {
	switch begun := len(f.in) > 0; {
	case len(f.in) == maxBuffer:
		return goOver
	case begun && !f.limited: // the rest must come soon, as with net/http
		f.limited = true
		_ = f.conn.SetReadDeadline(time.Now().Add(headerTimeout))
	case !begun && f.limited:
		f.limited = false
		_ = f.conn.SetReadDeadline(time.Time{})
	}
	if len(f.in) == cap(f.in) {
		f.grow()
	}
	n, err := f.conn.Read(f.in[len(f.in):cap(f.in)])
	f.in = f.in[:len(f.in)+n]
	switch {
	case n > 0:
		return goOn
	case err != nil && len(f.in) > 0:
		return goOver // net/http knows what to say
	}
	return end
}

// grow makes room to read more.
func (f *fast) grow() {
	if cap(f.in) < keptBuffer {
		f.in = append(make([]byte, 0, keptBuffer), f.in...)
		return
	}
	large, _ := f.api.large.Get().([]byte)
	if large == nil {
		large = make([]byte, 0, maxBuffer)
	}
	f.in, f.kept = append(large, f.in...), f.in[:0]
}

// shrink gives back, before it waits, what only large events and answers need.
func (f *fast) shrink() {
	if len(f.in) == 0 && f.kept != nil {
		f.api.large.Put(f.in) //nolint:staticcheck // SA6002: for large answers only
		f.in, f.kept = f.kept, nil
	}
	if cap(f.out) > keptBuffer {
		f.out = nil
	}
}

// next answers GET …/next: at once if an invocation waits, else when one comes.
func (f *fast) next() step {
	if f.given == nil {
		f.prepare()
	}
	f.shrink()
	f.api.becomeReady()
	x, err := f.api.arrive(&f.poll)
	switch {
	case errors.Is(err, errTooManyPolls):
		return f.yield()
	case err != nil:
		return end
	case x != nil:
		if f.write(x) != nil {
			return end
		}
		return goOn
	}
	s := goOn
	if len(f.in) == 0 {
		s = f.read() // the next request comes after the event
	}
	switch {
	case f.api.withdraw(&f.poll): // nothing was given; it ends, or does not wait
		if s == goOn {
			return f.yield()
		}
		return s
	case !<-f.given:
		return end
	}
	return s
}

// yield has net/http answer the GET …/next that was read last.
func (f *fast) yield() step {
	f.in = append([]byte(plainNext), f.in...)
	return goOver
}

// give implements poller.give: the caller of x writes the event while serve
// waits for what the client sends next.
func (f *fast) give(x *invocation) bool {
	if f.raw != nil && (f.raw.Control(f.look) != nil || !f.isOpen) {
		f.given <- false
		return false
	}
	err := f.write(x)
	f.given <- err == nil
	return !errors.Is(err, errNothingWritten)
}

var errNothingWritten = errors.New("nothing was written")

// write sends the event of x. If only part of it could be sent, the runtime may
// have it all the same: then nothing but the deadline or the exit of the process
// can end x.
func (f *fast) write(x *invocation) error {
	_ = f.conn.SetWriteDeadline(x.deadline)
	f.out = appendEvent(f.out[:0], x)
	var rest []byte
	if len(x.payload) <= inlineEvent {
		f.out = append(f.out, x.payload...)
	} else {
		rest = x.payload
	}
	n, err := f.conn.Write(f.out)
	if err == nil && len(rest) > 0 {
		_, err = f.conn.Write(rest)
	}
	switch {
	case err == nil:
		return nil
	case n == 0:
		return errNothingWritten
	}
	_ = f.conn.Close()
	return err
}

// appendEvent appends the head of the answer to GET …/next. Every header is
// there even when it is empty.
func appendEvent(b []byte, x *invocation) []byte {
	b = append(b, "HTTP/1.1 200 OK\r\nContent-Type: "...)
	if x.ContentType == "" {
		b = append(b, contentTypeJSON...)
	}
	b = appendValue(b, x.ContentType)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(x.payload)), 10)
	b = append(b, "\r\nLambda-Runtime-Aws-Request-Id: "...)
	b = appendValue(b, x.RequestID)
	b = append(b, "\r\nLambda-Runtime-Deadline-Ms: "...)
	b = strconv.AppendInt(b, x.deadline.UnixMilli(), 10)
	b = append(b, "\r\nLambda-Runtime-Invoked-Function-Arn: "...)
	b = appendValue(b, x.InvokedARN)
	b = append(b, "\r\nLambda-Runtime-Trace-Id: "...)
	b = appendValue(b, x.TraceID)
	b = append(b, "\r\nLambda-Runtime-Client-Context: "...)
	b = appendValue(b, x.ClientContext)
	return append(b, "\r\nLambda-Runtime-Cognito-Identity: \r\n\r\n"...)
}

// appendValue appends a header's value; as with net/http, lines cannot end in it.
func appendValue(b []byte, value string) []byte {
	start := len(b)
	b = append(b, value...)
	for i, c := range b[start:] {
		if c == '\r' || c == '\n' {
			b[start+i] = ' '
		}
	}
	return b
}

// answer takes an answer that came whole. An id that is not known, or was
// answered, is net/http's to refuse.
func (f *fast) answer(req hot) step {
	x := f.api.claim(string(req.id))
	if x == nil {
		return goOver
	}
	out := agent.Outcome{ContentType: contentTypeJSON, Payload: bytes.Clone(req.body)}
	if t := req.contentType; string(t) != contentTypeJSON && len(t) <= maxContentType && utf8.Valid(t) {
		out.ContentType = string(t)
	}
	if out.Payload == nil {
		out.Payload = []byte{}
	}
	f.api.finish(x, out)
	_ = f.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	f.out = append(f.out[:0], acceptedResponse...)
	if _, err := f.conn.Write(f.out); err != nil {
		return end
	}
	return goOn
}

// wantsPieces tells whether the caller of a running invocation gets its answer
// as it comes.
func (a *API) wantsPieces(id []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.running[string(id)]
	return x != nil && x.Stream
}
