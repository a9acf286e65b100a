package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/hearth-compute/hearth/sandbox/link"
)

// startHelper starts a file of the helpers' directory with an environment and a
// pipe of its own.
func (s *supervisor) startHelper(f link.Frame) (*child, *fault) {
	if !slices.Contains(s.helpers, f.Name) {
		return nil, &fault{fmt.Errorf("%q is no helper: %w", f.Name, os.ErrNotExist), exitNotFound}
	}
	file := filepath.Join(s.options.helpers, f.Name)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, &fault{err, exitNotFound}
	}
	process, err := os.StartProcess(file, []string{file}, &os.ProcAttr{
		Dir: "/", Files: []*os.File{os.Stdin, w, w}, Env: f.List,
	})
	_ = w.Close()
	switch {
	case err == nil:
	case errors.Is(err, os.ErrPermission):
		_ = r.Close()
		return nil, &fault{explain(file, err), link.NotPermitted}
	default:
		_ = r.Close()
		return nil, &fault{explain(file, err), exitNotFound}
	}
	c := &child{name: f.Name, pid: process.Pid, drained: make(chan struct{})}
	go func() {
		defer close(c.drained)
		s.owner.pass(f.Name, r)
	}()
	return c, nil
}

// lines cuts what is written to it into lines.
type lines struct {
	deliver func(line []byte)
	partial []byte
}

// Write delivers every whole line in p and keeps the rest.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte{'\n'})
		if room := link.MaxLine - len(l.partial); len(line) > room {
			line, rest, whole = p[:room], p[room:], true
		}
		l.partial = append(l.partial, line...)
		if whole {
			l.flush()
		}
		p = rest
	}
	return n, nil
}

// flush delivers what is left.
func (l *lines) flush() {
	l.deliver(bytes.TrimSuffix(l.partial, []byte{'\r'}))
	l.partial = l.partial[:0]
}
