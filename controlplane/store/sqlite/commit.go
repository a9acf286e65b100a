package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"github.com/hearth-compute/hearth/controlplane/store"
)

// maxBatch bounds how long the first Update of a batch waits for the others'
// functions; 256 of them take about as long as one fsync.
const maxBatch = 256

// update is one call of Update. Fields below ready are written by the leader
// before it closes ready.
type update struct {
	ctx   context.Context //nolint:containedctx // it is the caller's, for as long as it waits
	fn    func(store.Writer) error
	ready chan struct{} // closed: answered, or it is this caller's turn to lead

	answered bool
	err      error
	panicked any
}

// queue holds the updates that wait. Its first member leads them once the
// batch before is answered.
type queue struct {
	mu      sync.Mutex
	waiting []*update
	leading bool // a batch is being committed, or its leader was told to
}

// join reports whether the caller must lead now.
func (q *queue) join(u *update) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, u)
	if q.leading {
		return false
	}
	q.leading = true
	return true
}

// take removes the next batch.
func (q *queue) take() []*update {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), maxBatch)
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return batch
}

// pass tells the next leader, if anyone waits.
func (q *queue) pass() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.waiting = nil
		q.leading = false
		return
	}
	close(q.waiting[0].ready)
}

// lead commits the batch that waits, whose first is the caller's own, answers
// it and hands over.
func (d *DB) lead(ctx context.Context) {
	batch := d.queue.take()
	// The commit belongs to all of them: none may cancel it.
	if err := d.commit(context.WithoutCancel(ctx), batch); err != nil {
		for _, u := range batch {
			if u.err == nil && u.panicked == nil {
				u.err = err
			}
		}
	}
	for i, u := range batch {
		u.answered = true
		if i > 0 {
			close(u.ready)
		}
	}
	d.queue.pass()
}

// commit runs the batch in one transaction. Its error is that of the
// transaction: then nothing was written.
func (d *DB) commit(ctx context.Context, batch []*update) error {
	tx, err := d.writer.BeginTx(ctx, nil)
	if err != nil {
		return unavailable("beginning a transaction", err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing, else the error below says more
	for _, u := range batch {
		if u.ctx.Err() != nil {
			u.err = fmt.Errorf("waiting to update the store: %w", context.Cause(u.ctx))
			continue
		}
		if err := runInSavepoint(ctx, tx, u); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return unavailable("committing", err)
	}
	return nil
}

// runInSavepoint runs one update's function and undoes it if it failed. Its
// error means that the transaction is lost.
func runInSavepoint(ctx context.Context, tx *sql.Tx, u *update) error {
	if _, err := tx.ExecContext(ctx, `SAVEPOINT one`); err != nil {
		return unavailable("setting a savepoint", err)
	}
	w := &writer{reader: reader{ctx: ctx, tx: tx}}
	u.err, u.panicked = call(u.fn, w)
	w.over = true
	if u.err == nil {
		u.err = w.failed // also when fn did not pass it on
	}
	if u.err != nil || u.panicked != nil {
		if _, err := tx.ExecContext(ctx, `ROLLBACK TO SAVEPOINT one`); err != nil {
			return unavailable("rolling back to a savepoint", err)
		}
	}
	if _, err := tx.ExecContext(ctx, `RELEASE SAVEPOINT one`); err != nil {
		return unavailable("releasing a savepoint", err)
	}
	return nil
}

// call catches a panic: it belongs to the caller of Update, who may not be the
// one that leads.
func call(fn func(store.Writer) error, w store.Writer) (err error, panicked any) { //nolint:staticcheck // the panic is not an error
	defer func() { panicked = recover() }()
	return fn(w), nil
}
