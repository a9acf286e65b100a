//go:build node

package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

// tool runs a program of the host as root.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin"}
	if cmd.Err != nil {
		cmd.Path, cmd.Err = "/usr/sbin/"+name, nil
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// mount mounts the file system in image until the end of the test.
func mount(t *testing.T, image string) (dir string) {
	t.Helper()
	dir = image + ".d"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { tool(t, "umount", dir) })
	return dir
}

// afterPowerLoss writes rows to a store on a disk of its own, copies the disk as
// it is right after each was acknowledged, and returns how many rows are missing
// in the copies: what only the kernel knew is not there.
func afterPowerLoss(t *testing.T, rows int, open func(context.Context, string) (*sqlite.DB, error)) (missing int) {
	t.Helper()
	base := t.TempDir()
	image := filepath.Join(base, "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(32<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.ext4", "-q", "-F", image)
	db, err := open(t.Context(), filepath.Join(mount(t, image), fileName))
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, db)
	copied := func(n int) string { return filepath.Join(base, fmt.Sprintf("copy-%d", n)) }
	for n := range rows {
		err := db.Update(t.Context(), func(w store.Writer) error {
			return w.PutInstance(controlplane.Instance{ID: controlplane.InstanceID(fmt.Sprintf("i-%d", n))})
		})
		if err != nil {
			t.Fatal(err)
		}
		tool(t, "cp", "--sparse=always", image, copied(n))
	}
	for n := range rows {
		missing += n + 1 - present(t, mount(t, copied(n)))
	}
	return missing
}

// present counts the rows in the store of a disk, which may have none.
func present(t *testing.T, dir string) (rows int) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, fileName))
	if err != nil {
		return 0
	}
	defer closing(t, db)
	err = db.View(t.Context(), func(r store.Reader) error {
		all, err := r.Instances()
		rows = len(all)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return rows
}

func TestWhatWasAnsweredSurvivesALossOfPower(t *testing.T) {
	const rows = 10
	if missing := afterPowerLoss(t, rows, sqlite.Open); missing != 0 {
		t.Errorf("%d acknowledged rows are missing", missing)
	}
	if missing := afterPowerLoss(t, rows, sqlite.OpenUnsynced); missing == 0 {
		t.Error("nothing is missing without synchronous=FULL either: the test proves nothing")
	} else {
		t.Logf("without synchronous=FULL %d rows would have been missing", missing)
	}
}
