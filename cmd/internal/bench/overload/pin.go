package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The function has one CPU for itself; the generator and the daemons share
// another.
const (
	functionCPU = 0
	othersCPU   = 1
)

// pinSelf puts this process, and with it what it starts, on the CPU of the
// others.
func pinSelf() error { return pin(os.Getpid(), othersCPU) }

// pinEnvironment puts every process in an environment's cgroups on the CPU of
// the function. Threads and processes that they start stay there.
func pinEnvironment(env string) error {
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
		if err := pin(pid, functionCPU); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("no process of environment %s", env)
	}
	return nil
}

// pin puts the threads of a process on a CPU, again and again until there was no
// new one.
func pin(pid, cpu int) error {
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
			pinned[tid] = true
		}
	}
	return nil
}
