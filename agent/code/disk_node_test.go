//go:build node

package code_test

import (
	"math/rand"
	"os"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

// TestAFullDiskIsNotTheFaultOfTheArchive: on a disk of 1 MiB, what does not fit
// is refused as such, whether it is full while fetching or while unpacking, and
// makes room for the next attempt.
func TestAFullDiskIsNotTheFaultOfTheArchive(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	noise := make([]byte, 700<<10) // not compressible
	_, _ = rand.New(rand.NewSource(1)).Read(noise)
	s := newStore()
	cache := open(t, dir, 1<<30, s)
	small := s.add(archive(t, file{"f", string(noise[:200<<10]), 0o644}))
	next := s.add(archive(t, file{"g", string(noise[:450<<10]), 0o644}))
	_, release, err := cache.Acquire(t.Context(), small)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"unpacking": string(make([]byte, 900<<10)), "unpacking both": string(noise[:600<<10]), "fetching": string(noise) + string(noise),
	} {
		_, _, err := cache.Acquire(t.Context(), s.add(archive(t, file{"big", content, 0o644})))
		if !errdefs.IsResourceExhausted(err) || errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v, want ResourceExhausted", name, err)
		}
	}
	if left := tree(t, dir); len(left) != 4 {
		t.Errorf("left: %v", left)
	}
	if _, _, err := cache.Acquire(t.Context(), next); !errdefs.IsResourceExhausted(err) {
		t.Errorf("beside what is held: got %v, want ResourceExhausted", err)
	}
	release()
	if _, _, err := cache.Acquire(t.Context(), next); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v, want ResourceExhausted once more, and what is not held evicted", err)
	}
	if _, _, err := cache.Acquire(t.Context(), next); err != nil {
		t.Errorf("with room for it: got %v", err)
	}
}
