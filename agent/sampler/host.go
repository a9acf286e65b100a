package sampler

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/mem"
	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/agent"
)

// Machine reads the whole machine the process runs on, through files it keeps
// open. The zero value is one.
type Machine struct {
	stat, meminfo *os.File
	// pressure has files only where the kernel tells: cpu, memory, io.
	pressure [3]*os.File
	buf      []byte
	usage    Usage
}

// statHead is as much of /proc/stat as is read: its first line.
const statHead = 512

// Close implements Reader.
func (m *Machine) Close() error {
	var errs []error
	for _, f := range append(m.pressure[:], m.stat, m.meminfo) {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Read implements Reader.
func (m *Machine) Read(how Depth) (Usage, error) {
	if m.stat == nil {
		if err := m.open(); err != nil {
			return Usage{}, err
		}
	}
	n, err := unix.Pread(int(m.stat.Fd()), m.buf[:statHead], 0)
	if err != nil {
		return Usage{}, fmt.Errorf("reading the machine's cpu times: %w: %w", err, errdefs.ErrInternal)
	}
	m.usage.CPU = busy(m.buf[:n])
	if how == Quick && m.usage.MemoryLimit > 0 {
		return m.usage, nil
	}
	n, err = unix.Pread(int(m.meminfo.Fd()), m.buf, 0)
	if err != nil {
		return Usage{}, fmt.Errorf("reading the machine's memory: %w: %w", err, errdefs.ErrInternal)
	}
	total, available := field(m.buf[:n], "MemTotal:")<<10, field(m.buf[:n], "MemAvailable:")<<10
	m.usage.Memory, m.usage.MemoryLimit = agent.Bytes(total-available), agent.Bytes(total)
	m.usage.Stalled = Stalls{
		CPU: m.stalled(0, m.usage.Stalled.CPU), Memory: m.stalled(1, m.usage.Stalled.Memory),
		IO: m.stalled(2, m.usage.Stalled.IO),
	}
	return m.usage, nil
}

// stalled is how long tasks of the machine have waited for a resource; before is
// what it was when it could last be read, which not every kernel allows.
func (m *Machine) stalled(resource int, before time.Duration) time.Duration {
	f := m.pressure[resource]
	if f == nil {
		return before
	}
	n, err := unix.Pread(int(f.Fd()), m.buf, 0)
	if err != nil {
		return before
	}
	line, _, _ := bytes.Cut(m.buf[:n], []byte{'\n'})
	_, total, ok := bytes.Cut(line, []byte(" total="))
	if !ok || !bytes.HasPrefix(line, []byte("some ")) {
		return before
	}
	return time.Duration(atoi(total)) * time.Microsecond
}

func (m *Machine) open() (err error) {
	if m.meminfo == nil {
		if m.meminfo, err = os.Open("/proc/meminfo"); err != nil {
			return fmt.Errorf("reading the machine's memory: %w: %w", err, errdefs.ErrInternal)
		}
	}
	if m.stat, err = os.Open("/proc/stat"); err != nil {
		return fmt.Errorf("reading the machine's cpu times: %w: %w", err, errdefs.ErrInternal)
	}
	for i, resource := range []string{"cpu", "memory", "io"} {
		if m.pressure[i] != nil {
			continue
		}
		if f, err := os.Open("/proc/pressure/" + resource); err == nil { //nolint:gosec // G304: of the kernel
			m.pressure[i] = f
		}
	}
	m.buf = make([]byte, 8<<10) // meminfo has less than 2 KiB
	return nil
}

// ticksPerSecond is USER_HZ, which Linux never changes for user space.
const ticksPerSecond = 100

// busy is the CPU time used since boot, from the first line of /proc/stat: user,
// nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
func busy(stat []byte) time.Duration {
	line, _, _ := bytes.Cut(stat, []byte{'\n'})
	line, ok := bytes.CutPrefix(line, []byte("cpu "))
	if !ok {
		return 0
	}
	var ticks int64
	for i := range 8 {
		line = bytes.TrimLeft(line, " ")
		number, rest, _ := bytes.Cut(line, []byte{' '})
		if i != 3 && i != 4 {
			ticks += atoi(number)
		}
		line = rest
	}
	return time.Duration(ticks) * (time.Second / ticksPerSecond)
}

// field returns the number behind a name in "name number" lines, 0 if it is not
// there.
func field(content []byte, name string) int64 {
	for len(content) > 0 {
		line, rest, _ := bytes.Cut(content, []byte{'\n'})
		if len(line) > len(name) && string(line[:len(name)]) == name {
			number, _, _ := bytes.Cut(bytes.TrimLeft(line[len(name):], " "), []byte{' '})
			return atoi(number)
		}
		content = rest
	}
	return 0
}

// atoi reads a decimal number of the kernel; the compiler does not let the
// conversion allocate.
func atoi(b []byte) int64 {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return 0
	}
	return n
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
