package runtimeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

var errTooLate = errors.New("no memory for the answer before its deadline")

// receive reads the answer to x, of at most limit bytes. A large one waits for
// memory first, but not longer than the caller of x does; after errTooLate
// nobody wants it. release, when not nil, gives the memory back.
func (a *API) receive(x *invocation, w http.ResponseWriter, r *http.Request, limit int64) (body []byte, release func(), err error) {
	if a.cfg.Answers == nil || r.ContentLength > limit || r.ContentLength >= 0 && r.ContentLength <= smallAnswer {
		body, err = read(r, limit)
		return body, nil, err
	}
	var start []byte
	need := r.ContentLength
	if need < 0 {
		start, err = io.ReadAll(io.LimitReader(r.Body, smallAnswer))
		if err != nil || len(start) < smallAnswer {
			return start, nil, err
		}
		need = 2 * limit // a buffer that holds the largest, then what is in it
	}
	if err := a.makeRoom(x, r, need); err != nil {
		_, _ = io.CopyN(io.Discard, r.Body, 4*limit)
		return nil, nil, err
	}
	// The client has not been slow while it waited for us.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	if r.ContentLength >= 0 {
		body, err = read(r, limit)
	} else {
		body, err = a.readRest(r, start, limit)
	}
	if err != nil {
		a.cfg.Answers.Release(need)
		return nil, nil, err
	}
	size := int64(len(body))
	a.cfg.Answers.Release(need - size)
	return body, sync.OnceFunc(func() { a.cfg.Answers.Release(size) }), nil
}

// makeRoom waits for n bytes for the answer to x.
func (a *API) makeRoom(x *invocation, r *http.Request, n int64) error {
	ctx, cancel := context.WithDeadlineCause(r.Context(), x.deadline, errTooLate)
	defer cancel()
	if err := a.cfg.Answers.Acquire(ctx, n); err != nil {
		return fmt.Errorf("answering %s: %w: %w", x.RequestID, errTooLate, err)
	}
	return nil
}

// readRest reads the rest of a body that begins with start and does not say how
// long it is, of at most limit bytes, which is at most MaxResponse.
func (a *API) readRest(r *http.Request, start []byte, limit int64) ([]byte, error) {
	lent, ok := a.buffers.Get().(*[]byte)
	if !ok {
		lent = new(make([]byte, MaxResponse+1))
	}
	defer a.buffers.Put(lent)
	buffer := (*lent)[:limit+1]
	n := copy(buffer, start)
	more, err := io.ReadFull(r.Body, buffer[n:])
	switch {
	case err == nil: // full: it is longer than limit
		_, _ = io.CopyN(io.Discard, r.Body, 4*limit)
		return nil, errTooLarge
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return slices.Clone(buffer[:n+more]), nil
	}
	return nil, err
}
