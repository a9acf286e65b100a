package lambdaapi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// Bounds of request bodies. AWS's own: 50 MiB of archive in base64 for code,
// 6 MB for the payload of a synchronous invoke.
const (
	maxCodeRequest = 69905067
	maxRequest     = 1 << 20
	maxPayload     = 6291456
)

// What a body costs of the budget, in multiples of its length. Code is kept as
// it came, decoded from there, and unescaped in between by a client that writes
// "\/". Of other requests strings are copied. A payload is kept and, piece by
// piece, copied on its way.
const (
	weightRequest = 3
	weightPayload = 2
)

// LeastBodyMemory is the least Config.BodyMemory: the largest request fits.
const LeastBodyMemory = weightRequest * maxCodeRequest

// How slow a client may be: each piece of a body, and of an answer, must arrive
// within its time. A body of 640 KiB or less has 10 s; at least 64 KiB/s after that.
const (
	pieceSize  = 640 << 10
	pieceTime  = 10 * time.Second
	answerTime = 30 * time.Second
)

// budget bounds what request bodies and the answers to them take of memory.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take reserves n bytes, if there is room for them.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.used.Add(-n)
	return false
}

// give returns n bytes; less than nothing takes them, room or not.
func (b *budget) give(n int64) { b.used.Add(-n) }

// bounds is what the body of an operation may be.
type bounds struct {
	operation string
	limit     int64
	weight    int64
	// exception is the name of the error of a body that is too large.
	exception string
}

// body reads a request's body, as it was signed, and what it holds of the budget until held is
// given back. What says beforehand that it is too much is refused before it is
// read; what does not say how much it is reserves the most it may be.
func (s *Server) body(w http.ResponseWriter, r *http.Request, b *bounds) (content []byte, held int64, err error) {
	if r.ContentLength == 0 {
		content, err = s.verified(r, nil)
		return content, 0, err
	}
	if r.ContentLength > b.limit {
		discard(w, r, 2*b.limit)
		return nil, 0, tooLarge(b.exception, b.limit, b.operation)
	}
	most := r.ContentLength
	if most < 0 {
		most = b.limit
	}
	held = b.weight * most
	if !s.bodies.take(held) {
		discard(w, r, b.limit)
		return nil, 0, noMemory()
	}
	content, err = receive(w, r, b.limit)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		discard(w, r, b.limit)
		err = tooLarge(b.exception, b.limit, b.operation)
	}
	if err != nil {
		s.bodies.give(held)
		return nil, 0, cut(w, err)
	}
	if content, err = s.verified(r, content); err != nil {
		s.bodies.give(held)
		return nil, 0, err
	}
	if rest := b.weight * (most - int64(len(content))); rest > 0 {
		s.bodies.give(rest)
		held -= rest
	}
	return content, held, nil
}

func noMemory() error {
	return &exception{
		name: "TooManyRequestsException", status: http.StatusTooManyRequests, retryAfter: time.Second,
		reason:  string(types.ThrottleReasonCallerRateLimitExceeded),
		message: "Rate Exceeded: the requests the service is reading take all the memory it has for them.",
	}
}

// receive reads a whole body of at most limit bytes.
func receive(w http.ResponseWriter, r *http.Request, limit int64) (content []byte, err error) {
	var body io.Reader = r.Body
	if r.ContentLength < 0 || r.ContentLength > pieceSize {
		body = &paced{w: w, r: body, left: pieceSize}
	}
	if r.ContentLength >= 0 {
		content = make([]byte, r.ContentLength)
		_, err = io.ReadFull(body, content)
	} else {
		content, err = io.ReadAll(http.MaxBytesReader(w, io.NopCloser(body), limit))
	}
	if err == nil {
		// From here on the connection is watched for the client's leaving, for as
		// long as that takes.
		setReadDeadline(w, time.Time{})
	}
	return content, err
}

// paced gives each piece of a body its time. That of the first began with the
// request.
type paced struct {
	w    http.ResponseWriter
	r    io.Reader
	left int
}

func (p *paced) Read(b []byte) (int, error) {
	if p.left <= 0 {
		setReadDeadline(p.w, time.Now().Add(pieceTime))
		p.left = pieceSize
	}
	n, err := p.r.Read(b[:min(len(b), p.left)])
	p.left -= n
	return n, err
}

// setReadDeadline does nothing where there is no connection.
func setReadDeadline(w http.ResponseWriter, t time.Time) {
	if d, ok := w.(interface{ SetReadDeadline(t time.Time) error }); ok {
		_ = d.SetReadDeadline(t)
	}
}

// discard reads what is left of a body that is refused, so that a client that
// sends before it reads gets the answer; at most limit bytes, and not what the
// client waits to be asked for.
func discard(w http.ResponseWriter, r *http.Request, limit int64) {
	if r.Header.Get("Expect") == "" {
		_, _ = io.CopyN(io.Discard, &paced{w: w, r: r.Body, left: pieceSize}, limit)
	}
}

// cut is the error of a body that ended early, or came too slowly: its client's
// fault, whether or not it is still there.
func cut(w http.ResponseWriter, err error) error {
	if _, ok := errors.AsType[*exception](err); ok {
		return err
	}
	w.Header().Set("Connection", "close")
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &exception{
			name: "RequestTimeoutException", status: http.StatusRequestTimeout,
			message: "The request body did not arrive in time.",
		}
	}
	return badRequest("The request body could not be read to its end.")
}

// write sends a whole body, each piece in its time. A client that went away, or
// reads no more, loses it.
func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	if status == http.StatusNoContent {
		body = nil
	} else {
		h.Set("Content-Type", contentType)
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	d, ok := w.(interface{ SetWriteDeadline(t time.Time) error })
	for first := true; first || len(body) > 0; first = false {
		if ok {
			_ = d.SetWriteDeadline(time.Now().Add(answerTime))
		}
		if first {
			w.WriteHeader(status)
		}
		n := min(len(body), pieceSize)
		if _, err := w.Write(body[:n]); err != nil {
			return
		}
		body = body[n:]
	}
}
