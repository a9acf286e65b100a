//go:build node

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asPID1 runs hearth-init as the first process of a PID namespace and as a user
// without any right.
func asPID1(t *testing.T) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID,
		Credential: &syscall.Credential{Uid: 993, Gid: 990, NoSetGroups: false},
	}
}

// shared makes a copy of the test binary that every user may run.
func shared(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // a test's directories are its user's alone
		t.Fatal(err)
	}
	f, err := os.CreateTemp(dir, "hearth-init-test-")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := f.Chmod(0o755); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func TestIsPID1WithoutRights(t *testing.T) {
	attr, file := asPID1(t), shared(t)
	code, stdout, stderr := finishFile(t, file, attr, "--", file, "show", "x")
	fields := strings.Fields(stdout)
	if code != 0 || len(fields) != 4 || fields[1] != "1" || fields[2] != "993" {
		t.Errorf("got %d %q %q, want a child of process 1 as user 993", code, stdout, stderr)
	}
}

func TestReapsOrphans(t *testing.T) {
	attr, file := asPID1(t), shared(t)
	code, stdout, stderr := finishFile(t, file, attr, "--", file, "orphans", "20")
	if code != 0 {
		t.Errorf("got %d %q %q, want all orphans gone", code, stdout, stderr)
	}
}
