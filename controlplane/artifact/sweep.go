package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Sweep deletes archives that are not in used, unless they were put after
// before, which should have a monotonic reading. It returns how many it deleted. used is asked once the archives are
// known. Errors: those of used; Unavailable.
func (s *Store) Sweep(ctx context.Context, before time.Time, used func(context.Context) (map[string]bool, error)) (deleted int, err error) {
	s.recent.forget(before)
	var old []string
	for list := s.bucket.List(nil); ; {
		o, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("listing artifacts: %w: %w", err, errdefs.ErrUnavailable)
		}
		if valid(o.Key) == nil && o.ModTime.Before(before) {
			old = append(old, o.Key)
		}
	}
	if len(old) == 0 {
		return 0, nil
	}
	keep, err := used(ctx)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, sha := range old {
		if keep[sha] {
			continue
		}
		gone, err := s.deleteOld(ctx, sha, before)
		errs = append(errs, err)
		if gone {
			deleted++
		}
	}
	return deleted, errors.Join(errs...)
}

// deleteOld deletes an archive unless it was put again meanwhile.
func (s *Store) deleteOld(ctx context.Context, sha string, before time.Time) (gone bool, err error) {
	done, err := s.names.take(ctx, sha)
	if err != nil {
		return false, err
	}
	defer done()
	at, err := s.bucket.Attributes(ctx, sha)
	if err != nil {
		return false, classify("looking at", sha, err)
	}
	if !at.ModTime.Before(before) || s.recent.has(sha) {
		return false, nil
	}
	return true, s.Delete(ctx, sha)
}

// recent is what this process has put, and when by its monotonic clock: a file
// seems to be as old as the wall clock has jumped.
type recent struct {
	mu  sync.Mutex
	put map[string]time.Time
}

func (r *recent) add(sha string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.put == nil {
		r.put = map[string]time.Time{}
	}
	r.put[sha] = at
}

func (r *recent) has(sha string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.put[sha]
	return ok
}

// forget drops what was put before that time.
func (r *recent) forget(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.put, func(_ string, at time.Time) bool { return at.Before(before) })
}

// turns lets those who work on the same name wait for each other.
type turns struct {
	mu    sync.Mutex
	taken map[string]chan struct{} // closed when the one who has it is done
}

func (t *turns) take(ctx context.Context, name string) (done func(), err error) {
	for {
		t.mu.Lock()
		busy, ok := t.taken[name]
		if !ok {
			if t.taken == nil {
				t.taken = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			t.taken[name] = mine
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.taken, name)
				close(mine)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for artifact %s: %w", name, context.Cause(ctx))
		}
	}
}
