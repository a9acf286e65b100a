package containerd

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/sandbox"
)

// Defaults of Config.
const (
	DefaultAddress     = "/run/containerd/containerd.sock"
	DefaultNftTable    = "hearth"
	DefaultSnapshotter = "overlayfs"
)

// maxSpares is the most Config.Spares may be.
const maxSpares = 64

// Config configures a Driver.
type Config struct {
	// Address is containerd's socket. Default DefaultAddress.
	Address string
	// Namespace is the containerd namespace that belongs to this driver alone.
	// Required.
	Namespace string
	// DataDir holds everything of the driver that is on disk: network namespaces,
	// /tmp images, FIFOs, address leases. Absolute, required.
	DataDir string
	// InitPath is the hearth-init binary on the host. Absolute, required.
	InitPath string
	// CNIBinDir holds the ptp and host-local plugins. Default: the first of
	// /usr/lib/cni, /opt/cni/bin and /usr/libexec/cni that has ptp.
	CNIBinDir string
	// Subnet is the IPv4 range sandboxes get addresses from, at least a /29.
	// Required.
	Subnet netip.Prefix
	// DenyCIDRs are IPv4 ranges sandboxes cannot reach, beside their own subnet and
	// 169.254.0.0/16, which are always denied. Name here the ranges of all drivers
	// on this host.
	DenyCIDRs []netip.Prefix
	// NftTable is the nftables table (family ip) that belongs to this driver alone.
	// Default DefaultNftTable.
	NftTable string
	// CgroupParent is the cgroup above all sandboxes, whose names below it begin
	// with "sandbox-"; they and its limits belong to this driver alone:
	// "/hearth/i-1". Required.
	CgroupParent string
	// CgroupLimits limit all sandboxes together. Zero: no limit of that kind.
	CgroupLimits CgroupLimits
	// Spares is how many networks and file systems for /tmp are made before they are
	// asked for, while nothing is being created: Create takes less time then. They
	// never hold more than a sixteenth of the addresses. Default 0.
	Spares int
	// Snapshotter is containerd's. Default DefaultSnapshotter.
	Snapshotter string
	// Output receives what sandboxes print. Nil discards it.
	Output sandbox.Output
	// Logger is required.
	Logger *slog.Logger
}

// CgroupLimits limit a cgroup with all below it.
type CgroupLimits struct {
	CPU    sandbox.MilliCPU
	Memory sandbox.Bytes
}

// Validate reports all faults, with class InvalidArgument. Defaults need not be
// filled in.
func (c Config) Validate() error {
	var faults []error
	fault := func(bad bool, text string) {
		if bad {
			faults = append(faults, errors.New(text))
		}
	}
	name := regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?$`)
	fault(!name.MatchString(c.Namespace), "namespace must be 1 to 64 letters, digits, hyphens and underscores")
	fault(c.NftTable != "" && !name.MatchString(c.NftTable), "nft table must be 1 to 64 letters, digits, hyphens and underscores")
	fault(!filepath.IsAbs(c.DataDir) || filepath.Clean(c.DataDir) == "/", "data directory must be an absolute path and not the root")
	fault(!filepath.IsAbs(c.InitPath), "init path must be absolute")
	fault(!c.Subnet.IsValid() || !c.Subnet.Addr().Is4() || c.Subnet.Bits() > 29, "subnet must be an IPv4 range of at least a /29")
	fault(slices.ContainsFunc(c.DenyCIDRs, func(p netip.Prefix) bool { return !p.IsValid() || !p.Addr().Is4() }), "deny ranges must be IPv4")
	clean := path.Clean(c.CgroupParent)
	fault(!path.IsAbs(c.CgroupParent) || clean == "/" || clean != c.CgroupParent, "cgroup parent must be a clean absolute path and not the root")
	fault(c.CgroupLimits.CPU < 0 || c.CgroupLimits.Memory < 0, "cgroup limits must not be negative")
	fault(c.Spares < 0 || c.Spares > maxSpares, fmt.Sprintf("spares must be 0 to %d", maxSpares))
	fault(c.Logger == nil, "logger is missing")
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("containerd driver configuration: %w: %w", errdefs.ErrInvalidArgument, errors.Join(faults...))
}

func (c Config) withDefaults() Config {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&c.Address, DefaultAddress)
	set(&c.NftTable, DefaultNftTable)
	set(&c.Snapshotter, DefaultSnapshotter)
	c.DataDir = filepath.Clean(c.DataDir)
	c.Subnet = c.Subnet.Masked()
	c.DenyCIDRs = slices.Clone(c.DenyCIDRs)
	if c.CNIBinDir == "" {
		dirs := []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}
		i := max(0, slices.IndexFunc(dirs, func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, "ptp"))
			return err == nil
		}))
		c.CNIBinDir = dirs[i]
	}
	if c.Output == nil {
		c.Output = func(sandbox.ID, sandbox.Stream, []byte) {}
	}
	return c
}

// cgroupPrefix tells the cgroups of sandboxes from others below CgroupParent,
// which are none of the driver's business.
const cgroupPrefix = "sandbox-"

// network is the name of the CNI network.
func (c Config) network() string { return "hearth-" + strings.ToLower(c.Namespace) }

func (c Config) dir(elem ...string) string {
	return filepath.Join(append([]string{c.DataDir}, elem...)...)
}

func (c Config) netnsPath(id sandbox.ID) string  { return c.dir("netns", string(id)) }
func (c Config) tmpDir(id sandbox.ID) string     { return c.dir("tmp", string(id)) }
func (c Config) tmpImage(id sandbox.ID) string   { return c.dir("tmp", string(id)+".img") }
func (c Config) sandboxDir(id sandbox.ID) string { return c.dir("sandboxes", string(id)) }
func (c Config) cgroupPath(id sandbox.ID) string {
	return path.Join(c.CgroupParent, cgroupPrefix+string(id))
}
func (c Config) hostsFile() string  { return c.dir("hosts") }
func (c Config) resolvConf() string { return c.dir("resolv.conf") }
func (c Config) leaseDir() string   { return c.dir("cni", "ipam") }
func (c Config) cniCache() string   { return c.dir("cni", "cache") }
func (Config) ownDirs() []string    { return []string{"netns", "tmp", "sandboxes", "cni"} }

// shimSocket is where containerd put the socket of a sandbox's shim, which it
// leaves there when the shim is killed.
func (c Config) shimSocket(id sandbox.ID) string {
	sum := sha256.Sum256([]byte(filepath.Join(c.Address, c.Namespace, string(id))))
	return filepath.Join(defaults.DefaultStateDir, "s", hex.EncodeToString(sum[:]))
}

func (c Config) fifos(id sandbox.ID) (o, e string) {
	return filepath.Join(c.sandboxDir(id), "stdout"), filepath.Join(c.sandboxDir(id), "stderr")
}
