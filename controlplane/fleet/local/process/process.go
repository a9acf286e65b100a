// Package process starts daemons that outlive whoever started them, and finds
// them again later.
//
// # Invariants
//
//  1. A process is only signalled after it was recognised: the id must belong
//     to the same start of a process as when it was noted, so a process id that
//     the kernel gave to somebody else is left alone.
package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Process is one start of a program. It is owned by one goroutine.
type Process struct {
	// PID is the process id and StartTime the moment the kernel started it, in
	// clock ticks since it booted. Together they are unique until it reboots.
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`

	status unix.WaitStatus
	reaped bool
}

// Start runs cmd in a session of its own and returns without waiting for it.
// The caller must call Alive now and then to reap it. cmd's files must be
// *os.File, because nobody copies.
func Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w: %w", cmd.Path, err, errdefs.ErrUnavailable)
	}
	p := &Process{PID: cmd.Process.Pid}
	_ = cmd.Process.Release() // reaped by Alive
	st, err := readStat(p.PID)
	if err != nil { // it cannot be gone: a child that nobody reaped has an entry
		return nil, fmt.Errorf("looking at process %d of %s: %w: %w", p.PID, cmd.Path, err, errdefs.ErrInternal)
	}
	p.StartTime = st.start
	p.awaitCommandLine()
	return p, nil
}

// awaitCommandLine waits until the kernel shows the command line of the new
// program, which it does a moment after exec has succeeded. Until then nobody
// could recognise it.
func (p *Process) awaitCommandLine() {
	for range 100 {
		data, err := os.ReadFile(procFile(p.PID, "cmdline"))
		if err != nil || len(data) > 0 || !p.Alive() {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Alive reports whether the process still runs. When it has ended and is a
// child of this process, it is reaped.
func (p *Process) Alive() bool {
	if p.reaped {
		return false
	}
	st, err := readStat(p.PID)
	if err != nil || st.start != p.StartTime {
		return false
	}
	if st.running() {
		return true
	}
	// It has ended, or its main thread has and the others are about to.
	pid, err := wait(p.PID, &p.status)
	p.reaped = err == nil && pid == p.PID
	waitLater := err == nil && pid == 0
	return waitLater || err != nil && st.threads > 1
}

// Outcome says how the process ended, for people. It is empty while it runs and
// "unknown" when it was started by somebody else.
func (p *Process) Outcome() string {
	switch {
	case !p.reaped && p.Alive():
		return ""
	case !p.reaped:
		return "unknown"
	case p.status.Signaled():
		return "killed by " + unix.SignalName(p.status.Signal())
	default:
		return "exit status " + strconv.Itoa(p.status.ExitStatus())
	}
}

// Signal sends a signal to the process, if it still runs.
func (p *Process) Signal(sig syscall.Signal) {
	if p.Alive() {
		_ = unix.Kill(p.PID, sig)
	}
}

// KillSession kills the process and everything in its process group.
func (p *Process) KillSession() {
	if p.Alive() {
		_ = unix.Kill(-p.PID, unix.SIGKILL)
		_ = unix.Kill(p.PID, unix.SIGKILL)
	}
}

// Note writes down the process, so that Recall finds it after a restart.
func (p *Process) Note(path string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("noting process %d: %w: %w", p.PID, err, errdefs.ErrInternal)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("noting process %d: %w: %w", p.PID, err, errdefs.ErrUnavailable)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("noting process %d: %w: %w", p.PID, err, errdefs.ErrUnavailable)
	}
	return nil
}

// Recall returns the process noted at path if it still runs, or nil. The
// command line must hold args one after the other: that is how it is known to
// be the same program even if the machine was rebooted since.
func Recall(path string, args ...string) *Process {
	data, err := os.ReadFile(path) //nolint:gosec // the path is chosen by the caller
	if err != nil {
		return nil
	}
	p := &Process{}
	if json.Unmarshal(data, p) != nil || p.PID <= 0 || !p.Alive() || !commandHas(p.PID, args) {
		return nil
	}
	return p
}

// Find returns the running processes whose command line holds args one after
// the other, except this one, ordered by id.
func Find(args ...string) ([]*Process, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w: %w", err, errdefs.ErrInternal)
	}
	var found []*Process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || !commandHas(pid, args) {
			continue
		}
		st, err := readStat(pid)
		if err == nil && st.running() {
			found = append(found, &Process{PID: pid, StartTime: st.start})
		}
	}
	slices.SortFunc(found, func(a, b *Process) int { return a.PID - b.PID })
	return found, nil
}

// commandHas reports whether the command line of pid holds args in sequence.
func commandHas(pid int, args []string) bool {
	data, err := os.ReadFile(procFile(pid, "cmdline"))
	if err != nil || len(data) == 0 {
		return false
	}
	have := strings.Split(string(bytes.TrimSuffix(data, []byte{0})), "\x00")
	for i := range len(have) - len(args) + 1 {
		if slices.Equal(have[i:i+len(args)], args) {
			return true
		}
	}
	return false
}

func wait(pid int, status *unix.WaitStatus) (int, error) {
	for {
		got, err := unix.Wait4(pid, status, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return got, err
		}
	}
}

type stat struct {
	state   byte
	threads uint64
	start   uint64
}

// running is false for what has ended and only waits to be reaped.
func (s stat) running() bool { return s.state != 'Z' && s.state != 'X' }

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return stat{}, err
	}
	return parseStat(data)
}

// parseStat reads /proc/PID/stat: the name, second, is in parentheses and may
// hold anything; the state is third, the number of threads twentieth and the
// start time twenty-second.
func parseStat(data []byte) (stat, error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("malformed stat: %w", fs.ErrInvalid)
	}
	fields := bytes.Fields(data[end+1:])
	if len(fields) < 20 || len(fields[0]) != 1 {
		return stat{}, fmt.Errorf("malformed stat: %w", fs.ErrInvalid)
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("malformed stat: %w", err)
	}
	threads, err := strconv.ParseUint(string(fields[17]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("malformed stat: %w", err)
	}
	return stat{state: fields[0][0], threads: threads, start: start}, nil
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
