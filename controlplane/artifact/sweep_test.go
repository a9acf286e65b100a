package artifact_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane/artifact"
)

func TestInvariant3_SweepLeavesWhatIsUsedOrNew(t *testing.T) {
	t.Parallel()
	s := open(t)
	used, orphan := put(t, s, "used"), put(t, s, "orphan")
	uses := func(context.Context) (map[string]bool, error) { return map[string]bool{used: true}, nil }
	if n, err := s.Sweep(t.Context(), time.Now().Add(-time.Hour), uses); n != 0 || err != nil {
		t.Errorf("deleted %d that were new, %v", n, err)
	}
	if n, err := s.Sweep(t.Context(), time.Now().Add(time.Second), uses); n != 1 || err != nil {
		t.Errorf("deleted %d, %v, want the orphan", n, err)
	}
	if _, err := s.Open(t.Context(), orphan); !errdefs.IsNotFound(err) {
		t.Errorf("the orphan: %v, want NotFound", err)
	}
	if r, err := s.Open(t.Context(), used); err != nil {
		t.Errorf("what is used: %v", err)
	} else if content, err := io.ReadAll(r); string(content) != "used" || errors.Join(err, r.Close()) != nil {
		t.Errorf("what is used has %q, %v", content, err)
	}
}

func TestNothingIsSweptWhenNobodyKnowsWhatIsUsed(t *testing.T) {
	t.Parallel()
	s := open(t)
	sha := put(t, s, "used")
	broken := errors.New("the store is broken")
	_, err := s.Sweep(t.Context(), time.Now().Add(time.Second), func(context.Context) (map[string]bool, error) { return nil, broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	r, err := s.Open(t.Context(), sha)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
}

// What is put while a sweep has found it unused stays: the sweep's time is past.
func TestWhatIsPutAgainDuringASweepStays(t *testing.T) {
	t.Parallel()
	s := open(t)
	sha := put(t, s, "again")
	before := time.Now().Add(20 * time.Millisecond)
	<-time.After(time.Until(before)) // its file is old now
	_, err := s.Sweep(t.Context(), before, func(context.Context) (map[string]bool, error) {
		<-time.After(20 * time.Millisecond) // the clock of files is a little slow
		put(t, s, "again")
		return nil, nil
	})
	if err != nil {
		t.Error(err)
	}
	r, err := s.Open(t.Context(), sha)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
}

// After the wall clock jumped, a file seems as old as it jumped: who put it a
// moment ago may still be about to write down its name.
func TestWhatWasJustPutStaysWhenTheClockJumps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := artifact.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	sha := put(t, s, "not committed yet")
	jumped := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, sha), jumped, jumped); err != nil {
		t.Fatal(err)
	}
	unused := func(context.Context) (map[string]bool, error) { return nil, nil }
	for range 2 {
		if n, err := s.Sweep(t.Context(), time.Now().Add(-time.Hour), unused); n != 0 || err != nil {
			t.Errorf("deleted %d, %v", n, err)
		}
	}
	// Put by an earlier process, or long enough ago, it goes.
	if n, err := s.Sweep(t.Context(), time.Now().Add(time.Second), unused); n != 1 || err != nil {
		t.Errorf("deleted %d, %v, want it once its time is over", n, err)
	}
	other := put(t, s, "of an earlier process")
	if err := os.Chtimes(filepath.Join(dir, other), jumped, jumped); err != nil {
		t.Fatal(err)
	}
	later, err := artifact.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = later.Close() })
	if n, err := later.Sweep(t.Context(), time.Now().Add(-time.Hour), unused); n != 1 || err != nil {
		t.Errorf("deleted %d, %v, want what nobody here has put", n, err)
	}
}

func open(t *testing.T) *artifact.Store {
	t.Helper()
	s, err := artifact.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t *testing.T, s *artifact.Store, content string) string {
	t.Helper()
	sha, _, err := s.Put(t.Context(), []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return sha
}
