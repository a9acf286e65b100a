package up

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What this package keeps in the data directory.
const (
	lockFileName = "up.lock"
	pidFileName  = "control.pid"
)

// keepMark in the lock file says that the run which wrote it keeps the store.
const keepMark = "keep-data"

// disposable refuses a data directory whose store would be removed at the end
// although no hearth up made it to be removed: that of a hearth-control that
// ran by itself, or of a run with --keep-data. Errors: FailedPrecondition.
func disposable(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "hearth.db")); err != nil {
		return nil //nolint:nilerr // no store, nothing to lose
	}
	left, err := os.ReadFile(filepath.Join(dir, lockFileName)) //nolint:gosec // G304: in the data directory
	if err == nil && !strings.Contains(string(left), keepMark) {
		return nil // that of a run that was killed
	}
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
		"%s holds a store that is meant to last, and hearth up removes everything when it stops; say --keep-data to keep it, or give another --data-dir", dir))
}

// lockDir makes the data directory ours until unlock is called, which also
// removes what is left of it if it is empty.
func lockDir(dir string, keep bool) (unlock func(), err error) {
	fail := func(err error) (func(), error) {
		return nil, fmt.Errorf("locking %s: %w: %w", dir, err, errdefs.ErrUnavailable)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	path := filepath.Join(dir, lockFileName)
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // in the data directory
		if err != nil {
			return fail(err)
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && stillAt(path, file) {
			note(file, keep)
			return func() { release(file, dir, keep) }, nil
		}
		_ = file.Close()
		switch {
		case err == nil: // its owner removed it meanwhile
		case !errors.Is(err, unix.EWOULDBLOCK):
			return fail(err)
		case time.Since(begun) > 300*time.Millisecond:
			owner, _ := os.ReadFile(path) //nolint:gosec // in the data directory
			return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
				"another hearth up (process %s) uses %s; give this one another --data-dir", firstWord(string(owner)), dir))
		}
	}
}

// stillAt reports whether file is what path names.
func stillAt(path string, file *os.File) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	ours, err := file.Stat()
	return err == nil && os.SameFile(there, ours)
}

// note says in the lock file who has it.
func note(file *os.File, keep bool) {
	text := strconv.Itoa(os.Getpid())
	if keep {
		text += " " + keepMark
	}
	_ = file.Truncate(0)
	_, _ = file.WriteString(text + "\n")
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(strings.TrimSpace(s), " ")
	return word
}

// release gives the data directory up. If a store is left that should have been
// removed, the lock file stays beside it: the next run may finish.
func release(file *os.File, dir string, keep bool) {
	if _, err := os.Stat(filepath.Join(dir, "hearth.db")); keep || err != nil {
		_ = os.Remove(file.Name())
	}
	_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
	_ = file.Close()
	_ = os.Remove(dir) // only if it is empty
}

// removeData removes what Hearth keeps in its data directory, and nothing that
// somebody else put there. With keep, the store stays.
func removeData(dir string, keep bool) error {
	var errs []error
	attempt := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	instances := filepath.Join(dir, "instances")
	attempt(os.Remove(filepath.Join(instances, ".lock")))
	attempt(os.Remove(instances)) // by now it is empty
	attempt(os.Remove(filepath.Join(dir, pidFileName)))
	if !keep {
		entries, err := os.ReadDir(dir)
		attempt(err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "hearth.db") {
				attempt(os.Remove(filepath.Join(dir, e.Name())))
			}
		}
		attempt(os.RemoveAll(filepath.Join(dir, "ca")))
		attempt(os.RemoveAll(filepath.Join(dir, "artifacts")))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing the data: %w: %w", err, errdefs.ErrUnavailable)
	}
	return nil
}
