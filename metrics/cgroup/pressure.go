package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
)

// Resource is what processes can wait for.
type Resource string

// The resources.
const (
	CPU    Resource = "cpu"
	Memory Resource = "memory"
	IO     Resource = "io"
)

// Pressure is how much time was lost waiting for a resource: Some while at
// least one task waited, Full while all did at once.
type Pressure struct{ Some, Full Stall }

// Stall is the share of time lost, in percent, over windows of 10, 60 and 300
// seconds, and the time lost so far.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// HostPressure reads the pressure on the whole host. Errors: NotImplemented
// (the kernel does not tell), InvalidArgument (not a pressure file).
func HostPressure(r Resource) (Pressure, error) {
	return readPressure(filepath.Join("/proc/pressure", string(r)))
}

// Pressure reads the pressure on one cgroup. Errors: NotFound (no such
// cgroup), NotImplemented (version 1, or the kernel does not tell).
func (l Layout) Pressure(path string, r Resource) (Pressure, error) {
	if _, v1 := l.Controllers["memory"]; v1 || l.Unified == "" {
		return Pressure{}, fmt.Errorf("pressure on cgroup %s: %w", path, errdefs.ErrNotImplemented)
	}
	dir := filepath.Join(l.Unified, path)
	if _, err := os.Stat(dir); err != nil {
		return Pressure{}, fmt.Errorf("pressure on cgroup %s: %w", path, classify(err))
	}
	return readPressure(filepath.Join(dir, string(r)+".pressure"))
}

func readPressure(file string) (Pressure, error) {
	content, err := os.ReadFile(file) //nolint:gosec // G304: of the kernel
	if err != nil {                   // missing, or EOPNOTSUPP when turned off at boot
		return Pressure{}, fmt.Errorf("%w: %w", errdefs.ErrNotImplemented, err)
	}
	p, err := ParsePressure(content)
	if err != nil {
		return Pressure{}, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

// ParsePressure reads the content of a pressure file. The line "full" may be
// missing, as for the CPU on older kernels. Errors: InvalidArgument.
func ParsePressure(content []byte) (Pressure, error) {
	var p Pressure
	found := false
	for line := range bytes.Lines(content) {
		fields := bytes.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var s *Stall
		switch string(fields[0]) {
		case "some":
			s, found = &p.Some, true
		case "full":
			s = &p.Full
		default:
			continue // of a newer kernel
		}
		if err := s.parse(fields[1:]); err != nil {
			return Pressure{}, fmt.Errorf("pressure: %w: %w", errdefs.ErrInvalidArgument, err)
		}
	}
	if !found {
		return Pressure{}, fmt.Errorf("pressure: no line with some: %w", errdefs.ErrInvalidArgument)
	}
	return p, nil
}

var errNotPercent = errors.New("not a percentage")

func (s *Stall) parse(fields [][]byte) error {
	for _, f := range fields {
		key, text, _ := bytes.Cut(f, []byte{'='})
		var target *float64
		switch string(key) {
		case "avg10":
			target = &s.Avg10
		case "avg60":
			target = &s.Avg60
		case "avg300":
			target = &s.Avg300
		case "total":
			n, length := digits(text)
			if length == 0 || length != len(text) {
				return fmt.Errorf("total %q is not a number", text)
			}
			s.Total = microseconds(n)
			continue
		default:
			continue
		}
		x, err := strconv.ParseFloat(string(text), 64)
		if err != nil {
			return err
		}
		if !(x >= 0 && x <= 100) { // also refuses NaN
			return fmt.Errorf("%s: %q: %w", key, text, errNotPercent)
		}
		*target = x
	}
	return nil
}

// stalled returns how long tasks waited by the line of that kind, "some " or
// "full ", of a pressure file, or what it was before if it cannot be read there.
func stalled(content []byte, kind string, before time.Duration) time.Duration {
	line, rest, _ := bytes.Cut(content, []byte{'\n'})
	if string(line[:min(len(kind), len(line))]) != kind {
		line, _, _ = bytes.Cut(rest, []byte{'\n'})
	}
	if string(line[:min(len(kind), len(line))]) != kind {
		return before
	}
	_, total, ok := bytes.Cut(line, []byte(" total="))
	n, length := digits(total)
	if !ok || length == 0 {
		return before
	}
	return microseconds(n)
}
