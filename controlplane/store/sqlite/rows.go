package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// reader implements store.Reader inside one transaction.
type reader struct {
	ctx context.Context //nolint:containedctx // of the call whose function has the reader
	tx  *sql.Tx
}

// Provider implements store.Reader.
func (r *reader) Provider(name controlplane.ProviderName) (controlplane.CapacityProvider, error) {
	return one[controlplane.CapacityProvider](r, "capacity provider "+string(name),
		`SELECT body FROM providers WHERE name = $1`, name)
}

// Providers implements store.Reader.
func (r *reader) Providers() ([]controlplane.CapacityProvider, error) {
	return list[controlplane.CapacityProvider](r, "capacity providers", `SELECT body FROM providers ORDER BY name`)
}

// Function implements store.Reader.
func (r *reader) Function(name controlplane.FunctionName) (controlplane.Function, error) {
	return one[controlplane.Function](r, "function "+string(name),
		`SELECT body FROM functions WHERE name = $1`, name)
}

// Functions implements store.Reader.
func (r *reader) Functions() ([]controlplane.Function, error) {
	return list[controlplane.Function](r, "functions", `SELECT body FROM functions ORDER BY name`)
}

// Version implements store.Reader.
func (r *reader) Version(f controlplane.FunctionName, q controlplane.Qualifier) (controlplane.Version, error) {
	return one[controlplane.Version](r, fmt.Sprintf("version %s:%s", f, q),
		`SELECT body FROM versions WHERE function = $1 AND qualifier = $2`, f, q)
}

// Versions implements store.Reader.
func (r *reader) Versions(f controlplane.FunctionName) ([]controlplane.Version, error) {
	if f == "" {
		return list[controlplane.Version](r, "versions",
			`SELECT body FROM versions ORDER BY function, position`)
	}
	return list[controlplane.Version](r, "versions of "+string(f),
		`SELECT body FROM versions WHERE function = $1 ORDER BY position`, f)
}

// Alias implements store.Reader.
func (r *reader) Alias(f controlplane.FunctionName, name controlplane.Qualifier) (controlplane.Alias, error) {
	return one[controlplane.Alias](r, fmt.Sprintf("alias %s:%s", f, name),
		`SELECT body FROM aliases WHERE function = $1 AND name = $2`, f, name)
}

// Aliases implements store.Reader.
func (r *reader) Aliases(f controlplane.FunctionName) ([]controlplane.Alias, error) {
	if f == "" {
		return list[controlplane.Alias](r, "aliases", `SELECT body FROM aliases ORDER BY function, name`)
	}
	return list[controlplane.Alias](r, "aliases of "+string(f),
		`SELECT body FROM aliases WHERE function = $1 ORDER BY name`, f)
}

// Instance implements store.Reader.
func (r *reader) Instance(id controlplane.InstanceID) (controlplane.Instance, error) {
	return one[controlplane.Instance](r, "instance "+string(id), `SELECT body FROM instances WHERE id = $1`, id)
}

// Instances implements store.Reader.
func (r *reader) Instances() ([]controlplane.Instance, error) {
	return list[controlplane.Instance](r, "instances", `SELECT body FROM instances ORDER BY id`)
}

// JoinToken implements store.Reader.
func (r *reader) JoinToken(id string) (store.JoinToken, error) {
	return one[store.JoinToken](r, "join token "+id, `SELECT body FROM join_tokens WHERE id = $1`, id)
}

// JoinTokens implements store.Reader.
func (r *reader) JoinTokens() ([]store.JoinToken, error) {
	return list[store.JoinToken](r, "join tokens", `SELECT body FROM join_tokens ORDER BY id`)
}

// Epoch implements store.Reader.
func (r *reader) Epoch() (uint64, error) {
	var epoch int64
	row := r.tx.QueryRowContext(r.ctx, `SELECT COALESCE(MAX(epoch), 0) FROM leadership`)
	if err := row.Scan(&epoch); err != nil {
		return 0, unavailable("reading the epoch", err)
	}
	return uint64(epoch), nil //nolint:gosec // counted up from 0
}

// writer implements store.Writer inside one savepoint.
type writer struct {
	reader
	failed error // of the first write that failed
	over   bool  // the function returned; the transaction now belongs to others
}

// PutProvider implements store.Writer.
func (w *writer) PutProvider(p controlplane.CapacityProvider) error {
	return w.put("capacity provider "+string(p.Name), p, `INSERT INTO providers (name, body) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET body = excluded.body`, p.Name)
}

// DeleteProvider implements store.Writer.
func (w *writer) DeleteProvider(name controlplane.ProviderName) error {
	return w.exec("capacity provider "+string(name), `DELETE FROM providers WHERE name = $1`, name)
}

// PutFunction implements store.Writer.
func (w *writer) PutFunction(f controlplane.Function) error {
	return w.put("function "+string(f.Name), f, `INSERT INTO functions (name, provider, body) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET provider = excluded.provider, body = excluded.body`, f.Name, f.Provider)
}

// DeleteFunction implements store.Writer.
func (w *writer) DeleteFunction(name controlplane.FunctionName) error {
	err := w.exec("versions of "+string(name), `DELETE FROM versions WHERE function = $1`, name)
	if err != nil {
		return err
	}
	if err := w.exec("aliases of "+string(name), `DELETE FROM aliases WHERE function = $1`, name); err != nil {
		return err
	}
	return w.exec("function "+string(name), `DELETE FROM functions WHERE name = $1`, name)
}

// PutVersion implements store.Writer. $LATEST is refused with InvalidArgument:
// it is part of its function.
func (w *writer) PutVersion(v controlplane.Version) error {
	name := fmt.Sprintf("version %s:%s", v.Function, v.Qualifier)
	at, err := position(v.Qualifier)
	if err != nil {
		return w.fail(fmt.Errorf("writing %s: %w", name, err))
	}
	return w.put(name, v, `INSERT INTO versions (function, qualifier, position, provider, body)
		VALUES ($1, $2, $3, $4, $5) ON CONFLICT (function, qualifier)
		DO UPDATE SET provider = excluded.provider, body = excluded.body`, v.Function, v.Qualifier, at, v.Provider)
}

// DeleteVersion implements store.Writer.
func (w *writer) DeleteVersion(f controlplane.FunctionName, q controlplane.Qualifier) error {
	return w.exec(fmt.Sprintf("version %s:%s", f, q),
		`DELETE FROM versions WHERE function = $1 AND qualifier = $2`, f, q)
}

// PutAlias implements store.Writer.
func (w *writer) PutAlias(a controlplane.Alias) error {
	return w.put(fmt.Sprintf("alias %s:%s", a.Function, a.Name), a, `INSERT INTO aliases (function, name, body)
		VALUES ($1, $2, $3) ON CONFLICT (function, name) DO UPDATE SET body = excluded.body`, a.Function, a.Name)
}

// DeleteAlias implements store.Writer.
func (w *writer) DeleteAlias(f controlplane.FunctionName, name controlplane.Qualifier) error {
	return w.exec(fmt.Sprintf("alias %s:%s", f, name), `DELETE FROM aliases WHERE function = $1 AND name = $2`, f, name)
}

// PutInstance implements store.Writer.
func (w *writer) PutInstance(i controlplane.Instance) error {
	return w.put("instance "+string(i.ID), i, `INSERT INTO instances (id, provider, body) VALUES ($1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET provider = excluded.provider, body = excluded.body`, i.ID, i.Provider)
}

// DeleteInstance implements store.Writer.
func (w *writer) DeleteInstance(id controlplane.InstanceID) error {
	return w.exec("instance "+string(id), `DELETE FROM instances WHERE id = $1`, id)
}

// PutJoinToken implements store.Writer.
func (w *writer) PutJoinToken(t store.JoinToken) error {
	return w.put("join token "+t.ID, t, `INSERT INTO join_tokens (id, body) VALUES ($1, $2)
		ON CONFLICT (id) DO UPDATE SET body = excluded.body`, t.ID)
}

// DeleteJoinToken implements store.Writer.
func (w *writer) DeleteJoinToken(id string) error {
	return w.exec("join token "+id, `DELETE FROM join_tokens WHERE id = $1`, id)
}

// NextEpoch implements store.Writer.
func (w *writer) NextEpoch() (uint64, error) {
	err := w.exec("the epoch", `INSERT INTO leadership (id, epoch) VALUES (1, 1)
		ON CONFLICT (id) DO UPDATE SET epoch = leadership.epoch + 1`)
	if err != nil {
		return 0, err
	}
	return w.Epoch()
}

// put writes one row: its keys, then the value as its body.
func (w *writer) put(name string, value any, statement string, keys ...any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return w.fail(fmt.Errorf("writing %s: %w: %w", name, err, errdefs.ErrInvalidArgument))
	}
	return w.exec(name, statement, append(keys, string(body))...)
}

func (w *writer) exec(name, statement string, args ...any) error {
	if w.over {
		return fmt.Errorf("writing %s: the Update is over: %w", name, errdefs.ErrFailedPrecondition)
	}
	if _, err := w.tx.ExecContext(w.ctx, statement, args...); err != nil {
		return w.fail(unavailable("writing "+name, err))
	}
	return nil
}

func (w *writer) fail(err error) error {
	if w.failed == nil {
		w.failed = err
	}
	return err
}

// position orders the versions of a function.
func position(q controlplane.Qualifier) (int64, error) {
	if q == controlplane.LatestPublished {
		return math.MaxInt32, nil
	}
	n, err := strconv.ParseInt(string(q), 10, 32)
	if err != nil || n < 1 || n == math.MaxInt32 || controlplane.Number(int(n)) != q {
		return 0, fmt.Errorf("%q names no version: %w", q, errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// one reads the only row of a query.
func one[T any](r *reader, name, query string, args ...any) (value T, err error) {
	var body string
	switch err := r.tx.QueryRowContext(r.ctx, query, args...).Scan(&body); {
	case errors.Is(err, sql.ErrNoRows):
		return value, fmt.Errorf("%s: %w", name, errdefs.ErrNotFound)
	case err != nil:
		return value, unavailable("reading "+name, err)
	}
	return decode[T](name, body)
}

// list reads every row of a query.
func list[T any](r *reader, name, query string, args ...any) (values []T, err error) {
	rows, err := r.tx.QueryContext(r.ctx, query, args...)
	if err != nil {
		return nil, unavailable("reading "+name, err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err says it
	for rows.Next() {
		var body string
		if err := rows.Scan(&body); err != nil {
			return nil, unavailable("reading "+name, err)
		}
		value, err := decode[T](name, body)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	if err := rows.Err(); err != nil {
		return nil, unavailable("reading "+name, err)
	}
	return values, nil
}

func decode[T any](name, body string) (value T, err error) {
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		return value, fmt.Errorf("reading %s: %w: %w", name, err, errdefs.ErrInternal)
	}
	return value, nil
}
