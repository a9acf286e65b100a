package pool

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/sandbox/link"
)

// How long the processes of an environment have to end, as on AWS.
const (
	// stopGrace is how long a runtime has between SIGTERM and SIGKILL. On AWS it has
	// no time at all where there is no extension.
	stopGrace = 600 * time.Millisecond
	// killGrace is how long the news of its end may take after SIGKILL.
	killGrace = 200 * time.Millisecond
	// flushLimit bounds sending the last telemetry to extensions.
	flushLimit = time.Second
	// shutdownLimit bounds all of it: extensions must have ended by then.
	shutdownLimit = 2 * time.Second
)

var errFlushTooSlow = errors.New("telemetry could not be delivered in time")

// shutdown ends the runtime and then the extensions of an incarnation that has
// any, in an orderly way. What is left afterwards is killed with the sandbox.
func (p *Pool) shutdown(ctx context.Context, in *incarnation) {
	if !in.link.connected() || !in.api.HasExtensions() || closed(in.exited) {
		return
	}
	deadline := time.Now().Add(shutdownLimit)
	reason := runtimeapi.Spindown
	if p.failed(in) {
		reason = runtimeapi.Failure
	}
	in.endRuntime(ctx)
	flush, cancel := context.WithTimeoutCause(ctx, flushLimit, errFlushTooSlow)
	in.api.Flush(flush)
	cancel()
	told, others := in.api.Shutdown(reason, deadline)
	for _, name := range others {
		in.link.signal(name, syscall.SIGKILL)
	}
	over := time.NewTimer(time.Until(deadline))
	defer over.Stop()
	for _, name := range told {
		select {
		case <-in.link.end(name):
		case <-in.exited:
			return
		case <-over.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// endRuntime gives the runtime its grace.
func (in *incarnation) endRuntime(ctx context.Context) {
	if in.link.hasExtensions() && !in.runtimeRuns {
		return // they were to come first
	}
	in.link.signal(link.Command, syscall.SIGTERM)
	if in.awaitRuntime(ctx, stopGrace) {
		return
	}
	in.link.signal(link.Command, syscall.SIGKILL)
	in.awaitRuntime(ctx, killGrace)
}

// awaitRuntime waits for the end of the runtime and reports whether it has come.
func (in *incarnation) awaitRuntime(ctx context.Context, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-in.link.end(link.Command):
	case <-in.exited:
	case <-timer.C:
		return false
	case <-ctx.Done():
	}
	return true
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// exitOf is how the first process of an incarnation ended.
func (p *Pool) exitOf(in *incarnation) runtimeapi.Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return in.exit
}

// failed reports whether an incarnation ends because something in it went wrong.
func (p *Pool) failed(in *incarnation) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return in.failed
}

// remove ends what still runs and deletes the sandbox. What was given the time
// to end is killed.
func (p *Pool) remove(ctx context.Context, in *incarnation) error {
	grace := stopGrace
	if in.api.HasExtensions() && in.link.connected() {
		grace = 0
	}
	if err := p.cfg.Runtime.Stop(ctx, in.id, grace); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return p.cfg.Runtime.Remove(ctx, in.id)
}
