package cli

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

func (a *app) psCommand() *cobra.Command {
	req := &operatorv1.ListEnvironmentsRequest{}
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List execution environments: where each runs and how hot it is",
		Long: `List execution environments: where each runs and how hot it is.

CPU is the share of the environment's quota in use. MEM is what is used of its
limit. IN-FLIGHT is how many invokes run of how many may run at once. AGE is how
long it has been in its state.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.ps(cmd.Context(), req) },
	}
	a.addControl(cmd)
	cmd.Flags().StringVar(&req.CapacityProvider, "capacity-provider", "", "only environments of this capacity provider")
	cmd.Flags().StringVar(&req.Function, "function", "", "only environments of this function")
	cmd.Flags().StringVar(&req.Instance, "instance", "", "only environments on this instance")
	return cmd
}

func (a *app) ps(ctx context.Context, req *operatorv1.ListEnvironmentsRequest) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := limited(ctx)
	defer cancel()
	resp, err := c.ListEnvironments(ctx, req)
	if err != nil {
		return c.explain(err)
	}
	if a.output == "json" {
		list := make([]environmentJSON, 0, len(resp.GetEnvironments()))
		for _, e := range resp.GetEnvironments() {
			list = append(list, toEnvironmentJSON(e))
		}
		return a.printJSON(list)
	}
	t := newTable("FUNCTION", "VERSION", "ENVIRONMENT", "STATE", "INSTANCE", "ZONE", "CPU", "MEM", "IN-FLIGHT", "TMP", "AGE")
	for _, e := range resp.GetEnvironments() {
		t.row(e.GetFunction(), e.GetVersion(), e.GetId(), e.GetState(), e.GetInstance(), orDash(e.GetZone()),
			percent(e.GetUsedMilliCpu(), e.GetLimitMilliCpu()),
			amount(e.GetUsedMemoryBytes(), e.GetLimitMemoryBytes()),
			slots(e),
			bytes(e.GetUsedTmpBytes()), a.age(e.GetSince()))
	}
	if err := t.print(a.env.Stdout); err != nil {
		return err
	}
	for _, e := range resp.GetEnvironments() { // reasons are long: below the table
		if e.GetReason() == "" {
			continue
		}
		reason := strings.ReplaceAll(strings.TrimSpace(printable(e.GetReason())), "\n", "\n  ")
		if _, err := fmt.Fprintf(a.env.Stdout, "\n%s: %s\n", e.GetId(), reason); err != nil {
			return err
		}
	}
	return nil
}

// slots is what is in flight of what is admitted: "5/32"; with the configured
// number when fewer are admitted now, "4/4 of 32"; and with slots held by code
// that ran past its deadline, "8/8 (8 overrun)".
func slots(e *operatorv1.Environment) string {
	text := fmt.Sprintf("%d/%d", e.GetInFlight(), e.GetMaxConcurrency())
	if limit := e.GetLimit(); limit > 0 && limit < e.GetMaxConcurrency() {
		text = fmt.Sprintf("%d/%d of %d", e.GetInFlight(), limit, e.GetMaxConcurrency())
	}
	if n := e.GetOverrunSlots(); n > 0 {
		text += fmt.Sprintf(" (%d overrun)", n)
	}
	return text
}

// printable is text without what could steer a terminal: a reason ends with what
// the function printed.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' {
			return r
		}
		return ' '
	}, text)
}

// environmentJSON is one element of what "hearth ps -o json" prints.
type environmentJSON struct {
	ID                string     `json:"id"`
	Function          string     `json:"function"`
	Version           string     `json:"version"`
	CapacityProvider  string     `json:"capacity_provider"`
	Instance          string     `json:"instance"`
	Zone              string     `json:"zone"`
	State             string     `json:"state"`
	Reason            string     `json:"reason,omitempty"`
	InFlight          int32      `json:"in_flight"`
	MaxConcurrency    int32      `json:"max_concurrency"`
	Limit             int32      `json:"limit"`
	OverrunSlots      int32      `json:"overrun_slots"`
	UsedMilliCPU      int64      `json:"used_milli_cpu"`
	LimitMilliCPU     int64      `json:"limit_milli_cpu"`
	UsedMemoryBytes   int64      `json:"used_memory_bytes"`
	LimitMemoryBytes  int64      `json:"limit_memory_bytes"`
	UsedTmpBytes      int64      `json:"used_tmp_bytes"`
	ThrottledPermille int32      `json:"cpu_throttled_permille"`
	Refusals          refusals   `json:"refusals"`
	SandboxID         string     `json:"sandbox_id,omitempty"`
	Since             *time.Time `json:"since,omitempty"`
}

// refusals are refused invokes by reason.
type refusals struct {
	Concurrency int64 `json:"concurrency"`
	CPU         int64 `json:"cpu"`
	Memory      int64 `json:"memory"`
	Disk        int64 `json:"disk"`
}

func toEnvironmentJSON(e *operatorv1.Environment) environmentJSON {
	return environmentJSON{
		ID: e.GetId(), Function: e.GetFunction(), Version: e.GetVersion(), CapacityProvider: e.GetCapacityProvider(),
		Instance: e.GetInstance(), Zone: e.GetZone(), State: e.GetState(), Reason: e.GetReason(),
		InFlight: e.GetInFlight(), MaxConcurrency: e.GetMaxConcurrency(),
		UsedMilliCPU: e.GetUsedMilliCpu(), LimitMilliCPU: e.GetLimitMilliCpu(),
		UsedMemoryBytes: e.GetUsedMemoryBytes(), LimitMemoryBytes: e.GetLimitMemoryBytes(),
		UsedTmpBytes: e.GetUsedTmpBytes(), SandboxID: e.GetSandboxId(), Since: moment(e.GetSince()),
		Limit: e.GetLimit(), OverrunSlots: e.GetOverrunSlots(), ThrottledPermille: e.GetCpuThrottledPermille(),
		Refusals: refusals{
			Concurrency: e.GetRefusals().GetConcurrency(), CPU: e.GetRefusals().GetCpu(),
			Memory: e.GetRefusals().GetMemory(), Disk: e.GetRefusals().GetDisk(),
		},
	}
}
