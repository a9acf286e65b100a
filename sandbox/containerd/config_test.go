package containerd_test

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/sandbox/containerd"
)

func valid() containerd.Config {
	return containerd.Config{
		Namespace: "hearth-i-1", DataDir: "/var/lib/hearth", InitPath: "/usr/bin/hearth-init",
		Subnet: netip.MustParsePrefix("10.201.3.0/24"), CgroupParent: "/hearth/i-1",
		Logger: slog.New(slog.DiscardHandler),
	}
}

func TestAValidConfigurationNeedsNoDaemon(t *testing.T) {
	t.Parallel()
	cfg := valid()
	cfg.Address = "/nowhere/containerd.sock"
	d, err := containerd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestConfigurationFaultsAreAllReported(t *testing.T) {
	t.Parallel()
	err := containerd.Config{}.Validate()
	if !errdefs.IsInvalidArgument(err) {
		t.Fatalf("got %v, want InvalidArgument", err)
	}
	for _, word := range []string{"namespace", "data directory", "init path", "subnet", "cgroup parent", "logger"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("no word about %s in: %v", word, err)
		}
	}
}

func TestEachConfigurationFaultIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*containerd.Config){
		"namespace with slash":   func(c *containerd.Config) { c.Namespace = "a/b" },
		"table with space":       func(c *containerd.Config) { c.NftTable = "a b" },
		"relative data":          func(c *containerd.Config) { c.DataDir = "data" },
		"data is the root":       func(c *containerd.Config) { c.DataDir = "/.." },
		"relative init":          func(c *containerd.Config) { c.InitPath = "hearth-init" },
		"IPv6 subnet":            func(c *containerd.Config) { c.Subnet = netip.MustParsePrefix("fd00::/64") },
		"small subnet":           func(c *containerd.Config) { c.Subnet = netip.MustParsePrefix("10.0.0.0/30") },
		"IPv6 in deny":           func(c *containerd.Config) { c.DenyCIDRs = []netip.Prefix{netip.MustParsePrefix("fd00::/64")} },
		"cgroup is the root":     func(c *containerd.Config) { c.CgroupParent = "/" },
		"cgroup goes up":         func(c *containerd.Config) { c.CgroupParent = "/hearth/../x" },
		"negative memory limit":  func(c *containerd.Config) { c.CgroupLimits.Memory = -1 },
		"negative cpu limit":     func(c *containerd.Config) { c.CgroupLimits.CPU = -1 },
		"nobody to tell":         func(c *containerd.Config) { c.Logger = nil },
		"namespace ends in dash": func(c *containerd.Config) { c.Namespace = "a-" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := valid()
			if err := cfg.Validate(); err != nil {
				t.Fatal(err)
			}
			change(&cfg)
			if _, err := containerd.New(cfg); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
}
