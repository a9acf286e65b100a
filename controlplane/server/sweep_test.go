package server

import (
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

func TestCodeOfEveryVersionIsUsed(t *testing.T) {
	t.Parallel()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hearth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	code := func(sha string) controlplane.Code { return controlplane.Code{SHA256: sha} }
	serving := func(sha string) *controlplane.Publication { return &controlplane.Publication{Code: code(sha)} }
	attached := func(sha string) []controlplane.AttachedLayer { return []controlplane.AttachedLayer{{Code: code(sha)}} }
	err = db.Update(t.Context(), func(w store.Writer) error {
		f := controlplane.Function{Name: "f", Latest: controlplane.Version{Code: code("latest"), Serving: serving("latest before")}}
		f.Latest.Config.Layers = attached("layer of latest")
		f.Latest.Serving.Config.Layers = attached("layer of latest before")
		if err := errors.Join(w.PutFunction(f), w.PutLayerVersion(controlplane.LayerVersion{Layer: "l", Number: 1, Code: code("layer")})); err != nil {
			return err
		}
		if err := w.PutVersion(controlplane.Version{Function: "f", Qualifier: "1", Code: code("one")}); err != nil {
			return err
		}
		return w.PutVersion(controlplane.Version{
			Function: "f", Qualifier: controlplane.LatestPublished, Code: code("published"), Serving: serving("published before"),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{db: db, log: slog.New(slog.DiscardHandler)}
	used, err := s.usedCode(t.Context())
	want := []string{"latest", "latest before", "layer", "layer of latest", "layer of latest before", "one", "published", "published before"}
	if got := slices.Sorted(maps.Keys(used)); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
