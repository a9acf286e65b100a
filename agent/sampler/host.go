package sampler

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/mem"

	"github.com/hearth-compute/hearth/agent"
)

// Machine reads the whole machine the process runs on.
type Machine struct{}

// Close implements Reader.
func (Machine) Close() error { return nil }

// Read implements Reader.
func (Machine) Read() (Usage, error) {
	times, err := cpu.Times(false)
	if err != nil || len(times) == 0 {
		return Usage{}, fmt.Errorf("reading the machine's cpu times: %w: %w", err, errdefs.ErrInternal)
	}
	t := times[0]
	busy := t.User + t.System + t.Nice + t.Irq + t.Softirq + t.Steal
	memory, err := mem.VirtualMemory()
	if err != nil {
		return Usage{}, fmt.Errorf("reading the machine's memory: %w: %w", err, errdefs.ErrInternal)
	}
	return Usage{
		CPU:    time.Duration(busy * float64(time.Second)),
		Memory: agent.Bytes(memory.Total - memory.Available), //nolint:gosec // real memory
	}, nil
}

// Size is what the machine the process runs on has.
func Size() (agent.Resources, error) {
	cores, err := cpu.Counts(true)
	if err != nil {
		return agent.Resources{}, fmt.Errorf("counting the machine's cpus: %w: %w", err, errdefs.ErrInternal)
	}
	memory, err := mem.VirtualMemory()
	if err != nil {
		return agent.Resources{}, fmt.Errorf("reading the machine's memory: %w: %w", err, errdefs.ErrInternal)
	}
	return agent.Resources{CPU: agent.MilliCPU(cores) * 1000, Memory: agent.Bytes(memory.Total)}, nil //nolint:gosec // real memory
}
