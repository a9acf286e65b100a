package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/singleflight"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/builtin"
	"github.com/hearth-compute/hearth/sandbox/oci"
)

// Driver implements sandbox.Runtime. Make one with New, then call Open once
// before anything else; Sweep and Destroy alone work without Open.
type Driver struct {
	cfg    Config
	log    *slog.Logger
	client *client.Client
	locks  keyed
	pulls  singleflight.Group
	static func() (builtinImage, error)
	spares spares

	mu       sync.Mutex
	creating map[sandbox.ID]bool // Create is at work: not yet listed
	outputs  map[sandbox.ID]*output
	images   map[string]imageFacts // by digest
	away     error                 // why containerd does not answer
	closed   bool
	readers  sync.WaitGroup // one per output; mu guards Add against Close
}

type builtinImage struct {
	archive []byte
	digest  string
}

var _ sandbox.Runtime = (*Driver)(nil)

// New returns a driver. It does not touch the host and does not dial: containerd
// is first asked by Open. Errors: InvalidArgument.
func New(cfg Config) (*Driver, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	c, err := client.New(cfg.Address, client.WithDefaultNamespace(cfg.Namespace))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", cfg.Address, classify(err))
	}
	return &Driver{
		cfg: cfg, log: cfg.Logger, client: c,
		spares: spares{used: make(chan struct{}, 1), known: map[sandbox.ID]bool{}, size: spareTmp},
		locks:  keyed{held: map[sandbox.ID]*slot{}},
		static: sync.OnceValues(func() (builtinImage, error) {
			archive, digest, err := builtin.Archive(runtime.GOARCH)
			return builtinImage{archive, digest}, err
		}),
		creating: map[sandbox.ID]bool{},
		outputs:  map[sandbox.ID]*output{},
		images:   map[string]imageFacts{},
	}, nil
}

// Open prepares the host (directories, containerd namespace, nftables table,
// parent cgroup), removes orphans and takes back the output of sandboxes that
// run already. It may be called again. Errors: Unavailable, InvalidArgument (no
// CNI plugins or init binary).
func (d *Driver) Open(ctx context.Context) error {
	ctx = d.scope(ctx)
	if err := d.checkHost(); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"directories", d.makeDirs},
		{"containerd namespace", d.makeNamespace},
		{"nftables table " + d.cfg.NftTable, d.applyPolicy},
		{"cgroup " + d.cfg.CgroupParent, d.makeParentCgroup},
		{"orphans", d.Sweep},
		{"output", d.attachAll},
		{"spares", d.makeSpares},
	} {
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("containerd driver %s: %s: %w", d.cfg.Namespace, step.name, classify(err))
		}
	}
	return nil
}

func (d *Driver) checkHost() error {
	for _, file := range []string{d.cfg.InitPath, d.cfg.CNIBinDir + "/ptp", d.cfg.CNIBinDir + "/host-local"} {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("containerd driver %s: %w: %w", d.cfg.Namespace, errdefs.ErrInvalidArgument, err)
		}
	}
	return nil
}

func (d *Driver) makeDirs(context.Context) error {
	for _, name := range d.cfg.ownDirs() {
		if err := os.MkdirAll(d.cfg.dir(name), 0o711); err != nil { //nolint:gosec // G301: runc enters it as the sandbox's user
			return err
		}
	}
	if err := os.WriteFile(d.cfg.hostsFile(), []byte(oci.HostsFile), 0o644); err != nil { //nolint:gosec // G306: read inside sandboxes
		return err
	}
	return os.WriteFile(d.cfg.resolvConf(), resolvConf(), 0o644) //nolint:gosec // G306: read inside sandboxes
}

func (d *Driver) makeNamespace(ctx context.Context) error {
	err := d.client.NamespaceService().Create(ctx, d.cfg.Namespace, map[string]string{labelPrefix + "driver": "containerd"})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// Close stops reading output and closes the connection to containerd.
// Sandboxes run on. Idempotent.
func (d *Driver) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	outputs := d.outputs
	d.outputs = map[sandbox.ID]*output{}
	d.mu.Unlock()
	d.noSpares()
	for _, o := range outputs {
		o.io.Cancel()
	}
	d.readers.Wait()
	return d.client.Close()
}

// scope puts the containerd namespace into ctx.
func (d *Driver) scope(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, d.cfg.Namespace)
}

// keyed is a set of locks, one per sandbox, that can be waited for with a
// context. They order operations on one sandbox, which take milliseconds to
// seconds.
type keyed struct {
	mu   sync.Mutex
	held map[sandbox.ID]*slot
}

type slot struct {
	free  chan struct{} // capacity 1: holds a token while nobody has the lock
	users int
}

var errLockWait = errors.New("another operation on the sandbox did not end")

func (k *keyed) lock(ctx context.Context, id sandbox.ID) (unlock func(), err error) {
	k.mu.Lock()
	s := k.held[id]
	if s == nil {
		s = &slot{free: make(chan struct{}, 1)}
		s.free <- struct{}{}
		k.held[id] = s
	}
	s.users++
	k.mu.Unlock()

	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if s.users--; s.users == 0 {
			delete(k.held, id)
		}
	}
	select {
	case <-s.free:
		return func() { s.free <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("%w: %w", errLockWait, context.Cause(ctx))
	}
}
