// Package cgroup reads what one cgroup uses, versions 1 and 2 and the hybrid of
// both, and the kernel's pressure stall information.
//
// # Concurrency
//
// A Reader belongs to one goroutine; readers of the same cgroup are independent.
package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Layout says where cgroup hierarchies are mounted.
type Layout struct {
	// Controllers are the mount points of version 1 hierarchies by controller.
	Controllers map[string]string
	// Unified is the mount point of the version 2 hierarchy, empty if none.
	Unified string
}

// Detect reads the layout of this host.
func Detect() (Layout, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Layout{}, fmt.Errorf("detecting cgroups: %w: %w", errdefs.ErrUnavailable, err)
	}
	return ParseMountinfo(mountinfo), nil
}

// ParseMountinfo finds the layout in the content of /proc/self/mountinfo. Lines
// it does not understand are skipped; of several mounts of one hierarchy the
// first counts.
func ParseMountinfo(mountinfo []byte) Layout {
	l := Layout{Controllers: map[string]string{}}
	for line := range strings.Lines(string(mountinfo)) {
		left, right, ok := strings.Cut(line, " - ")
		before, after := strings.Fields(left), strings.Fields(right)
		if !ok || len(before) < 5 || len(after) < 3 {
			continue
		}
		switch mount := before[4]; {
		case after[0] == "cgroup2" && l.Unified == "":
			l.Unified = mount
		case after[0] == "cgroup":
			for c := range strings.SplitSeq(after[2], ",") {
				if _, known := l.Controllers[c]; !known && slices.Contains([]string{"cpu", "cpuacct", "memory"}, c) {
					l.Controllers[c] = mount
				}
			}
		}
	}
	return l
}

// Sample is what a cgroup, with all below it, has used so far or uses now.
type Sample struct {
	// CPU is the processor time used so far.
	CPU time.Duration
	// Throttled is how long, so far, it was kept from running by its quota.
	Throttled time.Duration
	// Memory is what it holds in bytes, without file cache the kernel would drop
	// first (inactive_file).
	Memory int64
	// MemoryLimit is in bytes; 0 means none.
	MemoryLimit int64
	// OOMKills is how many processes the kernel has killed for want of memory.
	OOMKills int64
	// Stalled is how long, so far, tasks waited for a resource; zero where the
	// kernel does not tell: version 1 alone never does, and beside version 2 only for
	// the CPU.
	Stalled Stalls
}

// Stalls is time lost waiting, by resource: for the CPU the time in which none of
// the tasks ran although some could have, else that in which some task waited.
type Stalls struct{ CPU, Memory, IO time.Duration }

// Reader reads one cgroup through files it keeps open.
type Reader struct {
	path  string
	files []source
	buf   []byte
	// now is what was read last: here, so that it is not allocated each time.
	now reading
}

// reading is a sample and what it is made of.
type reading struct {
	Sample
	usage, inactive int64
}

// source is one file and what to take from it.
type source struct {
	file   *os.File
	seldom bool
	take   func(content []byte, r *reading)
}

// definition is a source before its file is open. Optional ones may be missing;
// those read seldom change seldom or take the kernel long to write.
type definition struct {
	controller, name string
	optional, seldom bool
	take             func([]byte, *reading)
}

// wholePage is what the kernel makes at once of what it writes.
const wholePage = 4 << 10

// bufferSize holds the longest of the files, memory.stat, several times.
const bufferSize = 16 << 10

// Open opens the cgroup at path, which is absolute from the root of each
// hierarchy: "/hearth/i-1/e-1". Errors: NotFound, Unavailable.
func Open(path string) (*Reader, error) {
	l, err := Detect()
	if err != nil {
		return nil, err
	}
	return l.Open(path)
}

// Open opens a cgroup in this layout. Version 1 is used for the controllers
// mounted so, which on hybrid hosts version 2 does not have.
func (l Layout) Open(path string) (*Reader, error) {
	r := &Reader{path: path, buf: make([]byte, bufferSize)}
	definitions := unified()
	if _, v1 := l.Controllers["memory"]; v1 {
		definitions = legacy()
	}
	for _, d := range definitions {
		mount := l.Unified
		if d.controller != "" {
			mount = l.Controllers[d.controller]
		}
		if mount == "" && d.optional {
			continue
		}
		if mount == "" {
			return nil, errors.Join(fmt.Errorf("cgroup %s: no hierarchy for %s: %w", path, d.name, errdefs.ErrUnavailable), r.Close())
		}
		f, err := os.Open(filepath.Join(mount, path, d.name)) //nolint:gosec // G304: in cgroupfs
		switch {
		case errors.Is(err, os.ErrNotExist) && d.optional:
			continue
		case err != nil:
			return nil, errors.Join(fmt.Errorf("cgroup %s: %w", path, classify(err)), r.Close())
		}
		r.files = append(r.files, source{file: f, seldom: d.seldom, take: d.take})
	}
	return r, nil
}

// legacy are the files of version 1. The first tells the CPU time.
func legacy() []definition {
	return []definition{
		{"cpuacct", "cpuacct.usage", false, false, func(c []byte, r *reading) { r.CPU = nanoseconds(number(c)) }},
		{"cpu", "cpu.stat", true, false, func(c []byte, r *reading) { r.Throttled = nanoseconds(value(c, "throttled_time")) }},
		{"memory", "memory.usage_in_bytes", false, false, func(c []byte, r *reading) { r.usage = number(c) }},
		{"memory", "memory.stat", false, true, func(c []byte, r *reading) { r.inactive = value(c, "total_inactive_file") }},
		{"memory", "memory.limit_in_bytes", false, true, func(c []byte, r *reading) { r.limit(number(c)) }},
		{"memory", "memory.oom_control", true, true, func(c []byte, r *reading) { r.OOMKills = value(c, "oom_kill") }},
		// Hybrid hosts have the same cgroup in version 2 without controllers: who waits
		// for the CPU is known there nevertheless.
		{"", "cpu.pressure", true, false, func(c []byte, r *reading) { r.Stalled.CPU = stalled(c, "full ", r.Stalled.CPU) }},
	}
}

// unified are the files of version 2. The first tells the CPU time.
func unified() []definition {
	return []definition{
		{"", "cpu.stat", false, false, func(c []byte, r *reading) {
			r.CPU = microseconds(value(c, "usage_usec"))
			r.Throttled = microseconds(value(c, "throttled_usec"))
		}},
		{"", "memory.current", false, false, func(c []byte, r *reading) { r.usage = number(c) }},
		{"", "memory.stat", false, true, func(c []byte, r *reading) { r.inactive = value(c, "inactive_file") }},
		{"", "memory.max", false, true, func(c []byte, r *reading) { r.limit(number(c)) }},
		{"", "memory.events", true, true, func(c []byte, r *reading) { r.OOMKills = value(c, "oom_kill") }},
		{"", "cpu.pressure", true, false, func(c []byte, r *reading) { r.Stalled.CPU = stalled(c, "full ", r.Stalled.CPU) }},
		{"", "memory.pressure", true, true, func(c []byte, r *reading) { r.Stalled.Memory = stalled(c, "some ", r.Stalled.Memory) }},
		{"", "io.pressure", true, true, func(c []byte, r *reading) { r.Stalled.IO = stalled(c, "some ", r.Stalled.IO) }},
	}
}

// unlimited is what version 1 says for no limit: the largest number of whole
// pages, whatever the page size.
const unlimited = math.MaxInt64 &^ (1<<16 - 1)

func (r *reading) limit(bytes int64) {
	if r.MemoryLimit = 0; bytes > 0 && bytes < unlimited {
		r.MemoryLimit = bytes
	}
}

// Sample reads the cgroup now: every file, no allocation. Errors: NotFound (the
// cgroup is gone), Unavailable.
func (r *Reader) Sample() (Sample, error) { return r.read(false) }

// Quick is Sample at a fraction of its cost: CPU time, throttled and stalled, and
// the whole of the memory are read now; limit, reclaimable cache, OOM kills and
// other stalls are those of the last Sample. If no CPU time was used since the read
// before, only that is read: who did nothing holds what it held.
func (r *Reader) Quick() (Sample, error) { return r.read(true) }

func (r *Reader) read(quick bool) (Sample, error) {
	before := r.now.CPU
	for i, f := range r.files {
		if quick && i > 0 && r.now.CPU == before {
			break // the first file tells the CPU time
		}
		if quick && f.seldom {
			continue
		}
		n, err := pread(f.file, r.buf)
		if err != nil && f.pressure() {
			continue // turned off while it was open
		}
		if err != nil {
			return Sample{}, fmt.Errorf("cgroup %s: %s: %w", r.path, filepath.Base(f.file.Name()), classify(err))
		}
		f.take(r.buf[:n], &r.now)
	}
	// The two files are read one after the other: cache may exceed the whole.
	r.now.Memory = max(0, r.now.usage-max(0, r.now.inactive))
	return r.now.Sample, nil
}

// pressure says that the kernel may refuse to read the file at any time
// (EOPNOTSUPP).
func (s source) pressure() bool { return strings.HasSuffix(s.file.Name(), ".pressure") }

// Close closes the files.
func (r *Reader) Close() error {
	var errs []error
	for _, f := range r.files {
		errs = append(errs, f.file.Close())
	}
	r.files = nil
	return errors.Join(errs...)
}

// pread reads a file of the kernel from its beginning, which makes it anew.
func pread(f *os.File, buf []byte) (int, error) {
	total := 0
	for total < len(buf) {
		n, err := unix.Pread(int(f.Fd()), buf[total:], int64(total))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		}
		total += n
		// The kernel gives what it writes at once as far as there is room, at least
		// this much of it: less is all, and asking again would write it again.
		if n < wholePage {
			return total, nil
		}
	}
	return total, nil
}

func classify(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
}
