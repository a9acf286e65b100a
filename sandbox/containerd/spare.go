package containerd

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/sandbox"
)

const (
	// sparePrefix cannot begin the id of a sandbox.
	sparePrefix = "spare_"
	// spareTmp is the size of /tmp in spares before the first Create: Lambda's least.
	spareTmp sandbox.Bytes = 512 << 20
	// quiet is how long no sandbox must have been created for a spare to be made.
	quiet = 250 * time.Millisecond
	// spareRetry is how long to wait after a spare could not be made.
	spareRetry = 30 * time.Second
	// spareSpace must be free on disk for spares to be kept.
	spareSpace = 8 * minSpace
	// spareShare is the part of the subnet's addresses that spares may hold, one
	// in so many; while more than half of all are taken, no spare is made.
	spareShare = 16
)

var errNoMoreSpares = errors.New("no more spares are made")

// spare is a network and a /tmp that belong to no sandbox yet. Everything of it
// has its id for a name, as if it were a sandbox's.
type spare struct {
	id  sandbox.ID
	tmp sandbox.Bytes // the size of /tmp
}

// spares are those of this process. Those of earlier ones are orphans.
type spares struct {
	used chan struct{} // a sandbox is being created

	mu    sync.Mutex
	ready []spare
	known map[sandbox.ID]bool // from before one is made until nothing has its name
	size  sandbox.Bytes       // of /tmp, as asked for last
	stop  func()              // ends the making and waits for its end; nil while nobody makes any
}

// take returns a spare, best one with a /tmp of the size, which the caller must
// drop. It notes the size for those to come.
func (s *spares) take(size sandbox.Bytes) (spare, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = size
	if len(s.ready) == 0 {
		return spare{}, false
	}
	i := len(s.ready) - 1
	for j, candidate := range s.ready {
		if candidate.tmp == size {
			i = j
		}
	}
	taken := s.ready[i]
	s.ready = append(s.ready[:i], s.ready[i+1:]...)
	return taken, true
}

// next names the next spare to be made, unless there are enough.
func (s *spares) next(enough int) (spare, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) >= enough {
		return spare{}, false
	}
	made := spare{id: sandbox.ID(sparePrefix + strings.ToLower(rand.Text()[:12])), tmp: s.size}
	s.known[made.id] = true
	return made, true
}

func (s *spares) add(made spare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = append(s.ready, made)
}

// drop says that nothing has the name any more, or that Sweep may have it.
func (s *spares) drop(id sandbox.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, id)
}

func (s *spares) has(id sandbox.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[id]
}

// disturb puts the making off.
func (s *spares) disturb() {
	select {
	case s.used <- struct{}{}:
	default:
	}
}

// makeSpares starts making spares in the background, if any are wanted.
func (d *Driver) makeSpares(ctx context.Context) error {
	d.spares.mu.Lock()
	defer d.spares.mu.Unlock()
	if d.cfg.spareCount() == 0 || d.spares.stop != nil {
		return nil
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	var working sync.WaitGroup
	working.Go(func() { d.keepSpares(ctx) })
	d.spares.stop = func() {
		cancel(errNoMoreSpares)
		working.Wait()
	}
	return nil
}

// spareCount is how many there may be: some addresses, and a small part of all.
func (c Config) spareCount() int { return min(c.Spares, c.addresses()/spareShare) }

// addresses is how many sandboxes the subnet has addresses for.
func (c Config) addresses() int {
	const reserved = 3 // network, gateway, broadcast
	return 1<<(32-c.Subnet.Bits()) - reserved
}

// noSpares ends the making of spares. Those there are become orphans.
func (d *Driver) noSpares() {
	d.spares.mu.Lock()
	stop := d.spares.stop
	d.spares.stop = nil
	d.spares.mu.Unlock()
	if stop != nil {
		stop()
	}
	d.spares.mu.Lock()
	defer d.spares.mu.Unlock()
	for _, s := range d.spares.ready {
		delete(d.spares.known, s.id)
	}
	d.spares.ready = nil
}

// keepSpares makes spares, one at a time, while nothing is being created.
func (d *Driver) keepSpares(ctx context.Context) {
	again := time.NewTimer(quiet)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.spares.used:
			again.Reset(quiet)
			continue
		case <-again.C:
		}
		if len(d.beingCreated()) > 0 {
			again.Reset(quiet)
			continue
		}
		switch more, err := d.makeSpare(ctx); {
		case ctx.Err() != nil:
		case err != nil:
			d.log.WarnContext(ctx, "no network and /tmp could be made in advance", "err", err)
			again.Reset(spareRetry)
		case more:
			again.Reset(0)
		}
	}
}

// makeSpare makes one, if one is wanted and the host has room for it; without
// room on disk it removes those there are. more says that it is to be called
// again at once.
func (d *Driver) makeSpare(ctx context.Context) (more bool, err error) {
	switch free, err := d.cfg.freeSpace(); {
	case err != nil:
		return false, err
	case free < spareSpace:
		return false, d.giveSparesUp(ctx)
	}
	leased, err := d.cfg.leases()
	if err != nil || len(leased) > d.cfg.addresses()/2 {
		return false, err
	}
	s, wanted := d.spares.next(d.cfg.spareCount())
	if !wanted {
		return false, nil
	}
	var g errgroup.Group
	g.Go(func() error { return d.addNetwork(ctx, s.id) })
	g.Go(func() error { return d.makeTmp(ctx, s.id, s.tmp) })
	if err := g.Wait(); err != nil {
		return false, errors.Join(err, d.discard(ctx, s.id))
	}
	d.spares.add(s)
	return true, nil
}

// giveSparesUp removes all spares that nobody takes meanwhile.
func (d *Driver) giveSparesUp(ctx context.Context) error {
	var errs []error
	for s, ok := d.spares.take(spareTmp); ok; s, ok = d.spares.take(spareTmp) {
		errs = append(errs, d.discard(ctx, s.id))
	}
	return errors.Join(errs...)
}

// discard removes what is left of a spare; what it cannot remove is an orphan.
func (d *Driver) discard(ctx context.Context, id sandbox.ID) error {
	defer d.spares.drop(id)
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), undoLimit, errUndoTooSlow)
	defer cancel()
	return errors.Join(d.removeNetwork(ctx, id), d.removeTmp(id))
}

// furnish gives a sandbox its network and its /tmp: a spare's, if there is one,
// else new ones.
func (d *Driver) furnish(ctx context.Context, id sandbox.ID, tmp sandbox.Bytes) error {
	s, ok := d.spares.take(tmp)
	if !ok {
		var g errgroup.Group
		g.Go(func() error { return d.addNetwork(ctx, id) })
		g.Go(func() error { return d.makeTmp(ctx, id, tmp) })
		return g.Wait()
	}
	steps := d.takeNetwork(s.id, id)
	if s.tmp == tmp {
		steps = append(steps, d.takeTmp(s.id, id)...)
	} else {
		steps = append(steps,
			func() error { return d.makeTmp(ctx, id, tmp) },
			func() error { return d.removeTmp(s.id) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return errors.Join(fmt.Errorf("taking %s: %w", s.id, err), d.discard(ctx, s.id))
		}
	}
	d.spares.drop(s.id)
	return nil
}

// takeNetwork makes a spare's network a sandbox's, in steps. After each of them
// all there is has one of the two names, so that both can be purged.
func (d *Driver) takeNetwork(from, to sandbox.ID) []func() error {
	old, path := d.cfg.netnsPath(from), d.cfg.netnsPath(to)
	return []func() error{
		func() error { return d.cfg.forgetResult(from) },
		func() error { return d.cfg.transferLease(from, to) },
		func() error {
			file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600) //nolint:gosec // G304: below our data directory
			if err != nil {
				return err
			}
			return errors.Join(file.Close(), bind(old, path))
		},
		func() error { return removeNetNS(old) },
	}
}

// takeTmp does the same for /tmp.
func (d *Driver) takeTmp(from, to sandbox.ID) []func() error {
	old, path := d.cfg.tmpDir(from), d.cfg.tmpDir(to)
	return []func() error{
		func() error { return os.Rename(d.cfg.tmpImage(from), d.cfg.tmpImage(to)) },
		func() error { return errors.Join(os.Mkdir(path, 0o700), bind(old, path)) },
		func() error { return d.removeTmp(from) },
	}
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding %s to %s: %w", from, to, err)
	}
	return nil
}

// forgetResult removes what libcni remembers of an attachment; it is not needed
// to delete one.
func (c Config) forgetResult(id sandbox.ID) error {
	err := os.Remove(filepath.Join(c.cniCache(), "results", strings.Join([]string{c.network(), string(id), ifName}, "-")))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// transferLease gives the address of one holder to another. host-local keeps a
// file for each address with the holder in its first line; the file is replaced
// whole, so that the address is never free.
func (c Config) transferLease(from, to sandbox.ID) error {
	dir := filepath.Join(c.leaseDir(), c.network())
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if !isLease(f.Name()) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, f.Name())) //nolint:gosec // G304: below our data directory
		if err != nil {
			continue // released meanwhile: another's
		}
		rest, ours := bytes.CutPrefix(content, []byte(from))
		if !ours || len(rest) > 0 && rest[0] != '\r' && rest[0] != '\n' {
			continue
		}
		// In a directory of the same file system where host-local does not look.
		written := filepath.Join(c.sandboxDir(to), "lease")
		if err := os.WriteFile(written, append([]byte(to), rest...), 0o600); err != nil { //nolint:gosec // G703: below our data directory
			return err
		}
		return os.Rename(written, filepath.Join(dir, f.Name()))
	}
	return fmt.Errorf("%s has no address: %w", from, errdefs.ErrNotFound)
}
