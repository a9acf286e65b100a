package operator

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/controlplane"
	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

// instances returns the instances of a provider, or of all if it is empty, in
// the order the proto promises.
func instances(snapshots []controlplane.Snapshot, provider controlplane.ProviderName) []*operatorv1.Instance {
	var all []*operatorv1.Instance
	for _, snap := range snapshots {
		if provider != "" && provider != snap.Provider.Name {
			continue
		}
		placed := map[controlplane.InstanceID]placement{}
		for _, e := range snap.Environments {
			p := placed[e.Instance]
			placed[e.Instance] = placement{p.count + 1, p.size.Plus(e.Size)}
		}
		for _, i := range snap.Instances {
			all = append(all, instance(i, placed[i.ID]))
		}
	}
	slices.SortFunc(all, func(a, b *operatorv1.Instance) int {
		return cmp.Or(
			cmp.Compare(a.GetCapacityProvider(), b.GetCapacityProvider()),
			cmp.Compare(a.GetZone(), b.GetZone()),
			cmp.Compare(a.GetId(), b.GetId()),
		)
	})
	return all
}

// placement is what was placed on one instance.
type placement struct {
	count int
	size  controlplane.Resources
}

func instance(i controlplane.Instance, placed placement) *operatorv1.Instance {
	out := &operatorv1.Instance{
		Id:                     string(i.ID),
		CapacityProvider:       string(i.Provider),
		Zone:                   string(i.Zone),
		State:                  instanceState(i),
		AllocatableMilliCpu:    int64(i.Size.CPU),
		AllocatableMemoryBytes: int64(i.Size.Memory),
		AllocatedMilliCpu:      int64(placed.size.CPU),
		AllocatedMemoryBytes:   int64(placed.size.Memory),
		Environments:           toInt32(placed.count),
		CreatedAt:              timestamp(i.CreatedAt),
	}
	if o := i.Observed; o != nil {
		out.AllocatableMilliCpu = int64(o.Allocatable.CPU)
		out.AllocatableMemoryBytes = int64(o.Allocatable.Memory)
		out.UsedMilliCpu = int64(o.Heat.CPU)
		out.UsedMemoryBytes = int64(o.Heat.Memory)
		out.UsedDiskBytes = int64(o.Heat.DiskUsed)
		out.TotalDiskBytes = int64(o.Heat.DiskTotal)
		out.InFlight = int64(o.Heat.InFlight)
		out.HeardAt = timestamp(o.HeardAt)
		out.AgentVersion = o.AgentVersion
		out.Hostname = o.Hostname
	}
	return out
}

// instanceState joins what was decided about an instance with what is heard of
// it.
func instanceState(i controlplane.Instance) operatorv1.InstanceState {
	connected := i.Observed != nil && i.Observed.Connected
	switch i.State {
	case controlplane.InstanceTerminating:
		return operatorv1.InstanceState_INSTANCE_STATE_TERMINATING
	case controlplane.InstanceDraining:
		return operatorv1.InstanceState_INSTANCE_STATE_DRAINING
	case controlplane.InstanceLaunching, controlplane.InstanceRunning:
		switch {
		case connected:
			return operatorv1.InstanceState_INSTANCE_STATE_RUNNING
		case i.State == controlplane.InstanceLaunching && i.Observed == nil:
			return operatorv1.InstanceState_INSTANCE_STATE_LAUNCHING
		default:
			return operatorv1.InstanceState_INSTANCE_STATE_SILENT
		}
	}
	return operatorv1.InstanceState_INSTANCE_STATE_UNSPECIFIED
}

// environments returns the environments a request asks for, in the order the
// proto promises.
func environments(snapshots []controlplane.Snapshot, req *operatorv1.ListEnvironmentsRequest) []*operatorv1.Environment {
	wanted := func(filter, value string) bool { return filter == "" || filter == value }
	var all []*operatorv1.Environment
	for _, snap := range snapshots {
		if !wanted(req.GetCapacityProvider(), string(snap.Provider.Name)) {
			continue
		}
		zones := map[controlplane.InstanceID]controlplane.Zone{}
		for _, i := range snap.Instances {
			zones[i.ID] = i.Zone
		}
		for _, e := range snap.Environments {
			if wanted(req.GetFunction(), string(e.Function)) && wanted(req.GetInstance(), string(e.Instance)) {
				all = append(all, environment(e, zones[e.Instance]))
			}
		}
	}
	slices.SortFunc(all, func(a, b *operatorv1.Environment) int {
		return cmp.Or(
			cmp.Compare(a.GetFunction(), b.GetFunction()),
			compareVersions(a.GetVersion(), b.GetVersion()),
			cmp.Compare(a.GetInstance(), b.GetInstance()),
			cmp.Compare(a.GetId(), b.GetId()),
		)
	})
	return all
}

// compareVersions orders numbers by value, before $LATEST.PUBLISHED.
func compareVersions(a, b string) int {
	number := func(v string) int {
		n, err := strconv.Atoi(v)
		if err != nil {
			return math.MaxInt
		}
		return n
	}
	return cmp.Or(cmp.Compare(number(a), number(b)), cmp.Compare(a, b))
}

func environment(e controlplane.Environment, zone controlplane.Zone) *operatorv1.Environment {
	state := e.State
	if state == "" {
		state = controlplane.EnvironmentUnknown
	}
	out := &operatorv1.Environment{
		Id:                   string(e.ID),
		Function:             string(e.Function),
		Version:              string(e.Qualifier),
		CapacityProvider:     string(e.Provider),
		Instance:             string(e.Instance),
		Zone:                 string(zone),
		State:                string(state),
		Reason:               reason(e),
		InFlight:             toInt32(e.Heat.InFlight),
		MaxConcurrency:       toInt32(e.MaxConcurrency),
		UsedMilliCpu:         int64(e.Heat.CPU),
		LimitMilliCpu:        int64(e.Size.CPU),
		UsedMemoryBytes:      int64(e.Heat.Memory),
		LimitMemoryBytes:     int64(e.Size.Memory),
		UsedTmpBytes:         int64(e.Heat.Tmp),
		Limit:                toInt32(e.Heat.Limit),
		OverrunSlots:         toInt32(e.Heat.Overrun),
		CpuThrottledPermille: toInt32(e.Heat.ThrottledPermille),
		SandboxId:            e.Sandbox,
		Since:                timestamp(e.Since),
	}
	if r := e.Heat.Refusals; r != (controlplane.Refusals{}) {
		out.Refusals = &operatorv1.EnvironmentRefusals{Concurrency: r.Concurrency, Cpu: r.CPU, Memory: r.Memory, Disk: r.Disk}
	}
	return out
}

func reason(e controlplane.Environment) string {
	if e.ReasonCode != "" && e.Reason != "" {
		return e.ReasonCode + ": " + e.Reason
	}
	return e.ReasonCode + e.Reason
}

// timestamp is absent for the zero time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func toInt32(n int) int32 {
	return int32(min(max(n, 0), math.MaxInt32))
}
