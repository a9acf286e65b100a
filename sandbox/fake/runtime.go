package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/oci"
)

// Runtime implements sandbox.Runtime over a Host. Make one with New.
type Runtime struct {
	host *Host
	out  sandbox.Output
	gone context.Context // ends with Close
	stop context.CancelCauseFunc
}

var _ sandbox.Runtime = (*Runtime)(nil)

var errClosed = errors.New("driver closed")

// New returns a driver over host. output receives what programs print; nil
// discards it. A Host has one driver at a time: close the former first.
func New(host *Host, output sandbox.Output) *Runtime {
	if output == nil {
		output = func(sandbox.ID, sandbox.Stream, []byte) {}
	}
	r := &Runtime{host: host, out: output}
	r.gone, r.stop = context.WithCancelCause(context.Background())
	host.handOver(r)
	return r
}

// handOver makes r the one that receives output.
func (h *Host) handOver(r *Runtime) {
	h.mu.Lock()
	h.driver = r
	var streams []*stream
	for _, b := range h.boxes {
		streams = append(streams, b.net.streams...)
	}
	h.mu.Unlock()
	for _, s := range streams {
		s.moveTo(r)
	}
}

// Close plays the end of the driver's process: its listeners and their
// connections close, watches end, further calls fail. Sandboxes run on.
func (r *Runtime) Close() error {
	select {
	case <-r.gone.Done():
		return nil
	default:
	}
	r.stop(errClosed)
	r.host.mu.Lock()
	boxes := slices.Collect(maps.Values(r.host.boxes))
	current := r.host.driver == r
	r.host.mu.Unlock()
	for _, b := range boxes {
		b.net.closeOf(r)
	}
	if current {
		r.host.handOver(nil)
	}
	return nil
}

func (r *Runtime) output(id sandbox.ID, s sandbox.Stream, line []byte) { r.out(id, s, line) }

// do plays one operation: script, work, script.
func (r *Runtime) do(ctx context.Context, op Op, id sandbox.ID, work func() error) error {
	wrap := func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("%s sandbox %s: %w", op, id, err)
	}
	if r.gone.Err() != nil {
		return wrap(fmt.Errorf("%w: %w", errdefs.ErrUnavailable, errClosed))
	}
	now, after := r.host.begin(ctx, op)
	if now != nil {
		return wrap(now)
	}
	if err := work(); err != nil {
		return wrap(err)
	}
	return wrap(after)
}

// Pull implements sandbox.Runtime.
func (r *Runtime) Pull(ctx context.Context, image sandbox.Image) (config sandbox.ImageConfig, err error) {
	err = r.do(ctx, Pull, "", func() error {
		if image.Ref == "" || strings.ContainsAny(image.Ref, " \n") {
			return fmt.Errorf("image reference %q: %w", image.Ref, errdefs.ErrInvalidArgument)
		}
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		img, ok := r.host.images[image.Ref]
		if !ok {
			return fmt.Errorf("image %s: %w", image.Ref, errdefs.ErrNotFound)
		}
		r.host.pulled[image.Ref] = true
		config = img.Config
		return nil
	})
	if err != nil {
		return sandbox.ImageConfig{}, err
	}
	return config, nil
}

// Create implements sandbox.Runtime.
func (r *Runtime) Create(ctx context.Context, spec sandbox.Spec) (status sandbox.Status, err error) {
	err = r.do(ctx, Create, spec.ID, func() error {
		if err := oci.Validate(spec); err != nil {
			return err
		}
		h := r.host
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.boxes[spec.ID] != nil {
			return errdefs.ErrAlreadyExists
		}
		if !h.pulled[spec.Image.Ref] {
			return fmt.Errorf("image %s was not pulled: %w", spec.Image.Ref, errdefs.ErrNotFound)
		}
		img := h.images[spec.Image.Ref]
		b := &box{
			spec: clone(spec), program: img.Program, stubborn: img.IgnoresTerm,
			created: time.Now(), state: sandbox.StateCreated, net: newNetwork(),
		}
		if own := h.programs[spec.ID]; own != nil {
			b.program = own
		}
		h.boxes[spec.ID] = b
		status = b.status()
		return nil
	})
	if err != nil {
		return sandbox.Status{}, err
	}
	return status, nil
}

func clone(s sandbox.Spec) sandbox.Spec {
	s.Args, s.Env, s.Mounts = slices.Clone(s.Args), slices.Clone(s.Env), slices.Clone(s.Mounts)
	s.Labels, s.Metadata = maps.Clone(s.Labels), slices.Clone(s.Metadata)
	return s
}

// status is the box as it is now; Host.mu is held.
func (b *box) status() sandbox.Status {
	labels := map[string]string{}
	maps.Copy(labels, b.spec.Labels)
	return sandbox.Status{
		ID: b.spec.ID, State: b.state, Labels: labels, Metadata: slices.Clone(b.spec.Metadata),
		PID: b.pid(), Exit: b.exit, CreatedAt: b.created,
	}
}

// pid is any number that is no process of this machine; 0 unless running.
func (b *box) pid() int {
	if b.state != sandbox.StateRunning {
		return 0
	}
	return 1 << 30
}

// Start implements sandbox.Runtime.
func (r *Runtime) Start(ctx context.Context, id sandbox.ID) error {
	return r.do(ctx, Start, id, func() error {
		h := r.host
		h.mu.Lock()
		defer h.mu.Unlock()
		b := h.boxes[id]
		switch {
		case b == nil:
			return errdefs.ErrNotFound
		case b.state != sandbox.StateCreated || h.closed:
			return fmt.Errorf("it is %s: %w", b.state, errdefs.ErrFailedPrecondition)
		case b.program == nil:
			return fmt.Errorf("no program for it: %w", errdefs.ErrFailedPrecondition)
		}
		var ctx context.Context
		ctx, b.cancel = context.WithCancelCause(context.Background())
		b.state, b.done = sandbox.StateRunning, make(chan struct{})
		h.running.Go(func() { h.run(ctx, b) })
		return nil
	})
}

// Stop implements sandbox.Runtime.
func (r *Runtime) Stop(ctx context.Context, id sandbox.ID, grace time.Duration) error {
	return r.do(ctx, Stop, id, func() error {
		r.host.mu.Lock()
		b := r.host.boxes[id]
		r.host.mu.Unlock()
		if b == nil {
			return errdefs.ErrNotFound
		}
		return r.host.end(ctx, b, grace)
	})
}

// end stops a box's program: SIGTERM, grace, SIGKILL.
func (h *Host) end(ctx context.Context, b *box, grace time.Duration) error {
	h.mu.Lock()
	state := b.state
	if state == sandbox.StateCreated {
		b.state, b.exit = sandbox.StateStopped, sandbox.Exit{Code: exitKilled, At: time.Now()}
		for w := range h.watchers {
			w.push(sandbox.Event{ID: b.spec.ID, Exit: b.exit})
		}
	}
	done, stubborn := b.done, b.stubborn
	h.mu.Unlock()
	if state != sandbox.StateRunning {
		return nil
	}
	if !stubborn && grace > 0 {
		b.cancel(ErrTerminated)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	h.mu.Lock()
	b.killed = b.state == sandbox.StateRunning
	h.mu.Unlock()
	b.cancel(ErrKilled)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Remove implements sandbox.Runtime.
func (r *Runtime) Remove(ctx context.Context, id sandbox.ID) error {
	return r.do(ctx, Remove, id, func() error {
		h := r.host
		h.mu.Lock()
		b := h.boxes[id]
		h.mu.Unlock()
		if b == nil {
			return nil
		}
		if err := h.end(ctx, b, 0); err != nil {
			return err
		}
		b.net.closeAll()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.boxes, id)
		return nil
	})
}

// List implements sandbox.Runtime.
func (r *Runtime) List(ctx context.Context) (all []sandbox.Status, err error) {
	err = r.do(ctx, List, "", func() error {
		r.host.mu.Lock()
		defer r.host.mu.Unlock()
		for _, id := range slices.Sorted(maps.Keys(r.host.boxes)) {
			all = append(all, r.host.boxes[id].status())
		}
		return nil
	})
	return all, err
}

// Watch implements sandbox.Runtime.
func (r *Runtime) Watch(ctx context.Context, deliver func(sandbox.Event)) error {
	w := &watcher{more: make(chan struct{}, 1)}
	h := r.host
	h.mu.Lock()
	h.watchers[w] = true
	for _, id := range slices.Sorted(maps.Keys(h.boxes)) {
		if b := h.boxes[id]; b.state == sandbox.StateStopped {
			w.push(sandbox.Event{ID: id, Exit: b.exit})
		}
	}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.gone.Done():
			return nil
		case <-w.more:
			for _, e := range w.take() {
				deliver(e)
			}
		}
	}
}

// Listen implements sandbox.Runtime. Connections are pipes in memory; only Dial
// of the same sandbox reaches them.
func (r *Runtime) Listen(ctx context.Context, id sandbox.ID, address string) (l net.Listener, err error) {
	err = r.do(ctx, Listen, id, func() error {
		r.host.mu.Lock()
		b := r.host.boxes[id]
		r.host.mu.Unlock()
		if b == nil {
			return errdefs.ErrNotFound
		}
		l, err = b.net.listen(address, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Dial implements sandbox.Runtime. It reaches listeners of the sandbox's program
// and those opened with Listen.
func (r *Runtime) Dial(ctx context.Context, id sandbox.ID, address string) (c net.Conn, err error) {
	err = r.do(ctx, Dial, id, func() error {
		if _, err := netip.ParseAddrPort(address); err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		r.host.mu.Lock()
		b := r.host.boxes[id]
		r.host.mu.Unlock()
		if b == nil {
			return errdefs.ErrNotFound
		}
		if c, err = b.net.dial(ctx, address); err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}
