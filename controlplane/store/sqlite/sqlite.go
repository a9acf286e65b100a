// Package sqlite keeps what users asked for in one SQLite file.
//
// # Model
//
// Every value is a row: key columns that statements select and order by, and a
// body with the whole value as JSON. Statements are portable SQL. The file is
// in WAL mode with synchronous=FULL: a commit is on disk before it is answered.
//
// # Concurrency
//
// Updates that arrive while a commit is being written wait and share the next
// one. The first of them runs the functions of all, each inside a savepoint, so
// that one that fails rolls back alone. There is no background goroutine: the
// caller that finds no commit under way leads the next. Views run on
// connections of their own and never wait for an Update.
//
// # Failure
//
// A crash loses what was not answered. A commit that fails answers every
// Update that shared it with Unavailable, and nothing was written.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/hearth-compute/hearth/controlplane/store"
)

// DB is a store in one file. Make one with [Open].
type DB struct {
	writer  *sql.DB // one connection
	readers *sql.DB
	queue   queue

	// running counts calls, for Close.
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

var _ store.DB = (*DB)(nil)

// Open opens the database at path, which it creates with mode 0600 if there is
// none, and brings its schema up to date. The directory must exist. Errors:
// FailedPrecondition when a newer program wrote it; Unavailable.
func Open(ctx context.Context, path string) (*DB, error) { return open(ctx, path, "FULL") }

// open opens it with a setting of synchronous; tests show what another one loses.
func open(ctx context.Context, path, synchronous string) (*DB, error) {
	// Files beside it (-wal, -shm) get the mode of this one.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, unavailable("opening database "+path, err)
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return nil, unavailable("opening database "+path, err)
	}
	synchronous = "&_pragma=synchronous(" + synchronous + ")"
	writer, err := connect(path, "_txlock=immediate"+synchronous, 1)
	if err != nil {
		return nil, unavailable("opening database "+path, err)
	}
	if err := migrate(ctx, writer); err != nil {
		return nil, fmt.Errorf("opening database %s: %w", path, errors.Join(err, writer.Close()))
	}
	readers, err := connect(path, "_pragma=query_only(1)"+synchronous, max(4, runtime.NumCPU()))
	if err != nil {
		return nil, unavailable("opening database "+path, errors.Join(err, writer.Close()))
	}
	return &DB{writer: writer, readers: readers}, nil
}

// connect returns a pool that dials when it is first used.
func connect(path, options string, connections int) (*sql.DB, error) {
	name := (&url.URL{Scheme: "file", Opaque: url.PathEscape(path)}).String() +
		"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&" + options
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// View implements store.DB.
func (d *DB) View(ctx context.Context, fn func(store.Reader) error) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.running.Done()
	tx, err := d.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return unavailable("beginning a view", err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return fn(&reader{ctx: ctx, tx: tx})
}

// Update implements store.DB. ctx is looked at until fn begins.
func (d *DB) Update(ctx context.Context, fn func(store.Writer) error) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.running.Done()
	u := &update{ctx: ctx, fn: fn, ready: make(chan struct{})}
	if d.queue.join(u) {
		d.lead(ctx)
	} else {
		<-u.ready
		if !u.answered {
			d.lead(ctx)
		}
	}
	if u.panicked != nil {
		panic(u.panicked)
	}
	return u.err
}

// Close implements store.DB. Calls that begin later fail with Unavailable.
func (d *DB) Close() error {
	d.mu.Lock()
	again := d.closed
	d.closed = true
	d.mu.Unlock()
	if again {
		return nil
	}
	d.running.Wait()
	// The writer last: it moves the log into the file.
	if err := errors.Join(d.readers.Close(), d.writer.Close()); err != nil {
		return unavailable("closing the database", err)
	}
	return nil
}

func (d *DB) enter() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("the store is closed: %w", errdefs.ErrUnavailable)
	}
	d.running.Add(1)
	return nil
}

// unavailable gives an error of the driver its class; an error of the context
// keeps its own.
func unavailable(doing string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, err, errdefs.ErrUnavailable)
}
