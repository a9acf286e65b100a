package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/metrics/cgroup"
)

// The function has one CPU for itself; the generator and the daemons share
// another.
const (
	functionCPU = 0
	othersCPU   = 1
)

// pinSelf puts this process, and with it what it starts, on the CPU of the
// others.
func pinSelf() error { return pin(os.Getpid(), othersCPU, priority) }

// priority is the niceness of the generator and the daemons, and most the weight of
// the function's cgroups: what else runs on the machine has little of either CPU.
const (
	priority   = -15
	mostShares = "262144" // version 1
	mostWeight = "10000"  // version 2
)

// pinEnvironment puts every process in an environment's cgroups on the CPU of
// the function. Threads and processes that they start stay there.
func pinEnvironment(env string, weights weights) error {
	found := false
	paths, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return err
	}
	for _, path := range paths {
		content, err := os.ReadFile(path) //nolint:gosec // G304: a file of /proc
		if err != nil || !strings.Contains(string(content), "/sandbox-"+env+"-") {
			continue // it ended meanwhile, or is another's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return err
		}
		if err := pin(pid, functionCPU, 0); err != nil {
			return err
		}
		if err := weights.prefer(string(content)); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("no process of environment %s", env)
	}
	return nil
}

// weights are what the files of cgroups held before they were given more.
type weights map[string][]byte

// prefer gives the cgroup of a process, by its /proc/PID/cgroup, and those it is in
// as much weight as there is.
func (w weights) prefer(membership string) error {
	layout, err := cgroup.Detect()
	if err != nil {
		return err
	}
	for line := range strings.Lines(membership) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		mount, file, weight := layout.Controllers["cpu"], "cpu.shares", mostShares
		if mount == "" {
			mount, file, weight = layout.Unified, "cpu.weight", mostWeight
		} else if !slices.Contains(strings.Split(fields[1], ","), "cpu") {
			continue
		}
		for path := fields[2]; path != "/" && path != "."; path = filepath.Dir(path) {
			if err := w.set(filepath.Join(mount, path, file), weight); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w weights) set(file, weight string) error {
	if _, done := w[file]; done {
		return nil
	}
	before, err := os.ReadFile(file) //nolint:gosec // G304: in cgroupfs
	if errors.Is(err, os.ErrNotExist) {
		return nil // it ended meanwhile
	}
	if err != nil {
		return err
	}
	w[file] = before
	return os.WriteFile(file, []byte(weight), 0)
}

// restore gives what is left of the cgroups their weights back.
func (w weights) restore() error {
	var errs []error
	for file, before := range w {
		if err := os.WriteFile(file, before, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// pin puts the threads of a process on a CPU, again and again until there was no
// new one, and sets their niceness.
func pin(pid, cpu, nice int) error {
	var set unix.CPUSet
	set.Set(cpu)
	pinned := map[int]bool{}
	for before := -1; before < len(pinned); {
		before = len(pinned)
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || pinned[tid] {
				continue
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("putting thread %d on cpu %d: %w", tid, cpu, err)
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("setting the priority of thread %d: %w", tid, err)
			}
			pinned[tid] = true
		}
	}
	return nil
}
