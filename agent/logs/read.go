package logs

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
)

const (
	// maxReaders read at once.
	maxReaders = 64
	// batchLines and batchBytes bound what Next returns.
	batchLines = 512
	batchBytes = 512 << 10
	// tailBytes bounds the lines that are looked back at.
	tailBytes = 16 << 20
)

// Query says which lines are wanted. Empty fields ask for any.
type Query struct {
	Function, Version string
	Environment       agent.EnvironmentID
	RequestID         string
	// Since leaves earlier lines out.
	Since time.Time
	// Tail asks for so many of the last lines that are kept, but never for more
	// than 16 MiB; below zero means all.
	Tail int
	// Follow goes on with the lines that come.
	Follow bool
}

func (q Query) matches(t Tags) bool {
	return (q.Function == "" || q.Function == t.Function) && (q.Version == "" || q.Version == t.Version) &&
		(q.Environment == "" || q.Environment == t.Environment)
}

func (q Query) wants(l Line) bool {
	return (q.RequestID == "" || q.RequestID == l.RequestID) && (q.Since.IsZero() || !l.Time.Before(q.Since))
}

// Batch is some lines, ordered by time.
type Batch struct {
	Lines []Line
	// Lost counts lines that are missing somewhere between these and those of the
	// batch before.
	Lost int64
	// CaughtUp says that all that was kept when reading began has been read.
	CaughtUp bool
}

// Reader reads lines. Make it with Read; one goroutine may use it.
type Reader struct {
	store    *Store
	query    Query
	cursors  map[*journal]*cursor
	wake     <-chan struct{}
	caughtUp bool
	closed   bool
}

// Read returns a reader, which must be closed. Errors: ResourceExhausted.
func (s *Store) Read(q Query) (*Reader, error) {
	if s.readers.Add(1) > maxReaders {
		s.readers.Add(-1)
		return nil, fmt.Errorf("%w: at most %d: %w", errTooManyReaders, maxReaders, errdefs.ErrResourceExhausted)
	}
	return &Reader{store: s, query: q, cursors: map[*journal]*cursor{}}, nil
}

// Close ends a reader.
func (r *Reader) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.store.readers.Add(-1)
}

// Next returns the next lines. It waits for them only if the reader follows and
// has caught up. Errors: io.EOF when there are no more, the cause of ctx.
func (r *Reader) Next(ctx context.Context) (Batch, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Batch{}, context.Cause(ctx)
		}
		r.refresh()
		if !r.caughtUp {
			return r.catchUp(ctx), nil
		}
		if !r.query.Follow {
			return Batch{}, io.EOF
		}
		wake := r.wake
		if b := r.read(); len(b.Lines) > 0 || b.Lost > 0 {
			return b, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return Batch{}, context.Cause(ctx)
		}
	}
}

// refresh looks for journals that are new.
func (r *Reader) refresh() {
	found, wake := r.store.matching(r.query)
	r.wake = wake
	known := make(map[*journal]bool, len(found))
	for _, j := range found {
		known[j] = true
		if r.cursors[j] == nil {
			c := &cursor{journal: j}
			if !r.caughtUp {
				c.begin(r.query)
			}
			r.cursors[j] = c
		}
	}
	maps.DeleteFunc(r.cursors, func(j *journal, _ *cursor) bool { return !known[j] })
}

// catchUp reads what is kept.
func (r *Reader) catchUp(ctx context.Context) Batch {
	if r.query.Tail < 0 {
		b := r.read()
		if len(b.Lines) == 0 {
			r.caughtUp, b.CaughtUp = true, true
		}
		return b
	}
	began, size, over := time.Now(), 0, false
	var last Batch
	for ctx.Err() == nil && !over {
		b := r.read()
		if len(b.Lines) == 0 {
			break
		}
		for _, l := range b.Lines {
			size += len(l.Text)
		}
		over = b.Lines[len(b.Lines)-1].Time.After(began) // they come faster than they are read
		last.Lines = append(last.Lines, b.Lines...)
		drop := max(0, len(last.Lines)-r.query.Tail)
		for i, l := range last.Lines {
			if i >= drop && size <= tailBytes {
				break
			}
			size -= len(l.Text)
			drop = max(drop, i+1)
		}
		last.Lines = slices.Delete(last.Lines, 0, drop)
	}
	r.caughtUp, last.CaughtUp = true, true
	return last
}

// read merges what there is now, up to a batch.
func (r *Reader) read() (b Batch) {
	var ready []*cursor
	for _, c := range r.cursors {
		if c.peek(r.query) {
			ready = append(ready, c)
		}
		b.Lost += c.takeLost()
	}
	for size := 0; len(ready) > 0 && len(b.Lines) < batchLines && size < batchBytes; {
		first := 0
		for i, c := range ready {
			if c.before(ready[first]) {
				first = i
			}
		}
		c := ready[first]
		line := c.take()
		size += len(line.Text)
		b.Lines = append(b.Lines, line)
		if !c.peek(r.query) {
			ready = slices.Delete(ready, first, first+1)
		}
		b.Lost += c.takeLost()
	}
	return b
}
