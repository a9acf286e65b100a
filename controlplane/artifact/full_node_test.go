//go:build node

package artifact_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane/artifact"
)

func TestAnArchiveThatDoesNotFitLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	mount := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	mount("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", dir)
	t.Cleanup(func() { mount("umount", dir) })
	s, err := artifact.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	content := make([]byte, 2<<20)
	_, _ = rand.Read(content) // never fails
	if _, _, err := s.Put(t.Context(), content); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v, want Unavailable", err)
	}
	sum := sha256.Sum256(content)
	if r, err := s.Open(t.Context(), hex.EncodeToString(sum[:])); !errdefs.IsNotFound(err) {
		t.Errorf("a part of it is there as if it were the whole: %v", err)
		_ = r.Close()
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v %v", entries, err)
	}
	if _, _, err := s.Put(t.Context(), content[:1<<19]); err != nil {
		t.Errorf("one that fits: %v", err)
	}
}
