// Package fake runs sandboxes in memory: their programs are Go functions. It
// is for tests of what uses a sandbox.Runtime, and works inside testing/synctest
// bubbles.
//
// # Model
//
// A Host is the machine: it has images, sandboxes and running programs, and
// outlives the drivers. A Runtime is one driver over a Host, as one agent
// process would have. To play a restart of the agent, Close the Runtime and make
// a second one over the same Host: programs run on, listeners and their
// connections of the first are gone, and output printed meanwhile (up to 64 KiB
// for each stream, as in a pipe) reaches the second.
//
// Failures are scripted with Fail (the operation does nothing), LoseReply (the
// operation is done, the caller does not learn it), Delay, Kill and Outage.
//
// # Concurrency
//
// Everything may be called concurrently.
//
// # Shutdown
//
// Host.Close kills all programs and waits for them. A program must return soon
// after its context ends.
package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/sandbox"
)

// Reasons the context of a program ends, as told by context.Cause.
var (
	// ErrTerminated means SIGTERM.
	ErrTerminated = errors.New("terminated")
	// ErrKilled means SIGKILL.
	ErrKilled = errors.New("killed")
)

// exitKilled is the exit code after SIGKILL.
const exitKilled = 137

// Program is what runs in a sandbox. ctx ends when it is told to end; the
// result is the exit code.
type Program func(ctx context.Context, p *Process) int

// Image is an image a Host can pull.
type Image struct {
	// Config is what Pull returns.
	Config sandbox.ImageConfig
	// Program is what sandboxes of the image run, unless the Host has one for the
	// very sandbox. Required then.
	Program Program
	// IgnoresTerm says that the program does not react to SIGTERM: its context
	// ends only when it is killed.
	IgnoresTerm bool
}

// Op is an operation of sandbox.Runtime that can be made to fail.
type Op string

// The operations.
const (
	Pull   Op = "pull"
	Create Op = "create"
	Start  Op = "start"
	Stop   Op = "stop"
	Remove Op = "remove"
	List   Op = "list"
	Listen Op = "listen"
	Dial   Op = "dial"
)

// Host is the machine the sandboxes are on. Make one with NewHost.
type Host struct {
	running sync.WaitGroup

	mu       sync.Mutex
	images   map[string]Image
	programs map[sandbox.ID]Program
	pulled   map[string]bool
	boxes    map[sandbox.ID]*box
	watchers map[*watcher]bool
	driver   *Runtime // receives output
	faults   map[Op][]fault
	delays   map[Op]time.Duration
	calls    map[Op]int
	outage   bool
	closed   bool
}

// fault is one scripted failure.
type fault struct {
	err   error
	after bool // the operation is done all the same
}

// NewHost returns a machine with nothing on it.
func NewHost() *Host {
	return &Host{
		images: map[string]Image{}, programs: map[sandbox.ID]Program{}, pulled: map[string]bool{},
		boxes: map[sandbox.ID]*box{}, watchers: map[*watcher]bool{},
		faults: map[Op][]fault{}, delays: map[Op]time.Duration{}, calls: map[Op]int{},
	}
}

// AddImage makes an image available to Pull under a reference.
func (h *Host) AddImage(ref string, image Image) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.images[ref] = image
}

// SetProgram makes the sandbox with this id, once created, run p rather than its
// image's program.
func (h *Host) SetProgram(id sandbox.ID, p Program) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.programs[id] = p
}

// Fail makes the next times calls of op return err and do nothing.
func (h *Host) Fail(op Op, err error, times int) { h.script(op, fault{err: err}, times) }

// LoseReply makes the next times calls of op do their work and return
// Unavailable, as if the connection had broken before the reply.
func (h *Host) LoseReply(op Op, times int) {
	h.script(op, fault{err: fmt.Errorf("the reply was lost: %w", errdefs.ErrUnavailable), after: true}, times)
}

func (h *Host) script(op Op, f fault, times int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults[op] = append(h.faults[op], slices.Repeat([]fault{f}, times)...)
}

// Delay makes every call of op take this long from now on.
func (h *Host) Delay(op Op, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.delays[op] = d
}

// Outage makes every operation fail with Unavailable until it is over, as when
// containerd is down. Programs run on.
func (h *Host) Outage(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.outage = on
}

// Calls returns how often op was called.
func (h *Host) Calls(op Op) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls[op]
}

// Kill kills the program of a sandbox as kill -9 does, or as the kernel does for
// want of memory.
func (h *Host) Kill(id sandbox.ID, outOfMemory bool) {
	h.mu.Lock()
	b := h.boxes[id]
	if b != nil && b.state == sandbox.StateRunning {
		b.oom = outOfMemory
		b.killed = true
		b.cancel(ErrKilled)
	} else {
		b = nil
	}
	h.mu.Unlock()
	if b != nil {
		<-b.done
	}
}

// Sandboxes returns the ids of the sandboxes there are, in order.
func (h *Host) Sandboxes() []sandbox.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.boxes))
}

// Close kills all programs and waits until they have returned.
func (h *Host) Close() {
	h.mu.Lock()
	h.closed = true
	for _, b := range h.boxes {
		if b.state == sandbox.StateRunning {
			b.killed = true
			b.cancel(ErrKilled)
		}
		b.net.closeAll()
	}
	h.mu.Unlock()
	h.running.Wait()
}

// begin counts a call and plays the script: it returns the error to fail with
// now, and the one to return although the work was done.
func (h *Host) begin(ctx context.Context, op Op) (now, after error) {
	h.mu.Lock()
	h.calls[op]++
	delay := h.delays[op]
	var f fault
	if script := h.faults[op]; len(script) > 0 {
		f, h.faults[op] = script[0], script[1:]
	}
	outage := h.outage
	h.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx), nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx), nil
	case outage:
		return fmt.Errorf("outage: %w", errdefs.ErrUnavailable), nil
	case f.after:
		return nil, f.err
	default:
		return f.err, nil
	}
}
