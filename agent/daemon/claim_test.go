package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// hostConfig is what an agent of this test, and of this run of it, claims.
func hostConfig(t *testing.T, n byte) Config {
	t.Helper()
	name := fmt.Sprintf("hearth-claim-test-%d-%d", os.Getpid(), n)
	pid := os.Getpid()
	return Config{
		Controls: []string{"127.0.0.1:1"}, Zone: "z", DataDir: filepath.Join(t.TempDir(), "agent"),
		ContainerdAddress: filepath.Join(t.TempDir(), "none.sock"), ContainerdNamespace: name, NftTable: name,
		CgroupParent: "/" + name + "/agent", InitPath: "/none/hearth-init", Region: "us-east-1",
		Subnet:    netip.PrefixFrom(netip.AddrFrom4([4]byte{100 + n, byte(pid >> 8), byte(pid), 0}), 24),
		CodeCache: 1 << 30, DataConnections: 1, DrainTimeout: time.Minute, Log: slog.New(slog.DiscardHandler),
	}
}

func TestTwoAgentsNeverShareAPartOfTheHost(t *testing.T) {
	t.Parallel()
	first, second := hostConfig(t, 1), hostConfig(t, 2)
	release, err := first.claimHost(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*Config)
		flag   string
	}{
		"the same namespace": {func(c *Config) {
			c.ContainerdAddress, c.ContainerdNamespace = first.ContainerdAddress, first.ContainerdNamespace
		}, "--containerd-namespace"},
		"the same namespace by another path": {func(c *Config) {
			c.ContainerdAddress, c.ContainerdNamespace = linked(t, first.ContainerdAddress), first.ContainerdNamespace
		}, "--containerd-namespace"},
		"the same cgroup":       {func(c *Config) { c.CgroupParent = first.CgroupParent }, "--cgroup-parent"},
		"a cgroup below":        {func(c *Config) { c.CgroupParent = first.CgroupParent + "/x" }, "--cgroup-parent"},
		"a cgroup above":        {func(c *Config) { c.CgroupParent = filepath.Dir(first.CgroupParent) }, "--cgroup-parent"},
		"the same table":        {func(c *Config) { c.NftTable = first.NftTable }, "--nft-table"},
		"the same subnet":       {func(c *Config) { c.Subnet = first.Subnet }, "--subnet"},
		"part of the subnet":    {func(c *Config) { c.Subnet = netip.PrefixFrom(first.Subnet.Addr(), 28) }, "--subnet"},
		"more than that subnet": {func(c *Config) { c.Subnet = netip.PrefixFrom(first.Subnet.Addr(), 20) }, "--subnet"},
	} {
		cfg := second
		tc.change(&cfg)
		release, err := cfg.claimHost(t.Context())
		if err == nil {
			err = errors.Join(errors.New("it was let in"), release())
		}
		if !errdefs.IsFailedPrecondition(err) || !strings.HasPrefix(err.Error(), tc.flag) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// Nothing of what was refused is still claimed, and another containerd has
	// other namespaces.
	second.ContainerdNamespace = first.ContainerdNamespace
	second.CgroupParent = first.CgroupParent + "-2"
	done, err := second.claimHost(t.Context())
	if err != nil {
		t.Fatalf("an agent beside it: %v", err)
	}
	for _, release := range []func() error{release, done} {
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	again, err := first.claimHost(t.Context())
	if err != nil {
		t.Fatalf("after the other has ended: %v", err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
}

// linked is another path of a socket, which it creates.
func linked(t *testing.T, socket string) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Dir(socket), link); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(link, filepath.Base(socket))
}

func TestALongNameIsClaimedByItsHash(t *testing.T) {
	t.Parallel()
	cfg := hostConfig(t, 3)
	cfg.CgroupParent += strings.Repeat("/deeper", 40)
	release, err := cfg.claimHost(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }()
	other := hostConfig(t, 4)
	other.CgroupParent = cfg.CgroupParent
	if _, err := other.claimHost(t.Context()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "--cgroup-parent") {
		t.Errorf("got %v", err)
	}
}

func TestAnAgentTouchesNothingThatIsAnothers(t *testing.T) {
	t.Parallel()
	cfg := hostConfig(t, 5)
	claims := cfg.claims()
	for _, cl := range claims {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", cl.socket())
		if err != nil {
			t.Fatal(err)
		}
		for name, do := range map[string]func(*Agent, context.Context) error{"run": (*Agent).Run, "destroy": (*Agent).Destroy} {
			a, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := do(a, t.Context()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), cl.flag) {
				t.Errorf("%s with %s taken: got %v", name, cl.flag, err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(claims) != 4 {
		t.Errorf("there are %d claims", len(claims))
	}
}
