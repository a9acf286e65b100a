//go:build node

package containerd_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/containerd"
	"github.com/hearth-compute/hearth/sandbox/leftovers"
	"github.com/hearth-compute/hearth/sandbox/sandboxtest"
)

// spared returns the configuration of a driver that keeps n spares.
func spared(t *testing.T, n int) containerd.Config {
	t.Helper()
	cfg := config(t)
	cfg.Spares = n
	return cfg
}

// awaitSpares waits until a driver has n spares and returns them.
func awaitSpares(t *testing.T, d *containerd.Driver, n int) []sandbox.ID {
	t.Helper()
	await(t, fmt.Sprintf("%d spares", n), func() bool { return len(d.Spares()) == n })
	return d.Spares()
}

// mentions returns what there is on the host with a name that has text in it.
func mentions(t *testing.T, cfg containerd.Config, text string) []string {
	t.Helper()
	return slices.DeleteFunc(snapshot(t, cfg), func(line string) bool { return !strings.Contains(line, text) })
}

func TestConformanceWithSpares(t *testing.T) {
	requireNode(t)
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Machine {
		cfg := spared(t, 2)
		s := spec(t, "unused")
		return sandboxtest.Machine{
			Open: func(t *testing.T, output sandbox.Output) sandboxtest.Driver {
				cfg.Output = output
				d := open(t, cfg)
				awaitSpares(t, d, 2)
				return d
			},
			Image: static, MissingImage: sandbox.Image{Ref: "builtin:missing"},
			Command: s.Args[0], Mounts: s.Mounts, User: s.User, Kernel: true,
		}
	})
}

// TestAKillWhileTakingASpareLeavesNothing: after each step of it.
func TestAKillWhileTakingASpareLeavesNothing(t *testing.T) {
	w := newWorld(t)
	if err := errors.Join(w.HalfCreate(t.Context(), "first"), w.Remove(t.Context(), "first")); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, w.cfg)
	for steps := range containerd.TakeSteps + 1 {
		cfg := w.cfg
		cfg.Spares = 1
		killed := open(t, cfg)
		awaitSpares(t, killed, 1)
		if err := killed.HalfTake("victim", steps); err != nil {
			t.Fatalf("after %d steps: %v", steps, err)
		}
		half := len(mentions(t, cfg, "spare_")) > 0
		if len(mentions(t, cfg, "victim")) == 0 || half != (steps < containerd.TakeSteps) {
			t.Errorf("after %d steps: half done is %v", steps, half)
		}
		if err := open(t, w.cfg).Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		if left := leftovers.Diff(before, snapshot(t, w.cfg)); len(left) > 0 {
			t.Errorf("after %d steps, left behind:\n%s", steps, strings.Join(left, "\n"))
		}
	}
}

// TestASpareBecomesASandbox: it answers, has the size of /tmp it asked for and
// nothing of the spare's name, and removing it removes everything.
func TestASpareBecomesASandbox(t *testing.T) {
	cfg := spared(t, 2)
	out := &printed{lines: map[sandbox.ID][]string{}}
	cfg.Output = out.record
	w := world{open(t, cfg), cfg, out}
	if _, err := w.Pull(t.Context(), static); err != nil {
		t.Fatal(err)
	}
	for id, size := range map[sandbox.ID]sandbox.Bytes{"as-usual": 512 << 20, "smaller": 8 << 20} {
		first := awaitSpares(t, w.Driver, 2)
		s := spec(t, id, "wait", "0")
		s.Limits.Tmp = size
		status, err := w.Create(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		left := w.Spares()
		used := slices.DeleteFunc(first, func(id sandbox.ID) bool { return slices.Contains(left, id) })
		if len(used) != 1 {
			t.Fatalf("%s: %d spares were used", id, len(used))
		}
		if found := mentions(t, cfg, string(used[0])); len(found) > 0 {
			t.Errorf("%s: the spare is still there: %v", id, found)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(status.TmpPath, &fs); err != nil {
			t.Fatal(err)
		}
		if total := sandbox.Bytes(fs.Blocks) * sandbox.Bytes(fs.Bsize); total > size || total < size*8/10 {
			t.Errorf("%s: /tmp has %d bytes, want about %d", id, total, size)
		}
		l, err := w.Listen(t.Context(), id, "127.0.0.1:9001")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Close(), w.Start(t.Context(), id), w.Remove(t.Context(), id)); err != nil {
			t.Error(err)
		}
		if found := mentions(t, cfg, string(id)); len(found) > 0 {
			t.Errorf("left behind: %v", found)
		}
	}
}

// TestEachSpareIsUsedOnce: however many want one.
func TestEachSpareIsUsedOnce(t *testing.T) {
	cfg := spared(t, 4)
	d := open(t, cfg)
	if _, err := d.Pull(t.Context(), static); err != nil {
		t.Fatal(err)
	}
	awaitSpares(t, d, 4)
	var g sync.WaitGroup
	for i := range 6 {
		g.Go(func() {
			s := spec(t, sandbox.ID(fmt.Sprintf("e-%d", i)), "wait", "0")
			s.Limits.Tmp = 512 << 20
			if _, err := d.Create(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	addresses := map[string]sandbox.ID{}
	for i := range 6 {
		id := sandbox.ID(fmt.Sprintf("e-%d", i))
		address, err := d.Address(id)
		if err != nil {
			t.Error(err)
		}
		if other, taken := addresses[address]; taken || address == "" {
			t.Errorf("%s has address %q, and so has %q", id, address, other)
		}
		addresses[address] = id
		if err := os.WriteFile(filepath.Join(cfg.DataDir, "tmp", string(id), "mine"), nil, 0o600); err != nil {
			t.Error(err)
		}
		if entries, err := os.ReadDir(filepath.Join(cfg.DataDir, "tmp", string(id))); err != nil || len(entries) != 1 {
			t.Errorf("/tmp of %s has %d files: %v", id, len(entries), err)
		}
	}
}

func TestSweepLeavesSparesThatCanBeTaken(t *testing.T) {
	cfg := spared(t, 2)
	d := open(t, cfg)
	before := awaitSpares(t, d, 2)
	if err := d.HalfCreate(t.Context(), "orphan"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Sweep(t.Context()), d.Open(t.Context())); err != nil {
		t.Fatal(err)
	}
	if found := mentions(t, cfg, "orphan"); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
	for _, id := range before {
		if len(mentions(t, cfg, string(id))) < 4 || !slices.Contains(d.Spares(), id) {
			t.Errorf("of %s there is only %v", id, mentions(t, cfg, string(id)))
		}
	}
	if err := d.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if found := mentions(t, cfg, "spare_"); len(found) > 0 || len(d.Spares()) > 0 {
		t.Errorf("destroying left %v", found)
	}
}

func TestSparesOfAnEarlierProcessAreRemoved(t *testing.T) {
	cfg := spared(t, 2)
	before := awaitSpares(t, open(t, cfg), 2)
	cfg.Spares = 0
	open(t, cfg)
	if found := mentions(t, cfg, "spare_"); len(found) > 0 {
		t.Errorf("of %v there is %v", before, found)
	}
}

// TestASmallSubnetHasNoSpares: its addresses are for sandboxes.
func TestASmallSubnetHasNoSpares(t *testing.T) {
	cfg := spared(t, 4)
	cfg.Subnet = netip.PrefixFrom(cfg.Subnet.Addr(), 27)
	d := open(t, cfg)
	awaitSpares(t, d, 1)
	if more, err := d.MakeSpare(t.Context()); more || err != nil || len(d.Spares()) != 1 {
		t.Errorf("%d spares of 29 addresses, %v", len(d.Spares()), err)
	}
}
