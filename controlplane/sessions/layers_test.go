package sessions

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane"
)

func TestLayersGoToAgentsInTheirOrderAndMayBeDownloaded(t *testing.T) {
	t.Parallel()
	layer := func(sha string, size controlplane.Bytes) controlplane.AttachedLayer {
		return controlplane.AttachedLayer{Code: controlplane.Code{SHA256: sha, Size: size}}
	}
	a := controlplane.Assignment{Environment: "e-1", Publication: controlplane.Publication{
		Code:   controlplane.Code{SHA256: "code", Size: 1},
		Config: controlplane.Config{Layers: []controlplane.AttachedLayer{layer("two", 2), layer("one", 3)}},
	}}
	set := toDesiredSet(controlplane.DesiredSet{Environments: []controlplane.Placement{{Assignment: a}}})
	if got := slices.Sorted(maps.Keys(archivesOf(set))); !slices.Equal(got, []string{"code", "one", "two"}) {
		t.Errorf("archives %v", got)
	}
	back := fromDesiredSet(set).Environments[0].Assignment
	if diff := cmp.Diff(a.Config.Layers, back.Config.Layers); diff != "" {
		t.Errorf("layers of an agent that comes back (-sent +read):\n%s", diff)
	}
}
