package artifact_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"gocloud.dev/blob/memblob"

	"github.com/hearth-compute/hearth/controlplane/artifact"
)

func stores(t *testing.T) map[string]*artifact.Store {
	t.Helper()
	dir, err := artifact.OpenDir(filepath.Join(t.TempDir(), "made", "here"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*artifact.Store{"directory": dir, "memory": artifact.New(memblob.OpenBucket(nil))}
	for _, s := range all {
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return all
}

func closing(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, s *artifact.Store, sha string) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), sha)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, r)
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestWhatWasPutIsReadByItsDigest(t *testing.T) {
	t.Parallel()
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			for _, content := range [][]byte{{}, []byte("zip"), bytes.Repeat([]byte{1, 2, 3}, 1<<20)} {
				for range 2 { // safe to repeat
					sha, size, err := s.Put(t.Context(), content)
					if err != nil {
						t.Fatal(err)
					}
					sum := sha256.Sum256(content)
					if want := hex.EncodeToString(sum[:]); sha != want || size != int64(len(content)) {
						t.Errorf("put returned %s, %d; want %s, %d", sha, size, want, len(content))
					}
					if got := read(t, s, sha); !bytes.Equal(got, content) {
						t.Errorf("read %d bytes that differ from the %d put", len(got), len(content))
					}
				}
			}
		})
	}
}

func TestWhatIsNotThereIsNotFoundAndDeletedTwice(t *testing.T) {
	t.Parallel()
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			sha, _, err := s.Put(t.Context(), []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := s.Delete(t.Context(), sha); err != nil {
					t.Errorf("deleting: %v", err)
				}
			}
			if _, err := s.Open(t.Context(), sha); !errdefs.IsNotFound(err) {
				t.Errorf("error %v, want NotFound", err)
			}
		})
	}
}

func TestNamesThatAreNoDigestAreRefused(t *testing.T) {
	t.Parallel()
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			upper := "AB" + string(bytes.Repeat([]byte("0"), 62))
			for _, sha := range []string{"", "../../etc/passwd", "abc", upper} {
				if _, err := s.Open(t.Context(), sha); !errdefs.IsInvalidArgument(err) {
					t.Errorf("open %q: error %v, want InvalidArgument", sha, err)
				}
				if err := s.Delete(t.Context(), sha); !errdefs.IsInvalidArgument(err) {
					t.Errorf("delete %q: error %v, want InvalidArgument", sha, err)
				}
			}
		})
	}
}

func TestADirectoryHoldsOnlyWholeFilesOfTheirOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := artifact.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, s)
	content := bytes.Repeat([]byte("same"), 100_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			sha, _, err := s.Put(t.Context(), content)
			if err != nil {
				t.Error(err)
				return
			}
			if got := read(t, s, sha); !bytes.Equal(got, content) {
				t.Errorf("read %d bytes while others put the same, want %d", len(got), len(content))
			}
		})
	}
	wg.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("%d files after eight puts of one content", len(entries))
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v), want 0600", e.Name(), info.Mode(), err)
		}
	}
}
