package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hearth-compute/hearth/sandbox/link"
)

const (
	// abandoned is how long the owner may be away before what is left without the
	// command ends.
	abandoned = time.Minute
	// lastLines is how long the end of a helper's output is waited for after it has
	// ended: others may hold on to it.
	lastLines = 100 * time.Millisecond
	// lastFrames is how long the owner may take to accept the last exit.
	lastFrames = time.Second
)

// supervisor starts processes and sees them end. One goroutine owns it.
type supervisor struct {
	options
	stderr  io.Writer
	signals <-chan os.Signal
	owner   *owner // nil without a link
	helpers []string

	children []*child
	// tried are the names of all that were, or could not be, started.
	tried []string
	// code is what to end with: the command's, else that of whatever ended last.
	code                     int
	ran, terminating, ending bool
	outOfMemory              int64
	// reported has helpers whose end has been told.
	reported chan *child
	// deserted says that the owner is away for too long.
	deserted bool
	desert   *time.Timer
}

// child is a process that was started.
type child struct {
	name string
	pid  int
	// ended says that pid is no longer its own.
	ended bool
	// drained is closed when the output of a helper has ended.
	drained chan struct{}
}

func newSupervisor(o options, stderr io.Writer, signals <-chan os.Signal) *supervisor {
	s := &supervisor{options: o, stderr: stderr, signals: signals, reported: make(chan *child), desert: time.NewTimer(abandoned)}
	s.desert.Stop()
	return s
}

// run starts what there is and returns the exit code when all is over.
func (s *supervisor) run() int {
	var frames <-chan link.Frame
	var states <-chan bool
	if s.link != "" {
		s.helpers = listHelpers(s.options.helpers)
		s.owner = newOwner(s.link)
		frames, states = s.owner.frames, s.owner.states
		s.owner.tell(link.Frame{Kind: link.Found, List: s.helpers})
		s.desert.Reset(abandoned)
		conn, _ := dial(s.link) // before anything else could
		go s.owner.run(conn)
	}
	if len(s.helpers) == 0 {
		s.start(link.Frame{Name: link.Command})
	}
	for !s.over() {
		select {
		case sig := <-s.signals:
			s.signalled(sig)
		case f := <-frames:
			s.told(f)
		case c := <-s.reported:
			s.forget(c)
		case connected := <-states:
			s.setConnected(connected)
		case <-s.desert.C:
			s.deserted = true
		}
	}
	if s.owner != nil {
		s.owner.flush(lastFrames)
	}
	return s.code
}

// over reports whether there is nothing to wait for any more.
func (s *supervisor) over() bool {
	command := slices.ContainsFunc(s.children, func(c *child) bool { return c.name == link.Command })
	switch {
	case s.ending:
		return true
	case s.owner == nil:
		return !command
	case len(s.children) == 0:
		return len(s.tried) > 0 || s.terminating
	}
	return s.deserted && !command
}

func (s *supervisor) setConnected(connected bool) {
	s.deserted = false
	if connected {
		s.desert.Stop()
	} else {
		s.desert.Reset(abandoned)
	}
}

// signalled handles a signal to init.
func (s *supervisor) signalled(sig os.Signal) {
	number, ok := sig.(syscall.Signal)
	switch {
	case ok && number == syscall.SIGCHLD:
		s.reap()
	case ok:
		s.terminating = true
		for _, c := range s.children {
			c.signal(number)
		}
	}
}

func (c *child) signal(sig syscall.Signal) {
	if !c.ended {
		_ = syscall.Kill(c.pid, sig)
	}
}

// told does what the owner says.
func (s *supervisor) told(f link.Frame) {
	switch f.Kind {
	case link.Start:
		if !s.terminating && !slices.Contains(s.tried, f.Name) {
			s.start(f)
		}
	case link.Signal:
		for _, c := range s.children {
			if c.name == f.Name {
				c.signal(syscall.Signal(f.Signal))
			}
		}
	case link.End:
		s.ending = true
	case link.Found, link.Exited, link.Line: // ours to say
	}
}

// start starts the command or a helper, or says why it cannot.
func (s *supervisor) start(f link.Frame) {
	s.tried = append(s.tried, f.Name)
	if f.Name != link.Command {
		c, cannot := s.startHelper(f)
		if cannot != nil {
			s.cannot(f.Name, cannot)
			return
		}
		s.children = append(s.children, c)
		return
	}
	pid, cannot := startCommand(s.options)
	if cannot != nil {
		_, _ = fmt.Fprintf(s.stderr, "hearth-init: %s\n", oneLine(cannot.err))
		s.cannot(link.Command, cannot)
		return
	}
	s.children = append(s.children, &child{name: link.Command, pid: pid})
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", " ") }

// cannot tells that a process could not be started.
func (s *supervisor) cannot(name string, why *fault) {
	s.note(name, why.code)
	s.tell(link.Frame{Kind: link.Exited, Name: name, Code: why.code, Text: []byte(oneLine(why.err))})
}

// note keeps the exit code to end with.
func (s *supervisor) note(name string, code int) {
	if name == link.Command || !s.ran {
		s.code, s.ran = code, s.ran || name == link.Command
	}
}

func (s *supervisor) tell(f link.Frame) {
	if s.owner != nil {
		s.owner.tell(f)
	}
}

// reap collects every process that has ended.
func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid == 0:
			return
		}
		i := slices.IndexFunc(s.children, func(c *child) bool { return c.pid == pid && !c.ended })
		if i >= 0 {
			s.ended(s.children[i], status)
		}
	}
}

// ended tells how a child ended, a helper after all that it printed.
func (s *supervisor) ended(c *child, status syscall.WaitStatus) {
	f := link.Frame{Kind: link.Exited, Name: c.name, Code: status.ExitStatus()}
	if status.Signaled() {
		f.Signal = int(status.Signal())
		f.Code = exitSignalBase + f.Signal
	}
	s.note(c.name, f.Code)
	c.ended = true
	if s.owner == nil {
		s.forget(c)
		return
	}
	kills := oomKills()
	f.OutOfMemory = kills > s.outOfMemory
	s.outOfMemory = kills
	if c.drained == nil {
		s.tell(f)
		s.forget(c)
		return
	}
	go func() {
		select {
		case <-c.drained:
		case <-time.After(lastLines):
		}
		s.owner.tell(f)
		s.reported <- c
	}()
}

func (s *supervisor) forget(c *child) {
	s.children = slices.DeleteFunc(s.children, func(o *child) bool { return o == c })
}

// oomKills is how often the kernel killed a process of this sandbox for want of
// memory: what cgroups of version 2, or else 1, say.
func oomKills() int64 {
	for _, file := range []string{"/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"} {
		content, err := os.ReadFile(file) //nolint:gosec // G304: one of the two above
		if err != nil {
			continue
		}
		return counter(string(content), "oom_kill ")
	}
	return 0
}

// counter is the number after a name at the beginning of a line.
func counter(content, name string) (n int64) {
	for line := range strings.Lines(content) {
		if number, ok := strings.CutPrefix(line, name); ok {
			n, _ = strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		}
	}
	return n
}

// listHelpers returns the names of all files in the directory, at most as many
// as anybody looks at.
func listHelpers(directory string) []string {
	const enough = 100
	if directory == "" {
		return nil
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil
	}
	entries = slices.DeleteFunc(entries, os.DirEntry.IsDir)
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	var names []string
	for _, e := range entries[:min(len(entries), enough)] {
		names = append(names, e.Name())
	}
	return names
}
