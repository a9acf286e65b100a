package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

func TestSmoke(t *testing.T) {
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "a b?c%.db"))
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(t.Context(), func(w store.Writer) error {
		for i := range 3 {
			if err := w.PutVersion(controlplane.Version{Function: "f", Qualifier: controlplane.Number(9 + i)}); err != nil {
				return err
			}
		}
		e, err := w.NextEpoch()
		t.Log(e, err)
		e, err = w.NextEpoch()
		t.Log(e, err)
		return w.PutVersion(controlplane.Version{Function: "f", Qualifier: controlplane.LatestPublished})
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(t.Context(), func(r store.Reader) error {
		vs, err := r.Versions("f")
		for _, v := range vs {
			t.Log(v.Qualifier)
		}
		v, err2 := r.Version("f", "10")
		t.Log(v.Qualifier, err2)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	m, _ := filepath.Glob(filepath.Join(filepath.Dir("/"), "nope"))
	_ = m
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
