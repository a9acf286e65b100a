package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// The schema, one numbered file for each step. A file that was released is
// never edited: the next step changes what it made.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema to the newest step. Every step and the note that it
// was taken are one transaction. A database of a newer program is refused.
func migrate(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_migrations (
		number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL)`)
	if err != nil {
		return unavailable("creating the table of migrations", err)
	}
	var done int
	row := db.QueryRowContext(ctx, `SELECT COALESCE(MAX(number), 0) FROM schema_migrations`)
	if err := row.Scan(&done); err != nil {
		return unavailable("reading the table of migrations", err)
	}
	names, err := migrationNames()
	if err != nil {
		return err
	}
	if done > len(names) {
		return fmt.Errorf("schema is at step %d and this program knows %d: it was written by a newer one: %w",
			done, len(names), errdefs.ErrFailedPrecondition)
	}
	for i, name := range names[done:] {
		if err := step(ctx, db, done+i+1, name); err != nil {
			return unavailable("migration "+name, err)
		}
	}
	return nil
}

// migrationNames returns the files in order and checks that none is missing.
func migrationNames() ([]string, error) {
	entries, err := migrations.ReadDir("migrations")
	if err != nil {
		return nil, fmt.Errorf("reading embedded migrations: %w: %w", err, errdefs.ErrInternal)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	for i, name := range names {
		number, _, _ := strings.Cut(name, "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 {
			return nil, fmt.Errorf("embedded migration %s is not number %d: %w", name, i+1, errdefs.ErrInternal)
		}
	}
	return names, nil
}

func step(ctx context.Context, db *sql.DB, number int, name string) error {
	text, err := migrations.ReadFile("migrations/" + name)
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing, else the error below says more
	if _, err := tx.ExecContext(ctx, string(text)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO schema_migrations (number, name) VALUES ($1, $2)`, number, name)
	if err != nil {
		return err
	}
	return tx.Commit()
}
