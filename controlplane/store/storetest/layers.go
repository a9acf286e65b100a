package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// layersEqual reads the layer and the version of example one by one.
func layersEqual(t *testing.T, r store.Reader, want contents) error {
	t.Helper()
	l, err1 := r.Layer(want.Layers[0].Name)
	if diff := cmp.Diff(want.Layers[0], l); diff != "" {
		t.Errorf("layer differs (-put +read):\n%s", diff)
	}
	v, err2 := r.LayerVersion(want.LayerVersions[0].Layer, want.LayerVersions[0].Number)
	if diff := cmp.Diff(want.LayerVersions[0], v); diff != "" {
		t.Errorf("layer version differs (-put +read):\n%s", diff)
	}
	return errors.Join(err1, err2)
}

func testLayers(t *testing.T, open Open) {
	db := fresh(t, open)
	version := func(layer controlplane.LayerName, n int64, description string) controlplane.LayerVersion {
		return controlplane.LayerVersion{Layer: layer, Number: n, Description: description}
	}
	update(t, db, func(w store.Writer) error {
		return errors.Join(
			w.PutLayer(controlplane.Layer{Name: "b", NextNumber: 1}), w.PutLayer(controlplane.Layer{Name: "a"}),
			w.PutLayerVersion(version("b", 10, "")), w.PutLayerVersion(version("b", 9, "")),
			w.PutLayerVersion(version("a", 1<<40, "")), w.PutLayerVersion(version("a", 2, "")), w.PutLayerVersion(version("a", 3, "")))
	})
	update(t, db, func(w store.Writer) error {
		return errors.Join(w.PutLayer(controlplane.Layer{Name: "b", NextNumber: 11}), w.PutLayerVersion(version("a", 2, "new")),
			w.DeleteLayerVersion("a", 3), w.DeleteLayerVersion("b", 3))
	})
	text := func(v controlplane.LayerVersion) string {
		return fmt.Sprintf("%s:%d%s", v.Layer, v.Number, v.Description)
	}
	c := snapshot(t, db)
	equal(t, "layer versions", []string{"a:2new", "a:1099511627776", "b:9", "b:10"}, c.LayerVersions, text)
	equal(t, "layers", []string{"a0", "b11"}, c.Layers, func(l controlplane.Layer) string { return fmt.Sprint(l.Name, l.NextNumber) })
	view(t, db, func(r store.Reader) error {
		versions, err := r.LayerVersions("b")
		equal(t, "versions of b", []string{"b:9", "b:10"}, versions, text)
		none, err2 := r.LayerVersions("none")
		if len(none) != 0 {
			t.Errorf("a layer that is not there has %d versions", len(none))
		}
		return errors.Join(err, err2)
	})
}
