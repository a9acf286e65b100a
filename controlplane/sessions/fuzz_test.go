package sessions

import (
	"math"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/hearth-compute/hearth/controlplane"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

func seed(f *testing.F, messages ...proto.Message) {
	f.Helper()
	for _, m := range messages {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// FuzzReport hears what a hostile agent might report: refused as InvalidArgument
// or within what can be, and heard a second time it is no news.
func FuzzReport(f *testing.F) {
	seed(f,
		&agentv1.Report{},
		&agentv1.Report{Environments: []*agentv1.EnvironmentReport{nil}},
		&agentv1.Report{Environments: []*agentv1.EnvironmentReport{{EnvironmentId: "e-1", InFlight: -1, UsedMemoryBytes: math.MinInt64, State: -1}}},
		&agentv1.Report{Epoch: math.MaxUint64, Host: &agentv1.HostHeat{InFlight: math.MaxInt64, TotalDiskBytes: -1}, Refused: "no"},
	)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m agentv1.Report
		if proto.Unmarshal(b, &m) != nil {
			t.Skip()
		}
		if err := checkReport(&m); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("got %v", err)
			}
			return
		}
		var h Heard
		if !applyReport(&h, &m) || applyReport(&h, &m) {
			t.Fatal("the first report is news, the same again is not")
		}
		withinBounds(t, h)
	})
}

// withinBounds checks that everything heard can be.
func withinBounds(t *testing.T, h Heard) {
	t.Helper()
	amounts := []int64{int64(h.Host.CPU), int64(h.Host.Memory), int64(h.Host.DiskUsed), int64(h.Host.DiskTotal), int64(h.Host.InFlight)}
	for _, e := range h.Environments {
		amounts = append(amounts, int64(e.Failures), int64(e.MaxConcurrency), int64(e.Heat.InFlight), int64(e.Heat.CPU), int64(e.Heat.Memory), int64(e.Heat.Tmp))
		if len(e.Reason) > maxReason || len(e.ReasonCode)+len(e.Sandbox)+len(e.Revision) > 3*maxText || e.MaxConcurrency > maxSlots {
			t.Fatalf("heard %+v", e)
		}
	}
	for _, n := range amounts {
		if n < 0 || n > maxAmount {
			t.Fatalf("heard %+v", h)
		}
	}
}

// FuzzRegister hears how a hostile agent might register. What it says it runs
// can be sent back to it, and comes again as the same.
func FuzzRegister(f *testing.F) {
	seed(f,
		&agentv1.Register{},
		&agentv1.Register{Allocatable: &agentv1.Resources{MilliCpu: math.MinInt64, MemoryBytes: math.MaxInt64}, Zone: "z"},
		&agentv1.Register{Accepted: &agentv1.DesiredSet{Environments: []*agentv1.DesiredEnvironment{{Assignment: &agentv1.Assignment{
			EnvironmentId: "e-1", Limits: &agentv1.Resources{MilliCpu: 1, MemoryBytes: 1 << 40}, MaxConcurrency: -1, OnDemand: true,
			EphemeralStorageBytes: -1, ImageConfig: &agentv1.ImageConfig{Command: []string{"x"}},
		}}}}},
	)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m agentv1.Register
		if proto.Unmarshal(b, &m) != nil {
			t.Skip()
		}
		if err := checkRegister(&m); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("got %v", err)
			}
			return
		}
		h := fromRegister(&m)
		if h.Allocatable.CPU < 0 || h.Allocatable.Memory < 0 {
			t.Fatalf("heard %+v", h)
		}
		meant(t, h.Accepted)
		if _, err := proto.Marshal(toDesiredSet(h.Accepted)); err != nil {
			t.Fatal(err)
		}
		once := fromDesiredSet(toDesiredSet(h.Accepted))
		if d := cmp.Diff(once, fromDesiredSet(toDesiredSet(once))); d != "" {
			t.Fatal(d)
		}
	})
}

// meant checks that a set that was taken over can be one of ours.
func meant(t *testing.T, set controlplane.DesiredSet) {
	t.Helper()
	ids := map[controlplane.EnvironmentID]bool{}
	for _, p := range set.Environments {
		a := p.Assignment
		if ids[a.Environment] || !validIdentifier(string(a.Environment)) || a.Config.MemoryMB < 0 || a.Config.TimeoutS < 0 ||
			a.Config.MaxConcurrency < 0 || math.IsNaN(a.Config.GiBPerVCPU) || math.IsInf(a.Config.GiBPerVCPU, 0) {
			t.Fatalf("heard %+v", a)
		}
		ids[a.Environment] = true
	}
}
