package code_test

import (
	"context"
	"errors"
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

// acquire merges layers until the end of the test.
func acquire(t *testing.T, c *code.Cache, layers ...agent.Code) string {
	t.Helper()
	dir, release, err := c.AcquireLayers(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return dir
}

func TestALaterLayerHidesAnEarlierOne(t *testing.T) {
	t.Parallel()
	s := newStore()
	one := s.add(archive(t,
		file{"both", "one", 0o644}, file{"only/one", "1", 0o644}, file{"bin/x", "#!1", 0o755},
		file{"was/dir/deep", "d", 0o644}, file{"was/file", "f", 0o644}, file{"was/link", "file", fs.ModeSymlink | 0o777},
		file{"link", "only", fs.ModeSymlink | 0o777},
	))
	two := s.add(archive(t,
		file{"both", "two", 0o755}, file{"bin/x", "#!2", 0o644}, file{"bin/y", "y", 0o644},
		file{"was/dir", "file now", 0o644}, file{"was/file/deep", "dir now", 0o644}, file{"was/link/deep", "no link now", 0o644},
		file{"link/two", "not in only", 0o644},
	))
	want := map[string]string{
		".": "drwxr-xr-x", "both": "-rwxr-xr-x two", "only": "drwxr-xr-x", "only/one": "-rw-r--r-- 1",
		"bin": "drwxr-xr-x", "bin/x": "-rw-r--r-- #!2", "bin/y": "-rw-r--r-- y",
		"was": "drwxr-xr-x", "was/dir": "-rw-r--r-- file now", "was/file": "drwxr-xr-x", "was/file/deep": "-rw-r--r-- dir now",
		"was/link": "drwxr-xr-x", "was/link/deep": "-rw-r--r-- no link now", "link": "drwxr-xr-x", "link/two": "-rw-r--r-- not in only",
	}
	cache := open(t, t.TempDir(), 1<<20, s)
	if diff := cmp.Diff(want, tree(t, acquire(t, cache, one, two))); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
	other := tree(t, acquire(t, cache, two, one))
	if other["both"] != "-rw-r--r-- one" || other["link"] != "Lrwxrwxrwx only" || other["was/dir/deep"] != "-rw-r--r-- d" {
		t.Errorf("in the other order: %v", other)
	}
	if s.count(one) != 1 || s.count(two) != 1 {
		t.Errorf("fetched %d and %d times", s.count(one), s.count(two))
	}
	if got := tree(t, acquire(t, cache, one)); got["both"] != "-rw-r--r-- one" || got["link"] != "Lrwxrwxrwx only" {
		t.Errorf("merging changed a layer: %v", got)
	}
}

// TestMergingFollowsNoLink has a layer with a link where the next has a
// directory of that name: what is in it must not land where the link leads.
func TestMergingFollowsNoLink(t *testing.T) {
	t.Parallel()
	s, dir := newStore(), t.TempDir()
	one := s.add(archive(t, file{"a", "/tmp", fs.ModeSymlink | 0o777}, file{"b/c", "/opt", fs.ModeSymlink | 0o777}))
	name := "hearth-" + filepath.Base(filepath.Dir(dir)) + "-escaped"
	two := s.add(archive(t, file{"a/" + name, "x", 0o644}, file{"b/c/" + name, "x", 0o644}))
	got := tree(t, acquire(t, open(t, dir, 1<<20, s), one, two))
	for _, out := range []string{"/tmp/", "/opt/"} {
		if _, err := os.Lstat(out + name); err == nil {
			t.Errorf("a file was written to %s", out)
			_ = os.Remove(out + name)
		}
	}
	if got["a/"+name] != "-rw-r--r-- x" || got["b/c/"+name] != "-rw-r--r-- x" {
		t.Errorf("merged: %v", got)
	}
}

func TestHostileLayersAreRefused(t *testing.T) {
	t.Parallel()
	good := file{"x", "x", 0o644}
	for name, bad := range map[string]file{
		"a device":                     {"dev", "", fs.ModeDevice | 0o666},
		"a character device":           {"dev", "", fs.ModeDevice | fs.ModeCharDevice | 0o666},
		"a pipe":                       {"pipe", "", fs.ModeNamedPipe | 0o666},
		"a socket":                     {"sock", "", fs.ModeSocket | 0o666},
		"a way up":                     {"../x", "x", 0o644},
		"a link out":                   {"link", "../../etc/passwd", fs.ModeSymlink | 0o777},
		"a link to a file of the host": {"link", "/etc/passwd", fs.ModeSymlink | 0o777},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, dir := newStore(), t.TempDir()
			cache := open(t, dir, 1<<20, s)
			layers := []agent.Code{s.add(archive(t, good)), s.add(archive(t, bad, good))}
			if _, _, err := cache.AcquireLayers(t.Context(), layers); !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v, want InvalidArgument", err)
			}
			if _, ok := cache.HoldLayers(layers); ok {
				t.Error("half a merge is there")
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "tmp-*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestNoLayerMakesAnotherUser(t *testing.T) {
	t.Parallel()
	s := newStore()
	one := s.add(archive(t, file{"bin/su", "su", fs.ModeSetuid | 0o4755}, file{"d/", "", fs.ModeDir | fs.ModeSetgid | fs.ModeSticky | 0o777}))
	two := s.add(archive(t, file{"bin/sg", "sg", fs.ModeSetgid | 0o2755}))
	want := map[string]string{
		".": "drwxr-xr-x", "bin": "drwxr-xr-x", "bin/su": "-rwxr-xr-x su", "bin/sg": "-rwxr-xr-x sg", "d": "drwxr-xr-x",
	}
	if diff := cmp.Diff(want, tree(t, acquire(t, open(t, t.TempDir(), 1<<20, s), one, two))); diff != "" {
		t.Errorf("merged (-want +got):\n%s", diff)
	}
}

// TestInvariant2_HeldLayersStay has room for the merged layers only: their
// archives are evicted, and their files are still there.
func TestInvariant2_HeldLayersStay(t *testing.T) {
	t.Parallel()
	s := newStore()
	big := strings.Repeat("x", 20_000)
	one, two := s.add(archive(t, file{"one", big, 0o644})), s.add(archive(t, file{"two", big, 0o644}))
	third := s.add(archive(t, file{"three", big, 0o644}))
	const budget = 4096*3 + 2*20480 + 28672
	cache := open(t, t.TempDir(), budget, s)
	dir := acquire(t, cache, one, two)
	acquire(t, cache, third)
	if _, ok := cache.Hold(one.SHA256); ok {
		t.Fatal("the archive of a layer is still there: this test shows nothing")
	}
	if got := tree(t, dir); len(got) != 3 || !strings.HasSuffix(got["one"], big) || !strings.HasSuffix(got["two"], big) {
		t.Errorf("%d entries are left", len(got))
	}
	if used := cache.Used(); used > budget {
		t.Errorf("%d bytes used, at most %d may be", used, budget)
	}
	if _, _, err := cache.AcquireLayers(t.Context(), []agent.Code{third, one, two}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("error %v, want ResourceExhausted", err)
	}
}

func TestMergedLayersSurviveTheAgentAndNotTheHost(t *testing.T) {
	t.Parallel()
	s, dir := newStore(), t.TempDir()
	layers := []agent.Code{s.add(archive(t, file{"a", "a", 0o644})), s.add(archive(t, file{"b", "b", 0o644}))}
	acquire(t, open(t, dir, 1<<20, s), layers...)
	if err := os.Mkdir(filepath.Join(dir, "tmp-half"), 0o700); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, 1<<20, s)
	release, ok := again.HoldLayers(layers)
	if !ok {
		t.Fatal("the layers are gone with the agent that merged them")
	}
	release()
	if _, ok := again.HoldLayers(layers[:1]); !ok {
		t.Error("a single layer is gone")
	}
	if _, ok := again.HoldLayers([]agent.Code{layers[1], layers[0]}); ok {
		t.Error("another order is taken for the same")
	}
	if _, err := os.Stat(filepath.Join(dir, "tmp-half")); err == nil {
		t.Error("what a crash left was not swept")
	}
	booted, err := code.New(code.Config{Dir: dir, Budget: 1 << 20, Fetcher: s, BootID: "boot-2"})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := booted.HoldLayers(layers); ok {
		t.Error("the layers are believed after a reboot")
	}
}

func TestOneMergeServesAllWhoWait(t *testing.T) {
	t.Parallel()
	s := newStore()
	s.gate = make(chan struct{})
	layers := []agent.Code{s.add(archive(t, file{"a", "a", 0o644})), s.add(archive(t, file{"b", "b", 0o644}))}
	cache := open(t, t.TempDir(), 1<<20, s)
	impatient, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errors.New("impatient"))
	defer cancel()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, release, err := cache.AcquireLayers(t.Context(), layers)
			if err != nil {
				t.Error(err)
				return
			}
			release()
		})
	}
	for s.count(layers[0]) == 0 {
		time.Sleep(time.Millisecond) // until the merge has begun
	}
	if _, _, err := cache.AcquireLayers(impatient, layers); err == nil || impatient.Err() == nil {
		t.Errorf("error %v before the layers are there", err)
	}
	close(s.gate)
	all.Wait()
	if a, b := s.count(layers[0]), s.count(layers[1]); a != 1 || b != 1 {
		t.Errorf("fetched %d and %d times", a, b)
	}
}
