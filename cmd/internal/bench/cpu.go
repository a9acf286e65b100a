package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processes are those CPU time is told for, by the name the kernel knows them
// by. "bench" is the load generator itself, and on the agent's own path the
// client of the agent too.
func processes() []string { return []string{"hearth-control", "hearth-agent", "bootstrap", "bench"} }

// times maps process names to CPU time used, all processes of a name together.
type times map[string]time.Duration

// since returns what was used after before. A process that ended in between
// makes its name's time too small, never negative.
func (t times) since(before times) times {
	used := times{}
	for name, now := range t {
		used[name] = max(0, now-before[name])
	}
	return used
}

// cpuTimes reads the CPU time of every process of the usual names.
func cpuTimes(proc string) (times, error) { return cpuTimesOf(proc, processes()) }

// cpuTimesOf reads the CPU time of every process so named.
func cpuTimesOf(proc string, names []string) (times, error) {
	stats, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "stat"))
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	all := times{}
	for _, name := range names {
		all[name] = 0
	}
	for _, stat := range stats {
		text, err := os.ReadFile(stat) //nolint:gosec // G304: a file of /proc
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("reading CPU times: %w", err)
		}
		name, used, err := parseStat(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", stat, err)
		}
		if _, counted := all[name]; counted {
			all[name] += used
		}
	}
	return all, nil
}

// ticksPerSecond is USER_HZ, which Linux never changes for user space.
const ticksPerSecond = 100

// parseStat reads the name and the user and system time from a line of
// /proc/PID/stat. The name stands in parentheses and may hold anything.
func parseStat(line string) (name string, used time.Duration, err error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return "", 0, fmt.Errorf("no process name in %q", line)
	}
	fields := strings.Fields(line[end+1:])
	const user, system = 11, 12 // fields 14 and 15, counted after the name
	if len(fields) <= system {
		return "", 0, fmt.Errorf("too few fields in %q", line)
	}
	for _, i := range []int{user, system} {
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return "", 0, fmt.Errorf("CPU time in %q: %w", line, err)
		}
		used += time.Duration(ticks) * time.Second / ticksPerSecond
	}
	return line[open+1 : end], used, nil
}
