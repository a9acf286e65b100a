package containerd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/hearth-compute/hearth/sandbox"
)

// output is the reading end of a sandbox's two streams.
type output struct {
	io   cio.IO
	done chan struct{} // closed when both streams have ended
}

// lines cuts a stream into lines. It is an io.Writer used by one goroutine.
type lines struct {
	deliver func(line []byte)
	partial []byte
}

// Write delivers every whole line in p and keeps the rest.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, whole := bytes.Cut(p, []byte{'\n'})
		if room := sandbox.MaxLine - len(l.partial); len(line) > room {
			l.partial = append(l.partial, line[:room]...)
			l.flush()
			p = p[room:]
			continue
		}
		switch {
		case !whole:
			l.partial = append(l.partial, line...)
		case len(l.partial) == 0:
			l.deliver(trim(line))
		default:
			l.partial = append(l.partial, line...)
			l.deliver(trim(l.partial))
			l.partial = l.partial[:0]
		}
		p = rest
	}
	return n, nil
}

// flush delivers what is left without a line ending.
func (l *lines) flush() {
	if len(l.partial) > 0 {
		l.deliver(l.partial)
		l.partial = l.partial[:0]
	}
}

func trim(line []byte) []byte { return bytes.TrimSuffix(line, []byte{'\r'}) }

// read opens the FIFOs of a sandbox, making them if need be, and delivers what
// comes out until they end or are cancelled.
func (d *Driver) read(id sandbox.ID) (*output, error) {
	stdout, stderr := d.cfg.fifos(id)
	out := &lines{deliver: func(line []byte) { d.cfg.Output(id, sandbox.Stdout, line) }}
	err := &lines{deliver: func(line []byte) { d.cfg.Output(id, sandbox.Stderr, line) }}
	attach := cio.NewAttach(cio.WithStreams(nil, out, err))
	fifos := cio.NewFIFOSet(cio.Config{Stdout: stdout, Stderr: stderr}, nil)

	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("driver is closed: %w", os.ErrClosed)
	}
	streams, e := attach(fifos) // opens without waiting for a writer
	if e != nil {
		return nil, e
	}
	o := &output{io: streams, done: make(chan struct{})}
	d.outputs[id] = o
	d.readers.Go(func() {
		streams.Wait()
		out.flush()
		err.flush()
		_ = streams.Close()
		d.forget(id, o)
		close(o.done)
	})
	return o, nil
}

func (d *Driver) forget(id sandbox.ID, o *output) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.outputs[id] == o {
		delete(d.outputs, id)
	}
}

// drain waits until a sandbox whose process has ended has no more output, or
// ctx ends, and stops reading then.
func (d *Driver) drain(ctx context.Context, id sandbox.ID) {
	d.mu.Lock()
	o := d.outputs[id]
	d.mu.Unlock()
	if o == nil {
		return
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		o.io.Cancel()
		<-o.done
	}
}

// heardLimit bounds waiting for the last words of a process that has ended,
// which come by another way than the news of its end, within milliseconds.
const heardLimit = 500 * time.Millisecond

// heard waits until all that an ended process printed has been delivered.
func (d *Driver) heard(ctx context.Context, id sandbox.ID) {
	d.mu.Lock()
	o := d.outputs[id]
	d.mu.Unlock()
	if o == nil {
		return
	}
	limit := time.NewTimer(heardLimit)
	defer limit.Stop()
	select {
	case <-o.done:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// attachAll takes the output of all running sandboxes back.
func (d *Driver) attachAll(ctx context.Context) error {
	all, err := d.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		d.mu.Lock()
		reading := d.outputs[s.ID] != nil
		d.mu.Unlock()
		if reading || s.State == sandbox.StateStopped {
			continue
		}
		if _, err := d.read(s.ID); err != nil {
			return fmt.Errorf("sandbox %s: %w", s.ID, err)
		}
	}
	return nil
}
