// Package local is the fleet on this machine: every instance is a hearth-agent
// process with a containerd namespace, data directory, subnet, nftables table
// and parent cgroup of its own, so that its declared CPU and memory are a real
// limit. It is for trying Hearth out and for tests.
//
// # Model
//
// An instance is a directory, DataDir/instances/ID, that appears and
// disappears in one step:
//
//	launch.json   what was asked for and the subnet that was chosen
//	join-token    what the agent joins with
//	agent.pid     which process the agent is
//	agent.log     what it prints, bounded; agent.log.1 is what came before
//	terminating   exists from the first Terminate on
//	agent/        the agent's own data directory
//
// # Invariants
//
//  1. No two instances of a fleet share a subnet.
//  2. No process is signalled that was not recognised as the instance's agent.
//  3. An instance is listed until nothing of it is left.
//
// # Concurrency
//
// All methods may be called from anywhere at any time. Each instance's
// processes and files are handled by one goroutine of Run, or by TerminateAll;
// a lock file keeps two of them from the same directory.
//
// # Failure
//
// A crash at any point is continued by the next Run or TerminateAll: the launch
// record is durable before Launch returns, the mark of Terminate before it
// returns, and destroying is repeated until it succeeds once.
//
// # Shutdown
//
// When Run ends, agents are left running. The next Run takes them back.
package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
)

// The defaults of Config.
const (
	DefaultSubnetPool        = "10.201.0.0/16"
	DefaultMaxInstances      = 8
	DefaultContainerdAddress = "/run/containerd/containerd.sock"

	defaultStopTimeout    = 10 * time.Second
	defaultDestroyTimeout = 2 * time.Minute
	defaultMaxLogBytes    = 8 << 20
)

// Config says where instances live and what their agents are told.
type Config struct {
	// DataDir is the data directory of the control service; instances live in
	// the directory instances below it. Required.
	DataDir string
	// AgentPath is the hearth-agent binary. Default: next to this executable.
	AgentPath string
	// InitPath is the hearth-init binary. Default: what the agent defaults to.
	InitPath string
	// Control is the address agents dial. Required by Launch.
	Control string
	// ContainerdAddress is containerd's socket. Default: DefaultContainerdAddress.
	ContainerdAddress string
	// SubnetPool is divided into one /24 for each instance. Two fleets on one
	// machine need different pools. Default: DefaultSubnetPool.
	SubnetPool netip.Prefix
	// MaxInstances bounds how many there are at once. Default: DefaultMaxInstances.
	MaxInstances int
	// Region is passed to agents, if set.
	Region string
	// AgentArgs are further arguments for every agent.
	AgentArgs []string
	// Environ is the environment agents get, normally os.Environ(). Variables
	// that begin with HEARTH_ are left out: they are meant for somebody else.
	Environ []string
	// StopTimeout is how long an agent has from SIGTERM to SIGKILL when its
	// instance is terminated. Default: 10 s.
	StopTimeout time.Duration
	// DestroyTimeout bounds one attempt to remove what an agent left. Default: 2 min.
	DestroyTimeout time.Duration
	// MaxLogBytes bounds agent.log; as much again is kept of what came before.
	// Default: 8 MiB.
	MaxLogBytes int64
	// Logger is required.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...))
	}
	if c.DataDir == "" {
		fail("local fleet: no data directory")
	}
	if c.Logger == nil {
		fail("local fleet: no logger")
	}
	if c.AgentPath == "" {
		self, err := os.Executable()
		if err != nil {
			fail("local fleet: finding hearth-agent: %v", err)
		}
		c.AgentPath = filepath.Join(filepath.Dir(self), "hearth-agent")
	}
	if !c.SubnetPool.IsValid() {
		c.SubnetPool = netip.MustParsePrefix(DefaultSubnetPool)
	}
	if !c.SubnetPool.Addr().Is4() || c.SubnetPool.Bits() > subnetBits {
		fail("local fleet: the subnet pool %s is not an IPv4 network of /%d or larger", c.SubnetPool, subnetBits)
	}
	c.SubnetPool = c.SubnetPool.Masked()
	c.MaxInstances = cmp.Or(c.MaxInstances, DefaultMaxInstances)
	c.ContainerdAddress = cmp.Or(c.ContainerdAddress, DefaultContainerdAddress)
	c.StopTimeout = cmp.Or(c.StopTimeout, defaultStopTimeout)
	c.DestroyTimeout = cmp.Or(c.DestroyTimeout, defaultDestroyTimeout)
	c.MaxLogBytes = cmp.Or(c.MaxLogBytes, defaultMaxLogBytes)
	var err error
	if c.DataDir, err = filepath.Abs(c.DataDir); err != nil {
		fail("local fleet: data directory: %v", err)
	}
	return c, errors.Join(errs...)
}

// Fleet is the driver. It implements [fleet.Cloud].
type Fleet struct {
	cfg  Config
	root string
	log  *slog.Logger
	// launching is held by the one Launch that chooses a subnet and writes, and
	// by sweep.
	launching chan struct{}
	nudge     chan struct{}
	// hostAddrs tells the addresses of this machine; tests replace it.
	hostAddrs func() ([]net.Addr, error)
	// cgroups is where they are mounted; tests replace it.
	cgroups string
}

var _ fleet.Cloud = (*Fleet)(nil)

// New makes the driver. It touches nothing.
func New(cfg Config) (*Fleet, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Fleet{
		cfg:       cfg,
		root:      filepath.Join(cfg.DataDir, "instances"),
		log:       cfg.Logger,
		launching: make(chan struct{}, 1),
		nudge:     make(chan struct{}, 1),
		hostAddrs: net.InterfaceAddrs,
		cgroups:   "/sys/fs/cgroup",
	}, nil
}

// Name implements [fleet.Cloud].
func (*Fleet) Name() string { return "local" }

// Launch implements [fleet.Cloud]. The agent is started by Run.
func (f *Fleet) Launch(ctx context.Context, req fleet.LaunchRequest) error {
	if err := f.validate(req); err != nil {
		return err
	}
	select {
	case f.launching <- struct{}{}:
		defer func() { <-f.launching }()
	case <-ctx.Done():
		return fmt.Errorf("launching %s: %w: %w", req.Instance, context.Cause(ctx), errdefs.ErrUnavailable)
	}
	existing, err := f.instances()
	if err != nil {
		return err
	}
	taken := map[netip.Prefix]bool{}
	for _, inst := range existing {
		if inst.id == req.Instance {
			return nil
		}
		rec, err := inst.record()
		if err != nil {
			return err
		}
		taken[rec.Subnet] = true
	}
	if len(existing) >= f.cfg.MaxInstances {
		return fmt.Errorf("launching %s: this machine has %d instances already, its limit: %w",
			req.Instance, len(existing), errdefs.ErrResourceExhausted)
	}
	subnet, err := f.chooseSubnet(taken)
	if err != nil {
		return fmt.Errorf("launching %s: %w", req.Instance, err)
	}
	err = f.create(record{
		Instance: req.Instance, Provider: req.Provider, Zone: req.Zone,
		CPU: req.Size.CPU, Memory: req.Size.Memory, Subnet: subnet,
		Control: f.cfg.Control, ContainerdAddress: f.cfg.ContainerdAddress, SubnetPool: f.cfg.SubnetPool,
	}, req.JoinToken)
	if err != nil {
		return err
	}
	poke(f.nudge)
	return nil
}

func (f *Fleet) validate(req fleet.LaunchRequest) error {
	// The id becomes the name of a directory, a cgroup and a namespace.
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$`).MatchString(string(req.Instance)) {
		return fmt.Errorf("launching %q: malformed instance id: %w", req.Instance, errdefs.ErrInvalidArgument)
	}
	for _, need := range []struct {
		what    string
		missing bool
	}{
		{"capacity provider", req.Provider == ""},
		{"zone", req.Zone == ""},
		{"join token", req.JoinToken == ""},
		{"CPU", req.Size.CPU <= 0},
		{"memory", req.Size.Memory <= 0},
		{"address of the control service", f.cfg.Control == ""},
	} {
		if need.missing {
			return fmt.Errorf("launching %s: no %s: %w", req.Instance, need.what, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// List implements [fleet.Cloud].
func (f *Fleet) List(context.Context) ([]controlplane.InstanceID, error) {
	existing, err := f.instances()
	if err != nil {
		return nil, err
	}
	ids := make([]controlplane.InstanceID, 0, len(existing))
	for _, inst := range existing {
		ids = append(ids, inst.id)
	}
	return ids, nil
}

// Terminate implements [fleet.Cloud]. The work is done by Run.
func (f *Fleet) Terminate(_ context.Context, id controlplane.InstanceID) error {
	existing, err := f.instances()
	if err != nil {
		return err
	}
	for _, inst := range existing {
		if inst.id == id {
			if err := inst.markTerminating(); err != nil {
				return err
			}
			poke(f.nudge)
		}
	}
	return nil
}
