package pool

import (
	"context"
	"sync"
	"time"

	"github.com/hearth-compute/hearth/sandbox"
)

// adopt takes back the sandboxes that run and removes the others. It tries
// until the driver answers, and reports false when ctx ends first.
func (p *Pool) adopt(ctx context.Context, workers *sync.WaitGroup) bool {
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		found, err := p.cfg.Runtime.List(ctx)
		if err == nil {
			for _, s := range found {
				p.adoptOne(ctx, s, workers)
			}
			return true
		}
		p.cfg.Log.WarnContext(ctx, "sandboxes could not be listed", "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

// adoptOne takes back one sandbox: as an incarnation if it runs and its
// metadata can be read, else to remove it. Its environment is wanted until
// somebody says otherwise, also when the sandbox has ended: most runtimes exit
// when the agent that they poll goes away.
func (p *Pool) adoptOne(ctx context.Context, s sandbox.Status, workers *sync.WaitGroup) {
	a, err := p.cfg.Decode(s.Metadata)
	if err != nil || s.State != sandbox.StateRunning {
		p.cfg.Log.InfoContext(ctx, "removing a sandbox from before the restart", "sandbox", string(s.ID), "state", string(s.State), "err", err)
		workers.Go(func() { p.discard(ctx, s.ID) })
	}
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.environmentLocked(a)
	e.wanted = e.wanted || !p.hasSet
	if s.State == sandbox.StateRunning {
		in, life := p.incarnateLocked(ctx, s.ID, a)
		in.adopted, in.created, in.token = true, true, ""
		p.grant(in, s.Labels[labelToken])
		in.cgroup, in.tmpPath = s.CgroupPath, s.TmpPath
		workers.Go(func() { p.live(ctx, life, in) })
	}
	p.updateLocked(time.Now())
}

// discard removes a sandbox that belongs to no environment.
func (p *Pool) discard(ctx context.Context, id sandbox.ID) {
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		err := p.cfg.Runtime.Remove(ctx, id)
		if err == nil {
			return
		}
		p.cfg.Log.WarnContext(ctx, "sandbox could not be removed", "sandbox", string(id), "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// watch tells incarnations that their process ended.
func (p *Pool) watch(ctx context.Context) {
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		began := time.Now()
		err := p.cfg.Runtime.Watch(ctx, p.exited)
		if ctx.Err() != nil {
			return
		}
		p.cfg.Log.WarnContext(ctx, "sandboxes cannot be watched", "err", err)
		if time.Since(began) > lastBackoff {
			wait = firstBackoff
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// exited is told of each sandbox that stopped, more than once perhaps.
func (p *Pool) exited(ev sandbox.Event) {
	p.mu.Lock()
	in := p.sandboxes[ev.ID]
	first := in != nil && !in.hasExited
	if first {
		in.hasExited, in.sandboxExit = true, ev.Exit
		close(in.exited)
	}
	p.mu.Unlock()
	switch {
	case !first:
	case in.link.connected(): // what init said last is on its way, and says more
		time.AfterFunc(lastWords, in.link.hangUp)
	default:
		p.fallWhole(in)
	}
}
