package lambdaapi

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane/sigv4"
)

// maxRefusedBody is how much is read of the body of a stranger, who shall get
// the answer.
const maxRefusedBody = 1 << 20

// refusalsInterval is how often refused requests are logged at most.
const refusalsInterval = 10 * time.Second

// signedBody is the body of a request whose signature was verified as far as it
// can be without it.
type signedBody struct {
	io.ReadCloser

	request *sigv4.Request
	// verified says that all of it was.
	verified bool
}

// authenticate begins to verify a request, whose body has the rest: see
// verified.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request) error {
	if s.cfg.Verifier == nil {
		return nil
	}
	request, err := s.cfg.Verifier.Begin(r, time.Now())
	if err != nil {
		s.strangers.log(s.cfg.Logger, r, err)
		if r.ContentLength != 0 {
			discard(w, r, maxRefusedBody)
		}
		return err
	}
	r.Body = &signedBody{ReadCloser: r.Body, request: request}
	return nil
}

// verified returns the body that was signed. Whatever reads a body does so by
// way of this.
func (s *Server) verified(r *http.Request, content []byte) ([]byte, error) {
	if s.cfg.Verifier == nil {
		return content, nil
	}
	b, ok := r.Body.(*signedBody)
	if !ok {
		return nil, fmt.Errorf("a body that nobody signed: %w", errdefs.ErrInternal)
	}
	content, err := b.request.Finish(content)
	if err != nil {
		s.strangers.log(s.cfg.Logger, r, err)
		return nil, err
	}
	b.verified = true
	return content, nil
}

// caller says who signed a request, for logs: nothing unless that is verified.
func caller(r *http.Request) []any {
	body := r.Body
	if read, ok := body.(*readBody); ok {
		body = read.ReadCloser
	}
	b, ok := body.(*signedBody)
	if !ok || !b.verified {
		return nil
	}
	key, name := b.request.Caller()
	return []any{"access_key", key, "caller", name}
}

// audit notes who changed what.
func (s *Server) audit(r *http.Request, requestID string, op *operation, err error) {
	who := caller(r)
	if who == nil || r.Method == http.MethodGet || strings.HasPrefix(op.name(), "Invoke") {
		return
	}
	s.cfg.Logger.InfoContext(r.Context(), "lambda api called", append(who, "operation", op.name(), "request_id", requestID, "answer", outcome(err))...)
}

func outcome(err error) string {
	if err != nil {
		return asException(err).name
	}
	return "ok"
}

// strangers logs refused requests, not all of them.
type strangers struct {
	last    atomic.Int64 // when, in nanoseconds of the epoch
	skipped atomic.Int64
}

func (l *strangers) log(to *slog.Logger, r *http.Request, err error) {
	now, last := time.Now().UnixNano(), l.last.Load()
	if now-last < int64(refusalsInterval) || !l.last.CompareAndSwap(last, now) {
		l.skipped.Add(1)
		return
	}
	to.WarnContext(r.Context(), "request refused: its signature does not verify",
		"remote", r.RemoteAddr, "err", err, "skipped", l.skipped.Swap(0))
}
