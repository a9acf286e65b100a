package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// model is the store as maps.
type model struct {
	providers map[controlplane.ProviderName]controlplane.CapacityProvider
	functions map[controlplane.FunctionName]controlplane.Function
	versions  map[versionKey]controlplane.Version
	aliases   map[versionKey]controlplane.Alias
	instances map[controlplane.InstanceID]controlplane.Instance
	layers    map[controlplane.LayerName]controlplane.Layer
	// layerVersions are by layer and number.
	layerVersions map[layerKey]controlplane.LayerVersion
	epoch         uint64
}

type layerKey struct {
	layer  controlplane.LayerName
	number int64
}

type versionKey struct {
	function  controlplane.FunctionName
	qualifier controlplane.Qualifier
}

func newModel() model {
	return model{
		map[controlplane.ProviderName]controlplane.CapacityProvider{},
		map[controlplane.FunctionName]controlplane.Function{},
		map[versionKey]controlplane.Version{},
		map[versionKey]controlplane.Alias{},
		map[controlplane.InstanceID]controlplane.Instance{},
		map[controlplane.LayerName]controlplane.Layer{},
		map[layerKey]controlplane.LayerVersion{},
		0,
	}
}

func (m model) clone() model {
	return model{
		maps.Clone(m.providers), maps.Clone(m.functions), maps.Clone(m.versions), maps.Clone(m.aliases),
		maps.Clone(m.instances), maps.Clone(m.layers), maps.Clone(m.layerVersions), m.epoch,
	}
}

// contents lists the model in the order the store promises.
func (m model) contents() contents {
	number := func(q controlplane.Qualifier) int {
		if q == controlplane.LatestPublished {
			return math.MaxInt
		}
		n, _ := strconv.Atoi(string(q))
		return n
	}
	byVersion := func(a, b controlplane.Version) int {
		return cmp.Or(cmp.Compare(a.Function, b.Function), cmp.Compare(number(a.Qualifier), number(b.Qualifier)))
	}
	byAlias := func(a, b controlplane.Alias) int {
		return cmp.Or(cmp.Compare(a.Function, b.Function), cmp.Compare(a.Name, b.Name))
	}
	byLayer := func(a, b controlplane.LayerVersion) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Number, b.Number))
	}
	return contents{
		Providers: sorted(m.providers), Functions: sorted(m.functions),
		Versions: slices.SortedFunc(maps.Values(m.versions), byVersion),
		Aliases:  slices.SortedFunc(maps.Values(m.aliases), byAlias),
		Layers:   sorted(m.layers), LayerVersions: slices.SortedFunc(maps.Values(m.layerVersions), byLayer),
		Instances: sorted(m.instances), Epoch: m.epoch,
	}
}

func sorted[K cmp.Ordered, V any](m map[K]V) (values []V) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		values = append(values, m[k])
	}
	return values
}

// op is one write, to the model and to the store.
type op struct {
	model func(*model)
	store func(store.Writer) error
}

var (
	names      = rapid.SampledFrom([]string{"a", "b", "c"})                                                //nolint:gochecknoglobals // a generator
	qualifiers = rapid.SampledFrom([]controlplane.Qualifier{"1", "2", "10", controlplane.LatestPublished}) //nolint:gochecknoglobals // a generator
)

func drawOp(t *rapid.T) op {
	name, q, n := names.Draw(t, "name"), qualifiers.Draw(t, "qualifier"), rapid.IntRange(0, 9).Draw(t, "value")
	provider := controlplane.CapacityProvider{Name: controlplane.ProviderName(name), MaxVCPU: n}
	function := controlplane.Function{Name: controlplane.FunctionName(name), NextNumber: n}
	version := controlplane.Version{Function: function.Name, Qualifier: q, Reason: strconv.Itoa(n)}
	instance := controlplane.Instance{ID: controlplane.InstanceID(name), Architecture: strconv.Itoa(n)}
	alias := controlplane.Alias{Function: function.Name, Name: controlplane.Qualifier("live" + name), Version: q, Weight: float64(n) / 10}
	layer := controlplane.Layer{Name: controlplane.LayerName(name), NextNumber: int64(n)}
	layerVersion := controlplane.LayerVersion{Layer: layer.Name, Number: int64(n), Description: string(q)}
	numbered := layerKey{layer.Name, int64(n)}
	key, aliasKey := versionKey{function.Name, q}, versionKey{function.Name, alias.Name}
	return rapid.SampledFrom([]op{
		{func(m *model) { m.providers[provider.Name] = provider }, func(w store.Writer) error { return w.PutProvider(provider) }},
		{func(m *model) { delete(m.providers, provider.Name) }, func(w store.Writer) error { return w.DeleteProvider(provider.Name) }},
		{func(m *model) { m.functions[function.Name] = function }, func(w store.Writer) error { return w.PutFunction(function) }},
		{func(m *model) {
			delete(m.functions, function.Name)
			maps.DeleteFunc(m.versions, func(k versionKey, _ controlplane.Version) bool { return k.function == function.Name })
			maps.DeleteFunc(m.aliases, func(k versionKey, _ controlplane.Alias) bool { return k.function == function.Name })
		}, func(w store.Writer) error { return w.DeleteFunction(function.Name) }},
		{func(m *model) { m.versions[key] = version }, func(w store.Writer) error { return w.PutVersion(version) }},
		{func(m *model) { delete(m.versions, key) }, func(w store.Writer) error { return w.DeleteVersion(function.Name, q) }},
		{func(m *model) { m.aliases[aliasKey] = alias }, func(w store.Writer) error { return w.PutAlias(alias) }},
		{func(m *model) { delete(m.aliases, aliasKey) }, func(w store.Writer) error { return w.DeleteAlias(function.Name, alias.Name) }},
		{func(m *model) { m.instances[instance.ID] = instance }, func(w store.Writer) error { return w.PutInstance(instance) }},
		{func(m *model) { delete(m.instances, instance.ID) }, func(w store.Writer) error { return w.DeleteInstance(instance.ID) }},
		{func(m *model) { m.layers[layer.Name] = layer }, func(w store.Writer) error { return w.PutLayer(layer) }},
		{func(m *model) { m.layerVersions[numbered] = layerVersion }, func(w store.Writer) error { return w.PutLayerVersion(layerVersion) }},
		{func(m *model) { delete(m.layerVersions, numbered) }, func(w store.Writer) error { return w.DeleteLayerVersion(layer.Name, int64(n)) }},
		{func(m *model) { m.epoch++ }, func(w store.Writer) error {
			_, err := w.NextEpoch()
			return err
		}},
	}).Draw(t, "operation")
}

// testModel makes the same random history in the store and in maps: updates of
// several writes, some of which fail at the end, and restarts.
func testModel(t *testing.T, open Open) {
	root := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(root, "model") //nolint:usetesting // many in one test
		if err != nil {
			rt.Fatal(err)
		}
		db := open(t, dir)
		defer func() {
			if err := db.Close(); err != nil {
				rt.Errorf("closing: %v", err)
			}
		}()
		want := newModel()
		for range rapid.IntRange(1, 12).Draw(rt, "updates") {
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 {
				if err := db.Close(); err != nil {
					rt.Fatal(err)
				}
				db = open(t, dir)
			}
			want = updateBoth(rt, t, db, want)
			if err := agree(t, db, want); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

func updateBoth(rt *rapid.T, t *testing.T, db store.DB, before model) model {
	ops := rapid.SliceOfN(rapid.Custom(drawOp), 0, 8).Draw(rt, "operations")
	fails := rapid.IntRange(0, 3).Draw(rt, "fails") == 0
	after := before.clone()
	for _, o := range ops {
		o.model(&after)
	}
	err := db.Update(t.Context(), func(w store.Writer) error {
		for _, o := range ops {
			if err := o.store(w); err != nil {
				return err
			}
		}
		got, err := read(w)
		if diff := gocmp.Diff(after.contents(), got); diff != "" || err != nil {
			return fmt.Errorf("the update does not see its own writes: %v\n%s", err, diff) //nolint:errorlint // err may be nil
		}
		if fails {
			return errRefused
		}
		return nil
	})
	switch {
	case fails && errors.Is(err, errRefused):
		return before
	case err != nil:
		rt.Fatal(err)
	}
	return after
}

func agree(t *testing.T, db store.DB, want model) error {
	return db.View(t.Context(), func(r store.Reader) error {
		got, err := read(r)
		if diff := gocmp.Diff(want.contents(), got); diff != "" {
			return fmt.Errorf("the store differs from the model (-model +store):\n%s", diff)
		}
		return err
	})
}
