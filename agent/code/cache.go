// Package code keeps function code and layers on disk: archives named by the
// SHA-256 of their content, fetched once, unpacked once, mounted read-only by
// every environment that uses them. Several layers are merged to one tree.
//
// # Model
//
// Under its directory the cache has one directory per archive, named by the
// hash, one directory per list of layers, named "layers-" and a hash of the list,
// and working files whose names start with "tmp-". An archive is fetched and
// unpacked under such a name and renamed when complete; layers are merged
// likewise, by hard links to the files of the archives.
//
// # Invariants
//
//  1. A directory named by a hash is complete and came from an archive with
//     that hash, or from the layers of that list.
//  2. What is held is never evicted.
//  3. Unpacked bytes never exceed the budget, unless they are all held. A merged
//     tree counts as if its files were its own: it outlives the archives.
//
// # Concurrency
//
// All methods may be called from anywhere. Concurrent requests for one archive
// share one fetch; different archives do not wait for each other.
//
// # Failure
//
// A crash leaves working files, which New removes. After a reboot of the host
// everything is dropped, because the kernel may not have written it all.
package code

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
)

// Fetcher obtains archives. agent/session has the one that asks the control
// service.
type Fetcher interface {
	// Fetch writes the archive to w. Errors: NotFound, PermissionDenied,
	// Unavailable.
	Fetch(ctx context.Context, sha256 string, w io.Writer) error
}

// Config says where and how much.
type Config struct {
	// Dir is made if missing; the cache owns everything in it.
	Dir string
	// Budget is how many unpacked bytes may lie in Dir.
	Budget agent.Bytes
	// Fetcher is required.
	Fetcher Fetcher
	// MaxUnpacked and MaxEntries bound what one archive may become; zero means
	// AWS's 250 MB, and 100,000.
	MaxUnpacked agent.Bytes
	MaxEntries  int
	// BootID changes with every boot of the host; empty means unknown.
	BootID string
}

// Cache is a directory of unpacked archives. Make it with New.
type Cache struct {
	cfg Config

	mu      sync.Mutex // guards the fields below
	entries map[string]*entry
	used    agent.Bytes
}

// entry is one tree. The mutex of the cache guards it.
type entry struct {
	size    agent.Bytes
	holders int
	usedAt  time.Time
	// fetching is closed when the fetch that runs ends; nil when complete.
	fetching chan struct{}
}

const (
	tempPrefix   = "tmp-"
	layersPrefix = "layers-"
	bootFile     = "boot-id"
)

var (
	isHash = regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString                        //nolint:gochecknoglobals // a constant in all but syntax
	isName = regexp.MustCompile(`^(` + layersPrefix + `)?[0-9a-f]{64}$`).MatchString //nolint:gochecknoglobals // a constant in all but syntax
)

// New sweeps what crashes left in the directory and returns a cache of the
// rest.
func New(cfg Config) (*Cache, error) {
	if cfg.MaxUnpacked == 0 {
		cfg.MaxUnpacked = maxUnpacked
	}
	if cfg.MaxEntries == 0 {
		cfg.MaxEntries = maxEntries
	}
	c := &Cache{cfg: cfg, entries: map[string]*entry{}}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil { //nolint:gosec // functions read it under their own user
		return nil, fmt.Errorf("making the code cache: %w", err)
	}
	if err := c.sweep(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, bootFile), []byte(cfg.BootID), 0o600); err != nil {
		return nil, fmt.Errorf("marking the code cache: %w", err)
	}
	return c, nil
}

// sweep takes back what is complete and from this boot, and removes the rest.
func (c *Cache) sweep() error {
	boot, err := os.ReadFile(filepath.Join(c.cfg.Dir, bootFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the code cache: %w", err)
	}
	keep := err == nil && string(boot) == c.cfg.BootID
	found, err := os.ReadDir(c.cfg.Dir)
	if err != nil {
		return fmt.Errorf("reading the code cache: %w", err)
	}
	for _, d := range found {
		path := filepath.Join(c.cfg.Dir, d.Name())
		if keep && d.IsDir() && isName(d.Name()) {
			if err := c.readopt(d.Name(), path); err != nil {
				return err
			}
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("sweeping the code cache: %w", err)
		}
	}
	return nil
}

func (c *Cache) readopt(sha, path string) error {
	size, err := treeSize(path)
	if err != nil {
		return fmt.Errorf("measuring cached archive %s: %w", sha, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("measuring cached archive %s: %w", sha, err)
	}
	c.entries[sha] = &entry{size: size, usedAt: info.ModTime()}
	c.used += size
	return nil
}

// Acquire returns the directory with the unpacked archive and holds it there
// until release is called, once. It fetches the archive if it is missing.
// Errors: InvalidArgument (not a hash; the archive is not what it should be, or
// is not safe to unpack), ResourceExhausted (the budget is held, the disk is
// full), Unavailable (the disk fails), and what the fetcher returns.
func (c *Cache) Acquire(ctx context.Context, code agent.Code) (dir string, release func(), err error) {
	if !isHash(code.SHA256) {
		return "", nil, fmt.Errorf("code %q is not a sha-256: %w", code.SHA256, errdefs.ErrInvalidArgument)
	}
	return c.acquire(ctx, code.SHA256, func(work, tree string) (agent.Bytes, error) {
		return c.obtain(ctx, code, filepath.Join(work, "archive"), tree)
	})
}

// maker makes a directory named tree, in work, and returns its size.
type maker func(work, tree string) (agent.Bytes, error)

// acquire holds the tree of that name, after it was made if it is missing.
func (c *Cache) acquire(ctx context.Context, name string, fill maker) (dir string, release func(), err error) {
	for {
		e, wait, mine := c.hold(name)
		switch {
		case mine:
			if err := c.load(name, e, fill); err != nil {
				return "", nil, err
			}
		case wait != nil:
			select {
			case <-wait:
				continue // complete, or failed and ours to try
			case <-ctx.Done():
				return "", nil, fmt.Errorf("waiting for code %s: %w", name, context.Cause(ctx))
			}
		}
		return filepath.Join(c.cfg.Dir, name), sync.OnceFunc(func() { c.release(name) }), nil
	}
}

// Hold is Acquire for an archive that is already there; it reports whether it
// is. Containers that outlived their agent keep theirs this way.
func (c *Cache) Hold(sha string) (release func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[sha]
	if e == nil || e.fetching != nil {
		return nil, false
	}
	e.holders++
	return sync.OnceFunc(func() { c.release(sha) }), true
}

// Used is how many unpacked bytes lie in the cache.
func (c *Cache) Used() agent.Bytes {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// hold takes a complete entry, returns what to wait for, or makes a new entry
// that the caller has to load.
func (c *Cache) hold(sha string) (e *entry, wait <-chan struct{}, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e = c.entries[sha]
	switch {
	case e == nil:
		e = &entry{holders: 1, fetching: make(chan struct{})}
		c.entries[sha] = e
		return e, nil, true
	case e.fetching != nil:
		return e, e.fetching, false
	}
	e.holders++
	return e, nil, false
}

func (c *Cache) release(sha string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[sha]; e != nil {
		e.holders--
		e.usedAt = time.Now()
	}
}

// load makes the tree of e, which the caller made.
func (c *Cache) load(name string, e *entry, fill maker) (err error) {
	final := filepath.Join(c.cfg.Dir, name)
	var size agent.Bytes
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		close(e.fetching)
		e.fetching = nil
		if err != nil {
			delete(c.entries, name)
			return
		}
		e.size = size
	}()
	work, err := os.MkdirTemp(c.cfg.Dir, tempPrefix)
	if err != nil {
		return fmt.Errorf("loading code %s: %w", name, hostFault("making a directory", err))
	}
	defer func() {
		// What cannot be removed after a success is swept at the next start.
		if e := os.RemoveAll(work); err != nil {
			err = errors.Join(err, e)
		}
	}()
	tree := filepath.Join(work, "tree")
	if size, err = fill(work, tree); err != nil {
		return err
	}
	if err := c.reserve(size); err != nil {
		return fmt.Errorf("keeping code %s: %w", name, err)
	}
	if err := os.Rename(tree, final); err != nil {
		c.unreserve(size)
		return fmt.Errorf("keeping code %s: %w", name, hostFault("renaming", err))
	}
	return nil
}

// obtain fetches an archive and unpacks it into tree, the size of which it
// returns. When the disk is full it makes room: the next attempt may find it.
func (c *Cache) obtain(ctx context.Context, code agent.Code, archive, tree string) (agent.Bytes, error) {
	err := c.fetch(ctx, code, archive)
	if err == nil {
		if err = c.unpack(ctx, archive, tree); err != nil {
			err = fmt.Errorf("unpacking code %s: %w", code.SHA256, err)
		}
	}
	if err != nil {
		return 0, errors.Join(err, c.makeRoom(err))
	}
	size, err := treeSize(tree)
	if err != nil {
		return 0, fmt.Errorf("measuring code %s: %w", code.SHA256, hostFault("reading", err))
	}
	return size, nil
}

// makeRoom evicts what nobody holds if err says that the disk is full.
func (c *Cache) makeRoom(err error) error {
	if !diskFull(err) {
		return nil
	}
	return c.evictTo(0)
}

// reserve makes room for size bytes, evicting what was not used for longest.
func (c *Cache) reserve(size agent.Bytes) error {
	c.mu.Lock()
	c.used += size
	c.mu.Unlock()
	err := c.evictTo(c.cfg.Budget)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used > c.cfg.Budget {
		c.used -= size
		err = errors.Join(err, fmt.Errorf("%d bytes do not fit the code cache: %w", size, errdefs.ErrResourceExhausted))
	}
	return err
}

// evictTo evicts what nobody holds until at most limit bytes are used, what was
// not used for longest first.
func (c *Cache) evictTo(limit agent.Bytes) error {
	c.mu.Lock()
	var victims []string
	for sha, e := range c.entries {
		if e.holders == 0 && e.fetching == nil {
			victims = append(victims, sha)
		}
	}
	slices.SortFunc(victims, func(a, b string) int {
		if d := c.entries[a].usedAt.Compare(c.entries[b].usedAt); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	var evicted []string
	for _, sha := range victims {
		if c.used <= limit {
			break
		}
		e := c.entries[sha]
		c.used -= e.size
		evicted = append(evicted, sha)
		// While it is being deleted nobody may load it again under its name.
		e.fetching = make(chan struct{})
	}
	c.mu.Unlock()
	errs := make([]error, 0, len(evicted))
	for _, sha := range evicted {
		errs = append(errs, c.evict(sha))
	}
	return errors.Join(errs...)
}

// evict deletes an entry that evictTo has marked as busy. It loses its name
// first: what is deleted by half must not be taken for complete.
func (c *Cache) evict(sha string) error {
	doomed := filepath.Join(c.cfg.Dir, tempPrefix+sha)
	kept := os.Rename(filepath.Join(c.cfg.Dir, sha), doomed)
	err := kept
	if kept == nil {
		err = os.RemoveAll(doomed)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[sha]
	close(e.fetching)
	e.fetching = nil
	if kept == nil {
		delete(c.entries, sha)
	} else {
		c.used += e.size
	}
	if err != nil {
		return fmt.Errorf("evicting code %s: %w", sha, hostFault("deleting", err))
	}
	return nil
}

func (c *Cache) unreserve(size agent.Bytes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used -= size
}

// block is what the smallest file takes on disk.
const block = 4096

// treeSize is what a tree takes on disk, about.
func treeSize(dir string) (agent.Bytes, error) {
	var sum agent.Bytes
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		sum += block
		if d.Type().IsRegular() {
			sum += agent.Bytes(info.Size()) &^ (block - 1)
		}
		return nil
	})
	return sum, err
}
