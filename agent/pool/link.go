package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/sandbox/link"
)

const (
	// linkAddress is where the init process of every environment finds the agent. It
	// takes no port from functions: this one is the Runtime API's on another address.
	linkAddress = "127.0.0.2:9001"
	// extensionsDir has the external extensions, one file each.
	extensionsDir = "/opt/extensions"
	// sayLimit is how long init may take to read what the agent says.
	sayLimit = time.Second
	// acceptRetry is how long to wait when a connection cannot be accepted.
	acceptRetry = 100 * time.Millisecond
)

// supervision is the agent's end of the link to an incarnation's init process.
type supervision struct {
	mu   sync.Mutex // guards the fields below
	conn net.Conn   // nil while init is not connected
	// names are the extensions init has found, ended the processes that are no more.
	names []string
	ended map[string]chan struct{}
}

// connect makes conn the connection.
func (s *supervision) connect(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
}

// hangUp closes the connection, if there is one.
func (s *supervision) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}

// connected reports whether init is there.
func (s *supervision) connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil
}

// say sends a frame; init gets it or the connection ends.
func (s *supervision) say(f link.Frame) {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	if conn == nil {
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(sayLimit))
	if _, err := conn.Write(link.Append(nil, f)); err != nil {
		_ = conn.Close()
	}
}

func (s *supervision) signal(process string, sig syscall.Signal) {
	s.say(link.Frame{Kind: link.Signal, Name: process, Signal: int(sig)})
}

// end is closed once a process has ended.
func (s *supervision) end(process string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = map[string]chan struct{}{}
	}
	if s.ended[process] == nil {
		s.ended[process] = make(chan struct{})
	}
	return s.ended[process]
}

// markEnded closes what end returns, once. Only one goroutine calls it.
func (s *supervision) markEnded(process string) {
	end := s.end(process)
	select {
	case <-end:
	default:
		close(end)
	}
}

// knows reports whether a process is one that init may speak of.
func (s *supervision) knows(process string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return process == link.Command || slices.Contains(s.names, process)
}

// hasExtensions reports whether init has found any.
func (s *supervision) hasExtensions() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names) > 0
}

// converse talks with the init process of an incarnation until ctx ends. It
// accepts one connection at a time: the first is made before anything of the
// function runs.
func (p *Pool) converse(ctx context.Context, in *incarnation, l net.Listener) {
	stop := context.AfterFunc(ctx, func() {
		_ = l.Close()
		in.link.hangUp()
	})
	defer stop()
	defer func() { _ = l.Close() }()
	for ctx.Err() == nil {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.cfg.Log.DebugContext(ctx, "link to init", "sandbox", string(in.id), "err", err)
			select {
			case <-time.After(acceptRetry):
			case <-ctx.Done():
			}
			continue
		}
		in.link.connect(conn)
		if ctx.Err() == nil {
			err := p.hear(in, link.NewReader(conn))
			p.cfg.Log.DebugContext(ctx, "link to init ended", "sandbox", string(in.id), "err", err)
		}
		in.link.hangUp()
		if closed(in.exited) {
			p.fallWhole(in)
			return
		}
	}
}

// hear takes what init says until the connection ends.
func (p *Pool) hear(in *incarnation, r *link.Reader) error {
	for {
		f, err := r.Read()
		if err != nil {
			return err
		}
		switch {
		case f.Kind == link.Found:
			p.found(in, f.List)
		case !in.link.knows(f.Name):
		case f.Kind == link.Line:
			p.cfg.Output.ExtensionLine(in.id, f.Name, f.Text)
		case f.Kind == link.Exited:
			in.link.markEnded(f.Name)
			p.fall(in, processExit(f))
		}
	}
}

// found starts the extensions init has found. The runtime follows them.
func (p *Pool) found(in *incarnation, names []string) {
	if len(names) == 0 {
		return
	}
	in.link.mu.Lock()
	in.link.names = names
	in.link.mu.Unlock()
	switch {
	case in.adopted: // they run, and have registered with another process
		return
	case len(names) > runtimeapi.MaxExtensions:
		p.fall(in, runtimeapi.Exit{Kind: "TooManyExtensions", Message: fmt.Sprintf(
			"%s has %d extensions, and there may be %d at most", extensionsDir, len(names), runtimeapi.MaxExtensions)})
		return
	}
	in.api.Expect(names)
	for _, name := range names {
		in.link.say(link.Frame{Kind: link.Start, Name: name, List: in.extensionEnv})
	}
}

// startRuntime starts the command after the extensions.
func (in *incarnation) startRuntime() {
	in.link.say(link.Frame{Kind: link.Start, Name: link.Command})
}

// processExit is how a process ended, in the words of the Runtime API.
func processExit(f link.Frame) runtimeapi.Exit {
	e := runtimeapi.Exit{Code: f.Code, OutOfMemory: f.OutOfMemory, Extension: f.Name}
	if len(f.Text) == 0 {
		return e
	}
	e.Message = string(f.Text)
	switch {
	case f.Name == link.Command:
		e.Kind = notStarted(f.Code)
	case f.Code == link.NotPermitted:
		e.Kind = "PermissionDenied"
	default:
		e.Kind = "Extension.LaunchError"
	}
	return e
}

// fallWhole is fall for the whole sandbox, which has stopped.
func (p *Pool) fallWhole(in *incarnation) {
	p.mu.Lock()
	exit := in.sandboxExit
	p.mu.Unlock()
	p.fall(in, runtimeapi.Exit{Code: exit.Code, OutOfMemory: exit.OOMKilled})
}

// fall records that a process of an incarnation has ended, whichever was first,
// and answers everything that runs.
func (p *Pool) fall(in *incarnation, exit runtimeapi.Exit) {
	if exit.Extension != "" && exit.Kind == "" {
		exit.Kind = in.api.ExtensionFault()
	}
	p.mu.Lock()
	first := !in.hasFallen
	if first {
		in.hasFallen, in.exit = true, exit
		close(in.fallen)
	}
	p.mu.Unlock()
	if first {
		in.api.Exited(exit)
	}
}
