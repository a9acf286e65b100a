package code_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/code"
)

// file is one entry of an archive under test.
type file struct {
	name, body string
	mode       fs.FileMode
}

// archive makes a zip of files.
func archive(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		h.SetMode(f.mode)
		e, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(e, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// store is where archives come from.
type store struct {
	mu      sync.Mutex
	content map[string][]byte
	fetched map[string]int
	fail    error
	// gate, if set, holds every fetch until it is closed.
	gate chan struct{}
}

func newStore() *store { return &store{content: map[string][]byte{}, fetched: map[string]int{}} }

func (s *store) add(b []byte) agent.Code {
	sum := sha256.Sum256(b)
	c := agent.Code{SHA256: hex.EncodeToString(sum[:]), Size: agent.Bytes(len(b))}
	s.content[c.SHA256] = b
	return c
}

// Fetch implements code.Fetcher.
func (s *store) Fetch(ctx context.Context, sha string, w io.Writer) error {
	s.mu.Lock()
	s.fetched[sha]++
	content, fail, gate := s.content[sha], s.fail, s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if fail != nil {
		return fail
	}
	for len(content) > 0 {
		n := min(1000, len(content))
		if _, err := w.Write(content[:n]); err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

func (s *store) count(c agent.Code) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetched[c.SHA256]
}

func open(t testing.TB, dir string, budget agent.Bytes, s *store) *code.Cache {
	t.Helper()
	c, err := code.New(code.Config{Dir: dir, Budget: budget, Fetcher: s, BootID: "boot-1"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tree lists what is under dir: name → mode and content.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + target
		}
		got[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestAnArchiveIsUnpackedReadableByAllAndWritableByNobodyElse(t *testing.T) {
	t.Parallel()
	s := newStore()
	c := s.add(archive(t,
		file{"bootstrap", "#!", 0o700},
		file{"lib/deep/x.so", "so", fs.ModeSetuid | fs.ModeSetgid | 0o777},
		file{"secret", "s", 0o600},
		file{"empty/", "", fs.ModeDir | 0o700},
		file{"./dotted", "d", 0o644},
		file{"link", "lib/deep/x.so", fs.ModeSymlink | 0o777},
		file{"lib/up", "../secret", fs.ModeSymlink | 0o777},
		file{"secret", "written twice", 0o600},
	))
	cache := open(t, t.TempDir(), 1<<20, s)
	dir, release, err := cache.Acquire(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	want := map[string]string{
		".": "drwxr-xr-x", "bootstrap": "-rwxr-xr-x #!", "lib": "drwxr-xr-x", "lib/deep": "drwxr-xr-x",
		"lib/deep/x.so": "-rwxr-xr-x so", "secret": "-rw-r--r-- written twice", "empty": "drwxr-xr-x",
		"dotted": "-rw-r--r-- d", "link": "Lrwxrwxrwx lib/deep/x.so", "lib/up": "Lrwxrwxrwx ../secret",
	}
	if d := cmp.Diff(want, tree(t, dir)); d != "" {
		t.Fatal(d)
	}
}

// onlyMarker requires that the cache directory has nothing but its marker.
func onlyMarker(t testing.TB, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "boot-id" {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestWhatIsNotTheArchiveAskedForIsRefused(t *testing.T) {
	t.Parallel()
	good := archive(t, file{"a", "1", 0o644})
	for name, change := range map[string]func(s *store, c *agent.Code){
		"other content": func(s *store, c *agent.Code) {
			b := bytes.Clone(good)
			b[10] ^= 1
			s.content[c.SHA256] = b
		},
		"cut":         func(s *store, c *agent.Code) { s.content[c.SHA256] = good[:len(good)-1] },
		"too long":    func(s *store, c *agent.Code) { s.content[c.SHA256] = append(bytes.Clone(good), 0) },
		"not a zip":   func(s *store, c *agent.Code) { *c = s.add([]byte("hello")) },
		"no hash":     func(_ *store, c *agent.Code) { c.SHA256 = "../../etc" },
		"upper case":  func(_ *store, c *agent.Code) { c.SHA256 = strings.ToUpper(c.SHA256) },
		"announced 0": func(_ *store, c *agent.Code) { c.Size = 0 },
	} {
		s := newStore()
		c := s.add(good)
		change(s, &c)
		dir := t.TempDir()
		if _, _, err := open(t, dir, 1<<20, s).Acquire(t.Context(), c); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v", name, err)
		}
		onlyMarker(t, dir)
	}
}

func TestConcurrentRequestsShareOneFetch(t *testing.T) {
	t.Parallel()
	s := newStore()
	s.gate = make(chan struct{})
	a := s.add(archive(t, file{"a", "1", 0o644}))
	cache := open(t, t.TempDir(), 1<<20, s)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			dir, release, err := cache.Acquire(t.Context(), a)
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			if b, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b) != "1" {
				t.Errorf("got %q %v", b, err)
			}
		})
	}
	close(s.gate)
	wg.Wait()
	if n := s.count(a); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

func TestAFailedFetchIsTriedAgainByWhoeverWaited(t *testing.T) {
	t.Parallel()
	s := newStore()
	s.gate = make(chan struct{})
	a := s.add(archive(t, file{"a", "1", 0o644}))
	cache := open(t, t.TempDir(), 1<<20, s)
	ctx, cancel := context.WithCancelCause(t.Context())
	first := make(chan error, 1)
	go func() { _, _, err := cache.Acquire(ctx, a); first <- err }()
	for s.count(a) == 0 {
		time.Sleep(time.Millisecond)
	}
	second := make(chan error, 1)
	go func() { _, _, err := cache.Acquire(t.Context(), a); second <- err }()
	gone := errors.New("not wanted any more")
	cancel(gone)
	if err := <-first; !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	close(s.gate)
	if err := <-second; err != nil {
		t.Errorf("got %v", err)
	}
}

func TestAServiceThatShedsEvictsNothing(t *testing.T) {
	t.Parallel()
	s := newStore()
	kept := s.add(archive(t, file{"a", "1", 0o644}))
	cache := open(t, t.TempDir(), 1<<20, s)
	_, release, err := cache.Acquire(t.Context(), kept)
	if err != nil {
		t.Fatal(err)
	}
	release()
	s.fail = errdefs.ErrResourceExhausted
	if _, _, err := cache.Acquire(t.Context(), s.add(archive(t, file{"b", "2", 0o644}))); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v", err)
	}
	if release, ok := cache.Hold(kept.SHA256); !ok {
		t.Error("what was there is evicted")
	} else {
		release()
	}
}

func TestInvariant2And3_TheBudgetEvictsTheLeastRecentlyUsedAndNeverWhatIsHeld(t *testing.T) {
	t.Parallel()
	s := newStore()
	var codes []agent.Code
	for i := range 4 {
		codes = append(codes, s.add(archive(t, file{"f", strings.Repeat(string(rune('a'+i)), 1000), 0o644})))
	}
	dir := t.TempDir()
	cache := open(t, dir, 20_000, s) // two of them: a directory and a file take 4 KiB each
	acquire := func(i int) func() {
		t.Helper()
		_, release, err := cache.Acquire(t.Context(), codes[i])
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	release0 := acquire(0) // held throughout
	acquire(1)()
	acquire(2)() // evicts 1
	if _, err := os.Stat(filepath.Join(dir, codes[1].SHA256)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("1 is still there: %v", err)
	}
	release2 := acquire(2)
	if n := s.count(codes[2]); n != 1 {
		t.Errorf("2 was fetched %d times", n)
	}
	if _, _, err := cache.Acquire(t.Context(), codes[3]); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v with everything held", err)
	}
	if cache.Used() != 16_384 {
		t.Errorf("got %d used", cache.Used())
	}
	release2()
	release2() // harmless
	acquire(3)()
	if _, err := os.Stat(filepath.Join(dir, codes[0].SHA256)); err != nil {
		t.Errorf("what is held was evicted: %v", err)
	}
	release0()
	if _, ok := cache.Hold(codes[1].SHA256); ok {
		t.Error("holding what was evicted")
	}
	if release, ok := cache.Hold(codes[3].SHA256); !ok {
		t.Error("cannot hold what is there")
	} else {
		release()
	}
}

func TestARestartKeepsWhatIsCompleteAndARebootNothing(t *testing.T) {
	t.Parallel()
	s := newStore()
	a := s.add(archive(t, file{"a", "123", 0o644}))
	dir := t.TempDir()
	if _, _, err := open(t, dir, 1<<20, s).Acquire(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tmp-crashed", "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, 1<<20, s)
	if _, err := os.Stat(filepath.Join(dir, "tmp-crashed")); !errors.Is(err, fs.ErrNotExist) || again.Used() != 8192 {
		t.Errorf("got %v, %d used", err, again.Used())
	}
	if _, _, err := again.Acquire(t.Context(), a); err != nil || s.count(a) != 1 {
		t.Errorf("got %v, fetched %d times", err, s.count(a))
	}
	rebooted, err := code.New(code.Config{Dir: dir, Budget: 1 << 20, Fetcher: s, BootID: "boot-2"})
	if err != nil || rebooted.Used() != 0 {
		t.Fatalf("got %v, %d used", err, rebooted.Used())
	}
	if _, _, err := rebooted.Acquire(t.Context(), a); err != nil || s.count(a) != 2 {
		t.Errorf("got %v, fetched %d times", err, s.count(a))
	}
}

// FuzzUnpack unpacks whatever it is given and requires that nothing appears
// outside the cache.
func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, file{"a/b", "x", 0o755}, file{"l", "a/b", fs.ModeSymlink | 0o777}))
	f.Add(archive(f, file{"../x", "x", 0o644}))
	f.Add(archive(f, file{"l", "/etc", fs.ModeSymlink | 0o777}, file{"l/x", "x", 0o644}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newStore()
		parent := t.TempDir()
		cache := open(t, filepath.Join(parent, "code"), 1<<28, s)
		_, release, err := cache.Acquire(t.Context(), s.add(b))
		if err == nil {
			release()
		} else if !errdefs.IsInvalidArgument(err) {
			t.Fatalf("got %v", err)
		}
		if left, err := os.ReadDir(parent); err != nil || len(left) != 1 {
			t.Fatalf("something was written outside: %v %v", left, err)
		}
	})
}
