package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/metrics"
)

// Config is everything an agent can be told. Each field is one flag of
// hearth-agent.
type Config struct {
	// Controls are the control services' agent listeners, HOST:PORT. --control
	Controls []string
	// DataDir is the agent's own, absolute. --data-dir
	DataDir string
	// ContainerdAddress is containerd's socket. --containerd-address
	ContainerdAddress string
	// ContainerdNamespace belongs to this agent alone. --containerd-namespace
	ContainerdNamespace string
	// CapacityProvider must be the one the join token names; empty means
	// whichever that is. --capacity-provider
	CapacityProvider string
	// Zone is reported to the control service. --zone
	Zone string
	// JoinTokenFile is read while the agent has no identity. --join-token-file
	JoinTokenFile string
	// Subnet is where environments get their addresses. --subnet
	Subnet netip.Prefix
	// DenyCIDRs cannot be reached by environments. --deny-cidr
	DenyCIDRs []netip.Prefix
	// NftTable belongs to this agent alone. --nft-table
	NftTable string
	// CgroupParent is above all environments and belongs to this agent alone.
	// --cgroup-parent
	CgroupParent string
	// Spares is how many networks and /tmp file systems are kept ready for
	// environments to come, 0 to 64. --spares
	Spares int
	// Allocatable is what environments may take together; a zero field means
	// what the machine has, minus a reserve. --vcpu, --memory
	Allocatable agent.Resources
	// LimitParent makes Allocatable the limit of CgroupParent. --limit
	LimitParent bool
	// InitPath is the hearth-init binary, absolute. --init-path
	InitPath string
	// Region is what functions see as AWS_REGION. --region
	Region string
	// CodeCache is how many bytes of unpacked code are kept. --code-cache-bytes
	CodeCache agent.Bytes
	// EnvironmentLogs and Logs are how many bytes of what functions print are kept
	// of one environment and in all; zero means 16 MiB and 1 GiB.
	// --environment-log-bytes, --log-bytes
	EnvironmentLogs, Logs agent.Bytes
	// DataConnections to each control service, at least 1. --data-connections
	DataConnections int
	// Listen is a loopback address for health and reflection; empty means none.
	// --listen
	Listen string
	// MetricsListen is a loopback address for /metrics, /healthz and /readyz;
	// empty means none. --metrics-listen
	MetricsListen string
	// DrainTimeout bounds how long invokes may run on after the agent was asked
	// to stop. --drain-timeout
	DrainTimeout time.Duration
	// OTLPEndpoint is the collector that gets spans and functions' logs,
	// http://HOST:PORT or https://HOST:PORT; empty means none. --otlp-endpoint
	OTLPEndpoint string

	// StreamRate is how many bytes a second a streamed answer may have after its
	// first 6 MiB; 0 means no limit. --stream-rate
	StreamRate agent.Bytes
	// FixedLimits admits up to the configured concurrency, whatever CPU, memory and
	// disk say; for measuring what that does. --fixed-limits
	FixedLimits bool

	// Version is what the agent reports as its own.
	Version string
	// Hostname is reported for people.
	Hostname string
	// Log is required.
	Log *slog.Logger
}

// Validate reports all faults at once, each naming its flag. Errors:
// InvalidArgument.
func (c Config) Validate() error {
	return asFault(c.validateIdentity(), c.validateMachine())
}

// validateMachine is what Destroy needs, too.
func (c Config) validateMachine() error {
	errs := []error{c.validateHost(), c.validateNetwork(), c.validateLimits()}
	for _, l := range []struct{ flag, address string }{{"--listen", c.Listen}, {"--metrics-listen", c.MetricsListen}} {
		if l.address != "" && !loopback(l.address) {
			errs = append(errs, fmt.Errorf("%s %q: must be HOST:PORT on a loopback address", l.flag, l.address))
		}
	}
	if err := metrics.CheckOTLP(c.OTLPEndpoint); err != nil {
		errs = append(errs, fmt.Errorf("--otlp-endpoint: %w", err))
	}
	return errors.Join(errs...)
}

// asFault gives what is wrong with a configuration its class.
func asFault(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// validateIdentity checks what concerns the control services.
func (c Config) validateIdentity() error {
	var errs []error
	if len(c.Controls) == 0 {
		errs = append(errs, errors.New("--control: at least one HOST:PORT is required"))
	}
	for _, address := range c.Controls {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf("--control %q: must be HOST:PORT", address))
		}
	}
	if c.Zone == "" {
		errs = append(errs, errors.New("--zone: is required"))
	}
	if c.DataConnections < 1 || c.DataConnections > 8 {
		errs = append(errs, fmt.Errorf("--data-connections %d: must be 1 to 8", c.DataConnections))
	}
	return errors.Join(errs...)
}

// validateHost checks paths and names on this machine.
func (c Config) validateHost() error {
	var errs []error
	for _, p := range []struct{ flag, path string }{
		{"--data-dir", c.DataDir},
		{"--containerd-address", c.ContainerdAddress},
		{"--init-path", c.InitPath},
		{"--cgroup-parent", c.CgroupParent},
	} {
		if !filepath.IsAbs(p.path) || filepath.Clean(p.path) == "/" {
			errs = append(errs, fmt.Errorf("%s %q: must be an absolute path below /", p.flag, p.path))
		}
	}
	for _, s := range []struct{ flag, value string }{
		{"--containerd-namespace", c.ContainerdNamespace}, {"--nft-table", c.NftTable}, {"--region", c.Region},
	} {
		if s.value == "" {
			errs = append(errs, fmt.Errorf("%s: is required", s.flag))
		}
	}
	return errors.Join(errs...)
}

// validateNetwork checks the address ranges.
func (c Config) validateNetwork() error {
	var errs []error
	if !c.Subnet.IsValid() || !c.Subnet.Addr().Is4() || c.Subnet.Bits() > 29 {
		errs = append(errs, fmt.Errorf("--subnet %q: must be an IPv4 range of at least a /29", c.Subnet))
	}
	for _, deny := range c.DenyCIDRs {
		if !deny.IsValid() || !deny.Addr().Is4() {
			errs = append(errs, fmt.Errorf("--deny-cidr %q: must be an IPv4 range", deny))
		}
	}
	return errors.Join(errs...)
}

// validateLimits checks the amounts.
func (c Config) validateLimits() error {
	var errs []error
	if c.Allocatable.CPU < 0 || c.Allocatable.Memory < 0 {
		errs = append(errs, errors.New("--vcpu, --memory: must not be negative"))
	}
	if c.CodeCache < 1 {
		errs = append(errs, fmt.Errorf("--code-cache-bytes %d: must be above zero", c.CodeCache))
	}
	errs = append(errs, c.validateLogs()...)
	if c.Spares < 0 || c.Spares > 64 {
		errs = append(errs, fmt.Errorf("--spares %d: must be 0 to 64", c.Spares))
	}
	if c.DrainTimeout < 0 {
		errs = append(errs, fmt.Errorf("--drain-timeout %v: must not be negative", c.DrainTimeout))
	}
	return errors.Join(errs...)
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// reserve is what the operating system and the agent keep of a machine.
const (
	reserveCPU    agent.MilliCPU = 1000
	reserveMemory agent.Bytes    = 1 << 30
)

// allocatable fills in what was not configured from the size of the machine.
func allocatable(configured, machine agent.Resources) agent.Resources {
	if configured.CPU == 0 {
		configured.CPU = machine.CPU
		if machine.CPU >= 2*reserveCPU {
			configured.CPU -= reserveCPU
		}
	}
	if configured.Memory == 0 {
		configured.Memory = machine.Memory
		if machine.Memory >= 2*reserveMemory {
			configured.Memory -= reserveMemory
		}
	}
	return configured
}
