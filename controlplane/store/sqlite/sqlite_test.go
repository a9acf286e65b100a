package sqlite_test

import (
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
	"github.com/hearth-compute/hearth/controlplane/store/storetest"
)

const fileName = "a b?c%d#.db" // characters that mean something in a URL

func open(t testing.TB, dir string) store.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func closing(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestSQLiteIsAStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, open)
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := open(t, dir)
	defer closing(t, db)
	err := db.Update(t.Context(), func(w store.Writer) error {
		return w.PutProvider(controlplane.CapacityProvider{Name: "p"})
	})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) < 2 {
		t.Errorf("%d files, want the database and its log", len(entries))
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", e.Name(), info.Mode().Perm())
		}
	}
}

func TestWhatWasAnsweredIsInTheFilesOfAProcessThatDies(t *testing.T) {
	t.Parallel()
	dir, copied := t.TempDir(), t.TempDir()
	db := open(t, dir)
	defer closing(t, db)
	for i := range 3 {
		err := db.Update(t.Context(), func(w store.Writer) error {
			return w.PutInstance(controlplane.Instance{ID: controlplane.InstanceID(fmt.Sprintf("i-%d", i))})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// The files as they are now, without the shared memory that dies with the process.
	for _, name := range []string{fileName, fileName + "-wal"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	after := open(t, copied)
	defer closing(t, after)
	err := after.View(t.Context(), func(r store.Reader) error {
		instances, err := r.Instances()
		if len(instances) != 3 {
			t.Errorf("%d instances survived, want 3", len(instances))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAFileOfANewerProgramIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, raw)
	if _, err := raw.ExecContext(t.Context(), `INSERT INTO schema_migrations VALUES (9999, 'later')`); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.ExecContext(t.Context(), `DELETE FROM schema_migrations WHERE number > 1 AND number < 9999`); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), path); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error %v, want FailedPrecondition", err)
	}
}

func TestOpenSaysWhichFileItCannotOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "missing", "x.db")
	if _, err := sqlite.Open(t.Context(), path); !errdefs.IsUnavailable(err) {
		t.Errorf("error %v, want Unavailable", err)
	}
	garbage := filepath.Join(t.TempDir(), "garbage.db")
	if err := os.WriteFile(garbage, []byte("this is not a database, it is a text of some length, long enough"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), garbage); !errdefs.IsUnavailable(err) {
		t.Errorf("error %v, want Unavailable", err)
	}
}

func TestUpdatesThatWaitShareACommit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		db := open(t, dir)
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			err := db.Update(t.Context(), func(store.Writer) error {
				<-release
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // a batch is under way: all below wait for the next one
		const waiters = 50
		var ran, answered atomic.Int32
		for i := range waiters {
			wg.Go(func() {
				err := db.Update(t.Context(), func(w store.Writer) error {
					ran.Add(1)
					if n := answered.Load(); n != 0 {
						t.Errorf("update %d ran after %d others were answered: not one commit", i, n)
					}
					return w.PutInstance(controlplane.Instance{ID: controlplane.InstanceID(fmt.Sprint(i))})
				})
				if err != nil {
					t.Error(err)
				}
				answered.Add(1)
			})
		}
		synctest.Wait()
		if n := ran.Load(); n != 0 {
			t.Errorf("%d updates ran inside another batch", n)
		}
		close(release)
		wg.Wait()
		if n := ran.Load(); n != waiters {
			t.Errorf("%d updates ran, want %d", n, waiters)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkUpdate compares one caller, whose every update is a commit of its
// own, with 64 whose updates share commits.
func BenchmarkUpdate(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			db := open(b, b.TempDir())
			defer closing(b, db)
			body := controlplane.Instance{Architecture: string(make([]byte, 200))}
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						in := body
						in.ID = controlplane.InstanceID(fmt.Sprintf("i-%017x", n))
						if err := db.Update(b.Context(), func(w store.Writer) error { return w.PutInstance(in) }); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
		})
	}
}
