package scaling_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/scaling"
)

func version(edit func(*controlplane.Version)) controlplane.Version {
	v := controlplane.Version{Function: "f", Qualifier: "1", Revision: "r2", State: controlplane.VersionActive}
	if edit != nil {
		edit(&v)
	}
	return v
}

// want is a target without what does not matter here.
type want struct {
	Revision controlplane.Revision
	Count    int
	Keep     bool
	Reason   controlplane.Reason
}

func TestDecide(t *testing.T) {
	t.Parallel()
	bounds := func(lo, hi int) func(*controlplane.Version) {
		return func(v *controlplane.Version) { v.Scaling = &controlplane.ScalingConfig{Min: lo, Max: hi} }
	}
	for _, c := range []struct {
		name     string
		version  controlplane.Version
		provider controlplane.ProviderState
		want     []want
	}{
		{"three unless told otherwise", version(nil), "", []want{{"r2", 3, false, controlplane.ReasonMinimum}}},
		{"the minimum asked for", version(bounds(5, 0)), "", []want{{"r2", 5, false, controlplane.ReasonMinimum}}},
		{"never above the maximum", version(bounds(5, 2)), "", []want{{"r2", 2, false, controlplane.ReasonMinimum}}},
		{"zero and zero deactivates", version(bounds(0, 0)), "", []want{{"r2", 0, false, controlplane.ReasonDeactivated}}},
		{"a minimum of zero", version(bounds(0, 4)), "", []want{{"r2", 0, false, controlplane.ReasonMinimum}}},
		{"deleted", version(func(v *controlplane.Version) { v.State = controlplane.VersionDeleting }), "", []want{{"r2", 0, false, controlplane.ReasonGone}}},
		{"its provider deleted", version(nil), controlplane.ProviderDeleting, []want{{"r2", 0, false, controlplane.ReasonProviderDelete}}},
		{"failed by itself", version(func(v *controlplane.Version) {
			v.State, v.ReasonCode = controlplane.VersionFailed, "FunctionError.RuntimeInitError"
		}), "", []want{{"r2", 0, false, controlplane.ReasonGone}}},
		{"failed for lack of room keeps trying", version(func(v *controlplane.Version) {
			v.State, v.ReasonCode = controlplane.VersionFailed, "InsufficientCapacity"
		}), "", []want{{"r2", 3, false, controlplane.ReasonMinimum}}},
		{"published again: the new one beside the one that serves", version(func(v *controlplane.Version) {
			v.Update, v.Serving = controlplane.UpdateInProgress, &controlplane.Publication{Revision: "r1"}
		}), "", []want{{"r2", 3, false, controlplane.ReasonMinimum}, {"r1", 3, true, controlplane.ReasonMinimum}}},
		{"published again and failed: the old one serves on", version(func(v *controlplane.Version) {
			v.Update, v.Serving = controlplane.UpdateFailed, &controlplane.Publication{Revision: "r1"}
		}), "", []want{{"r2", 0, false, controlplane.ReasonSurplus}, {"r1", 3, true, controlplane.ReasonMinimum}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := controlplane.Snapshot{
				Provider: controlplane.CapacityProvider{State: c.provider}, Versions: []controlplane.Version{c.version},
			}
			var got []want
			for _, x := range scaling.Decide(s, time.Time{}) {
				got = append(got, want{x.Revision, x.Count, x.Keep, x.Reason})
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("targets (-want +got):\n%s", d)
			}
		})
	}
}
