package sqlite

import (
	"fmt"

	"github.com/hearth-compute/hearth/controlplane"
)

// Layer implements store.Reader.
func (r *reader) Layer(name controlplane.LayerName) (controlplane.Layer, error) {
	return one[controlplane.Layer](r, "layer "+string(name), `SELECT body FROM layers WHERE name = $1`, name)
}

// Layers implements store.Reader.
func (r *reader) Layers() ([]controlplane.Layer, error) {
	return list[controlplane.Layer](r, "layers", `SELECT body FROM layers ORDER BY name`)
}

// LayerVersion implements store.Reader.
func (r *reader) LayerVersion(layer controlplane.LayerName, number int64) (controlplane.LayerVersion, error) {
	return one[controlplane.LayerVersion](r, fmt.Sprintf("layer version %s:%d", layer, number),
		`SELECT body FROM layer_versions WHERE layer = $1 AND number = $2`, layer, number)
}

// LayerVersions implements store.Reader.
func (r *reader) LayerVersions(layer controlplane.LayerName) ([]controlplane.LayerVersion, error) {
	if layer == "" {
		return list[controlplane.LayerVersion](r, "layer versions",
			`SELECT body FROM layer_versions ORDER BY layer, number`)
	}
	return list[controlplane.LayerVersion](r, "versions of layer "+string(layer),
		`SELECT body FROM layer_versions WHERE layer = $1 ORDER BY number`, layer)
}

// PutLayer implements store.Writer.
func (w *writer) PutLayer(l controlplane.Layer) error {
	return w.put("layer "+string(l.Name), l, `INSERT INTO layers (name, body) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET body = excluded.body`, l.Name)
}

// PutLayerVersion implements store.Writer.
func (w *writer) PutLayerVersion(v controlplane.LayerVersion) error {
	return w.put(fmt.Sprintf("layer version %s:%d", v.Layer, v.Number), v, `INSERT INTO layer_versions (layer, number, body)
		VALUES ($1, $2, $3) ON CONFLICT (layer, number) DO UPDATE SET body = excluded.body`, v.Layer, v.Number)
}

// DeleteLayerVersion implements store.Writer.
func (w *writer) DeleteLayerVersion(layer controlplane.LayerName, number int64) error {
	return w.exec(fmt.Sprintf("layer version %s:%d", layer, number),
		`DELETE FROM layer_versions WHERE layer = $1 AND number = $2`, layer, number)
}
