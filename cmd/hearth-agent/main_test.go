package main

import (
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/daemon"
	"github.com/hearth-compute/hearth/cmd/internal/boot"
)

func parse(t *testing.T, args []string, env map[string]string) (*flags, error) {
	t.Helper()
	fs := boot.NewFlagSet("hearth-agent", "")
	fs.SetOutput(io.Discard)
	f := register(fs)
	return f, boot.Parse(fs, args, func(key string) string { return env[key] })
}

func TestFlagsBecomeAConfig(t *testing.T) {
	t.Parallel()
	f, err := parse(t, []string{
		"--control", "a:1,b:2", "--zone", "z", "--vcpu", "0.5", "--memory", "8GiB", "--limit", "--subnet", "10.201.3.0/24",
		"--deny-cidr", "10.201.0.0/16", "--deny-cidr", "10.9.0.0/16", "--drain-timeout", "30s", "--join-token-file", "/t",
	}, map[string]string{"HEARTH_REGION": "eu-west-1", "HEARTH_ZONE": "ignored"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := f.config()
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if name := filepath.Base(cfg.InitPath); name != "hearth-init" {
		t.Errorf("got %s as init", name)
	}
	want := daemon.Config{
		Controls: []string{"a:1", "b:2"}, DataDir: "/var/lib/hearth/agent",
		ContainerdAddress: "/run/containerd/containerd.sock", ContainerdNamespace: "hearth",
		Zone: "z", JoinTokenFile: "/t", Subnet: netip.MustParsePrefix("10.201.3.0/24"),
		DenyCIDRs: []netip.Prefix{netip.MustParsePrefix("10.201.0.0/16"), netip.MustParsePrefix("10.9.0.0/16")},
		NftTable:  "hearth", Spares: 4, CgroupParent: "/hearth/agent", Allocatable: agent.Resources{CPU: 500, Memory: 8 << 30}, LimitParent: true,
		InitPath: cfg.InitPath, Region: "eu-west-1", CodeCache: 8 << 30, EnvironmentLogs: 16 << 20, Logs: 1 << 30, DataConnections: 2, DrainTimeout: 30 * time.Second,
		Hostname: cfg.Hostname, Version: cfg.Version,
	}
	if d := cmp.Diff(want, cfg, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestTheDefaultsAreApartFromTheLocalFleets(t *testing.T) {
	t.Parallel()
	f, err := parse(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := f.config()
	if err != nil {
		t.Fatal(err)
	}
	pool := netip.MustParsePrefix("10.201.0.0/16") // the default of hearth-control
	if cfg.Subnet.Overlaps(pool) {
		t.Errorf("the subnet %v is in %v", cfg.Subnet, pool)
	}
	for _, prefix := range []netip.Prefix{pool, netip.MustParsePrefix("10.200.0.0/16")} {
		if len(cfg.DenyCIDRs) != 1 || !cfg.DenyCIDRs[0].Contains(prefix.Addr()) || cfg.DenyCIDRs[0].Bits() > prefix.Bits() {
			t.Errorf("%v is not in %v", prefix, cfg.DenyCIDRs)
		}
	}
	// Instances of the local fleet are /hearth/i-….
	if cfg.CgroupParent != "/hearth/agent" {
		t.Errorf("got %s", cfg.CgroupParent)
	}
}

func TestTheVersionNeedsNoConfiguration(t *testing.T) {
	t.Parallel()
	f, err := parse(t, []string{"--version"}, nil)
	if err != nil || !f.version {
		t.Errorf("got %v %v", f.version, err)
	}
}

func TestMistakesInFlagsAreInvalidArguments(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--vcpu", "lots"}, {"--vcpu", "-1"}, {"--vcpu", "NaN"}, {"--memory", "x"}, {"--unknown"}, {"argument"}} {
		if _, err := parse(t, args, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: got %v", args, err)
		}
	}
	f, err := parse(t, []string{"--subnet", "here", "--deny-cidr", "there"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.config(); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "--subnet") || !strings.Contains(err.Error(), "--deny-cidr") {
		t.Errorf("got %v", err)
	}
}
