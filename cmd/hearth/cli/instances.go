package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

func (a *app) instancesCommand() *cobra.Command {
	req := &operatorv1.ListInstancesRequest{}
	cmd := &cobra.Command{
		Use:   "instances",
		Short: "List instances: what is promised on each and how hot it is",
		Long: `List instances: what is promised on each and how hot it is.

CPU, MEM and DISK are in use now. PROMISED is what environments placed on the
instance may take, of what it has. HEARD is how long ago its agent reported.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.instances(cmd.Context(), req) },
	}
	a.addControl(cmd)
	cmd.Flags().StringVar(&req.CapacityProvider, "capacity-provider", "", "only instances of this capacity provider")
	return cmd
}

func (a *app) instances(ctx context.Context, req *operatorv1.ListInstancesRequest) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := limited(ctx)
	defer cancel()
	resp, err := c.ListInstances(ctx, req)
	if err != nil {
		return c.explain(err)
	}
	if a.output == "json" {
		list := make([]instanceJSON, 0, len(resp.GetInstances()))
		for _, i := range resp.GetInstances() {
			list = append(list, toInstanceJSON(i))
		}
		return a.printJSON(list)
	}
	t := newTable("INSTANCE", "PROVIDER", "ZONE", "STATE", "ENVS", "CPU", "MEM", "DISK",
		"IN-FLIGHT", "PROMISED CPU", "PROMISED MEM", "AGE", "HEARD")
	for _, i := range resp.GetInstances() {
		t.row(i.GetId(), i.GetCapacityProvider(), orDash(i.GetZone()), stateName(i.GetState()),
			strconv.Itoa(int(i.GetEnvironments())),
			percent(i.GetUsedMilliCpu(), i.GetAllocatableMilliCpu()),
			amount(i.GetUsedMemoryBytes(), i.GetAllocatableMemoryBytes()),
			percent(i.GetUsedDiskBytes(), i.GetTotalDiskBytes()),
			strconv.FormatInt(i.GetInFlight(), 10),
			vcpu(i.GetAllocatedMilliCpu())+"/"+vcpu(i.GetAllocatableMilliCpu()),
			amount(i.GetAllocatedMemoryBytes(), i.GetAllocatableMemoryBytes()),
			a.age(i.GetCreatedAt()), a.age(i.GetHeardAt()))
	}
	return t.print(a.env.Stdout)
}

// stateName is a state in the word of the tables: running.
func stateName(s operatorv1.InstanceState) string {
	if s == operatorv1.InstanceState_INSTANCE_STATE_UNSPECIFIED {
		return "unknown"
	}
	return strings.ToLower(strings.TrimPrefix(s.String(), "INSTANCE_STATE_"))
}

// instanceJSON is one element of what "hearth instances -o json" prints.
type instanceJSON struct {
	ID                     string     `json:"id"`
	CapacityProvider       string     `json:"capacity_provider"`
	Zone                   string     `json:"zone"`
	State                  string     `json:"state"`
	AllocatableMilliCPU    int64      `json:"allocatable_milli_cpu"`
	AllocatableMemoryBytes int64      `json:"allocatable_memory_bytes"`
	AllocatedMilliCPU      int64      `json:"allocated_milli_cpu"`
	AllocatedMemoryBytes   int64      `json:"allocated_memory_bytes"`
	UsedMilliCPU           int64      `json:"used_milli_cpu"`
	UsedMemoryBytes        int64      `json:"used_memory_bytes"`
	UsedDiskBytes          int64      `json:"used_disk_bytes"`
	TotalDiskBytes         int64      `json:"total_disk_bytes"`
	InFlight               int64      `json:"in_flight"`
	Environments           int32      `json:"environments"`
	CreatedAt              *time.Time `json:"created_at,omitempty"`
	HeardAt                *time.Time `json:"heard_at,omitempty"`
	AgentVersion           string     `json:"agent_version,omitempty"`
	Hostname               string     `json:"hostname,omitempty"`
}

func toInstanceJSON(i *operatorv1.Instance) instanceJSON {
	return instanceJSON{
		ID: i.GetId(), CapacityProvider: i.GetCapacityProvider(), Zone: i.GetZone(), State: stateName(i.GetState()),
		AllocatableMilliCPU: i.GetAllocatableMilliCpu(), AllocatableMemoryBytes: i.GetAllocatableMemoryBytes(),
		AllocatedMilliCPU: i.GetAllocatedMilliCpu(), AllocatedMemoryBytes: i.GetAllocatedMemoryBytes(),
		UsedMilliCPU: i.GetUsedMilliCpu(), UsedMemoryBytes: i.GetUsedMemoryBytes(),
		UsedDiskBytes: i.GetUsedDiskBytes(), TotalDiskBytes: i.GetTotalDiskBytes(),
		InFlight: i.GetInFlight(), Environments: i.GetEnvironments(),
		CreatedAt: moment(i.GetCreatedAt()), HeardAt: moment(i.GetHeardAt()),
		AgentVersion: i.GetAgentVersion(), Hostname: i.GetHostname(),
	}
}
