// Command hearth-agent runs execution environments on one instance.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/daemon"
	"github.com/hearth-compute/hearth/cmd/internal/boot"
)

func main() { boot.Main(run) }

func run(ctx context.Context) error {
	fs := boot.NewFlagSet("hearth-agent", "Runs execution environments on this host.")
	f := register(fs)
	logs := boot.RegisterLogFlags(fs)
	if err := boot.Parse(fs, os.Args[1:], os.Getenv); err != nil {
		return err
	}
	if f.version {
		fmt.Println(boot.Version())
		return nil
	}
	cfg, err := f.config()
	if err != nil {
		return err
	}
	cfg.Log = logs.New(os.Stdout)
	if f.check {
		return cfg.Validate()
	}
	a, err := daemon.New(cfg)
	if err != nil {
		return err
	}
	if f.destroy {
		return a.Destroy(ctx)
	}
	return a.Run(ctx)
}

// flags are the flags as they are written, before they become a Config.
type flags struct {
	cfg            daemon.Config
	controls, deny *boot.List
	subnet         string
	vcpu           vcpu
	memory, cache  boot.Size
	// environmentLogs and logs are what is kept of what functions print.
	environmentLogs, logs boot.Size
	streamRate            boot.Size
	check, destroy        bool
	version               bool
}

func register(fs *flag.FlagSet) *flags {
	f := &flags{
		controls: boot.NewList(), deny: boot.NewList("10.200.0.0/15"), cache: 8 * boot.GiB,
		environmentLogs: boot.Size(daemon.DefaultEnvironmentLogs), logs: boot.Size(daemon.DefaultLogs),
	}
	c := &f.cfg
	fs.Var(f.controls, "control", "`HOST:PORT[,…]` of the control services' agent listeners")
	fs.StringVar(&c.DataDir, "data-dir", "/var/lib/hearth/agent", "`DIR` of the agent's own files")
	fs.StringVar(&c.ContainerdAddress, "containerd-address", "/run/containerd/containerd.sock", "`SOCKET` of containerd")
	fs.StringVar(&c.ContainerdNamespace, "containerd-namespace", "hearth", "containerd `NAMESPACE`, this agent's alone")
	fs.StringVar(&c.CapacityProvider, "capacity-provider", "", "`NAME` of the capacity provider the join token must be for")
	fs.StringVar(&c.Zone, "zone", "", "`NAME` of the availability zone of this host")
	fs.StringVar(&c.JoinTokenFile, "join-token-file", "", "`FILE` with the join token; read until the host has joined")
	fs.StringVar(&f.subnet, "subnet", "10.200.0.0/24", "`CIDR` environments get their addresses from, this agent's alone")
	fs.Var(f.deny, "deny-cidr", "`CIDR[,…]` environments cannot reach, beside their own subnet and 169.254.0.0/16")
	fs.StringVar(&c.NftTable, "nft-table", "hearth", "nftables `TABLE`, this agent's alone")
	fs.StringVar(&c.CgroupParent, "cgroup-parent", "/hearth/agent", "`CGROUP` above all environments, this agent's alone")
	fs.IntVar(&c.Spares, "spares", 4, "`COUNT` of networks and /tmp file systems kept ready for environments to come, at most one for 16 addresses of --subnet; 0 to 64")
	fs.Var(&f.vcpu, "vcpu", "`VCPUS` environments may take together, for example 1.5; 0 means all but one")
	fs.Var(&f.memory, "memory", "memory environments may take together; 0 means all but 1 GiB")
	fs.BoolVar(&c.LimitParent, "limit", false, "make --vcpu and --memory the limits of --cgroup-parent")
	fs.StringVar(&c.InitPath, "init-path", "", "`FILE` that is PID 1 of every environment (default: hearth-init beside this program)")
	fs.StringVar(&c.Region, "region", "us-east-1", "`REGION` functions are told")
	fs.Var(&f.cache, "code-cache-bytes", "unpacked function code to keep on disk")
	fs.Var(&f.environmentLogs, "environment-log-bytes", "what functions print to keep on disk, of one environment")
	fs.Var(&f.logs, "log-bytes", "what functions print to keep on disk, of all environments")
	fs.IntVar(&c.DataConnections, "data-connections", 2, "`COUNT` of connections for invokes to each control service, 1 to 8")
	fs.StringVar(&c.Listen, "listen", "", "loopback `HOST:PORT` for gRPC health and reflection; empty means none")
	fs.StringVar(&c.MetricsListen, "metrics-listen", "", "loopback `HOST:PORT` for /metrics, /healthz and /readyz; empty means none")
	fs.DurationVar(&c.DrainTimeout, "drain-timeout", 15*time.Minute, "how long invokes may run on after SIGTERM")
	fs.Var(&f.streamRate, "stream-rate", "bytes a second of a streamed answer after its first 6 MiB; 0 means no limit, 2MiB is AWS's")
	fs.BoolVar(&c.FixedLimits, "fixed-limits", false, "admit up to the configured concurrency whatever CPU, memory and disk say; to measure what that does")
	fs.StringVar(&c.OTLPEndpoint, "otlp-endpoint", "", "`URL` of the OpenTelemetry collector that gets spans and functions' logs by gRPC, http://HOST:PORT or https://HOST:PORT; empty means none")
	fs.BoolVar(&f.check, "check", false, "check the flags and exit")
	fs.BoolVar(&f.version, "version", false, "print the version and exit")
	fs.BoolVar(&f.destroy, "destroy", false, "remove everything this agent made on this host and exit")
	return f
}

// config makes a Config of the flags; what is wrong with them is reported all
// at once.
func (f *flags) config() (daemon.Config, error) {
	cfg := f.cfg
	var errs []error
	cfg.Controls = split(f.controls.Values())
	subnet, err := netip.ParsePrefix(f.subnet)
	if err != nil {
		errs = append(errs, fmt.Errorf("--subnet %q: must be a range such as 10.200.0.0/24", f.subnet))
	}
	cfg.Subnet = subnet
	for _, text := range split(f.deny.Values()) {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--deny-cidr %q: must be a range such as 10.200.0.0/15", text))
			continue
		}
		cfg.DenyCIDRs = append(cfg.DenyCIDRs, prefix)
	}
	cfg.Allocatable = agent.Resources{CPU: agent.MilliCPU(f.vcpu), Memory: agent.Bytes(f.memory)}
	cfg.CodeCache, cfg.StreamRate = agent.Bytes(f.cache), agent.Bytes(f.streamRate)
	cfg.EnvironmentLogs, cfg.Logs = agent.Bytes(f.environmentLogs), agent.Bytes(f.logs)
	if cfg.InitPath == "" {
		self, err := os.Executable()
		if err != nil {
			return cfg, fmt.Errorf("finding hearth-init: %w", err)
		}
		cfg.InitPath = filepath.Join(filepath.Dir(self), "hearth-init")
	}
	host, err := os.Hostname()
	cfg.Hostname = cmp.Or(host, "unknown")
	if err != nil {
		errs = append(errs, fmt.Errorf("reading the host name: %w", err))
	}
	cfg.Version = boot.Version()
	if len(errs) > 0 {
		// Validate finds the rest; a range that could not be read is named once.
		return cfg, fmt.Errorf("configuration: %w: %w", errors.Join(errs...), errdefs.ErrInvalidArgument)
	}
	return cfg, nil
}

// split takes values apart at commas.
func split(values []string) []string {
	var parts []string
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				parts = append(parts, part)
			}
		}
	}
	return parts
}

// vcpu is a number of vCPUs in thousandths.
type vcpu agent.MilliCPU

// String implements flag.Value.
func (v *vcpu) String() string { return strconv.FormatFloat(float64(*v)/1000, 'f', -1, 64) }

// Set implements flag.Value.
func (v *vcpu) Set(text string) error {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n < 0 || n > 1<<20 || math.IsNaN(n) {
		return errors.New("want a number of vcpus such as 2 or 0.5")
	}
	*v = vcpu(math.Round(n * 1000))
	return nil
}
