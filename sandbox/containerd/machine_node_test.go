//go:build node

package containerd_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/builtin"
	"github.com/hearth-compute/hearth/sandbox/containerd"
	"github.com/hearth-compute/hearth/sandbox/leftovers"
	"github.com/hearth-compute/hearth/sandbox/sandboxtest"
)

// pool is the range the tests' subnets come from.
var pool = netip.MustParsePrefix("10.201.0.0/16")

// machines counts the machines of this test process.
var machines atomic.Int32

// binaries builds hearth-init and the suite's program once.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hearth-node-test-")
	if err != nil {
		return "", err
	}
	for pkg, out := range map[string]string{
		"../../cmd/hearth-init":        "hearth-init",
		"../sandboxtest/testdata/prog": "task/prog",
	} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, out), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w: %s", pkg, err, out)
		}
	}
	return dir, errOf(os.Chmod(dir, 0o755), os.Chmod(filepath.Join(dir, "task"), 0o755))
})

func errOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	m.Run()
	if dir, err := binaries(); err == nil {
		_ = os.RemoveAll(dir)
	}
}

// requireNode skips where containers cannot run.
func requireNode(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat(containerd.DefaultAddress); err != nil {
		t.Skip("needs containerd at " + containerd.DefaultAddress)
	}
}

// config returns the configuration of a driver of its own and checks, when the
// test ends, that nothing of it is left.
func config(t *testing.T) containerd.Config {
	t.Helper()
	requireNode(t)
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	n := int(machines.Add(1))
	name := fmt.Sprintf("hearth-test-%d-%d", os.Getpid(), n)
	cfg := containerd.Config{
		Namespace: name, DataDir: filepath.Join(t.TempDir(), "data"),
		InitPath:  filepath.Join(bin, "hearth-init"),
		Subnet:    netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 201, byte(200 + n%50), 0}), 24),
		DenyCIDRs: []netip.Prefix{pool}, NftTable: name,
		CgroupParent: "/hearth-test/" + name,
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	scope := leftovers.Scope{
		Containerd: containerd.DefaultAddress, Prefix: name, DataDirs: []string{cfg.DataDir},
		Cgroups: []string{cfg.CgroupParent}, Subnets: []netip.Prefix{cfg.Subnet},
	}
	before, err := leftovers.Snapshot(t.Context(), scope)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		after, err := leftovers.Snapshot(context.WithoutCancel(t.Context()), scope)
		if err != nil {
			t.Error(err)
		}
		if left := leftovers.Diff(before, after); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
	t.Cleanup(func() {
		d, err := containerd.New(cfg)
		if err != nil {
			t.Error(err)
			return
		}
		if err := d.Destroy(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("destroying: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return cfg
}

// open returns an open driver that is closed when the test ends.
func open(t *testing.T, cfg containerd.Config) *containerd.Driver {
	t.Helper()
	d, err := containerd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := d.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// static is the built-in image.
var static = sandbox.Image{Ref: builtin.Static}

// spec returns the specification of a sandbox that runs the suite's program.
func spec(t *testing.T, id sandbox.ID, args ...string) sandbox.Spec {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return sandbox.Spec{
		ID: id, Image: static, Args: append([]string{"/var/task/prog"}, args...),
		User:   sandbox.User{UID: builtin.UID, GID: builtin.GID},
		Mounts: []sandbox.Mount{{Source: filepath.Join(bin, "task"), Target: "/var/task"}},
		Limits: sandbox.Limits{CPU: 1000, Memory: 64 << 20, Tmp: 8 << 20, PIDs: 64, OpenFiles: 1024},
	}
}

func TestConformance(t *testing.T) {
	requireNode(t)
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Machine {
		cfg := config(t)
		s := spec(t, "unused")
		return sandboxtest.Machine{
			Open: func(t *testing.T, output sandbox.Output) sandboxtest.Driver {
				cfg.Output = output
				return open(t, cfg)
			},
			Image: static, MissingImage: sandbox.Image{Ref: "builtin:missing"},
			Command: s.Args[0], Mounts: s.Mounts, User: s.User, Kernel: true,
		}
	})
}
