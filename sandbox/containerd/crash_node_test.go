//go:build node

package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/containerd"
	"github.com/hearth-compute/hearth/sandbox/leftovers"
)

// watched collects events until the test ends.
func watched(t *testing.T, d *containerd.Driver) func(sandbox.ID) (sandbox.Exit, bool) {
	t.Helper()
	var mu sync.Mutex
	seen := map[sandbox.ID]sandbox.Exit{}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- d.Watch(ctx, func(e sandbox.Event) {
			mu.Lock()
			defer mu.Unlock()
			seen[e.ID] = e.Exit
		})
	}()
	t.Cleanup(func() {
		cancel(nil)
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return func(id sandbox.ID) (sandbox.Exit, bool) {
		mu.Lock()
		defer mu.Unlock()
		exit, ok := seen[id]
		return exit, ok
	}
}

// parent returns the process that started pid.
func parent(t *testing.T, pid int) int {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), ") ")
	ppid, err := strconv.Atoi(strings.Fields(rest)[1])
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

func TestKillOfTheProcessIsAnExit(t *testing.T) {
	w := newWorld(t)
	exits := watched(t, w.Driver)
	w.answers(t, "victim", 1, "wait", "0")
	w.answers(t, "bystander", 1, "wait", "0")
	if err := syscall.Kill(status(t, w.Driver, "victim").PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the event", func() bool { _, ok := exits("victim"); return ok })
	if exit, _ := exits("victim"); exit.Code != 137 || exit.OOMKilled {
		t.Errorf("exit %+v, want 137 and not for memory", exit)
	}
	if s := status(t, w.Driver, "bystander"); s.State != sandbox.StateRunning {
		t.Errorf("the bystander is %s", s.State)
	}
}

func TestKillOfTheShimIsAnExitAndRemovable(t *testing.T) {
	w := newWorld(t)
	exits := watched(t, w.Driver)
	w.answers(t, "victim", 1, "stubborn")
	before := snapshot(t, w.cfg)
	socket := w.ShimSocket("victim")
	if _, err := os.Stat(socket); err != nil {
		t.Fatalf("a running sandbox has no socket of its shim, the test proves nothing: %v", err)
	}
	shim := parent(t, status(t, w.Driver, "victim").PID)
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the event", func() bool { _, ok := exits("victim"); return ok })
	await(t, "the state", func() bool { return stopped(t, w.Driver, "victim") })
	if err := w.Stop(t.Context(), "victim", 0); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if err := w.Remove(t.Context(), "victim"); err != nil {
		t.Errorf("removing: %v", err)
	}
	for _, line := range snapshot(t, w.cfg) {
		if strings.Contains(line, "victim") {
			t.Errorf("left behind: %s", line)
		}
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %s: %v", socket, err)
	}
	if len(before) == 0 {
		t.Error("the snapshot before saw nothing: the test proves nothing")
	}
	w.answers(t, "victim", 2, "print", "again") // the id is free: "waiting" came before
}

func TestAFailedCreateLeavesNothing(t *testing.T) {
	cfg := config(t)
	init := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(init, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.InitPath = init
	d := open(t, cfg)
	if _, err := d.Pull(t.Context(), static); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, cfg)
	if err := os.Remove(init); err != nil { // runc finds out, at the last step
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), spec(t, "never", "exit", "0")); err == nil {
		t.Fatal("created without an init process")
	}
	for _, line := range leftovers.Diff(before, snapshot(t, cfg)) {
		lease := strings.Contains(line, "/ipam/") && strings.Count(filepath.Base(line), ".") == 3
		if strings.Contains(line, "never") || lease {
			t.Errorf("left behind: %s", line)
		}
	}
	if all, err := d.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("listed: %+v %v", all, err)
	}
}

func snapshot(t *testing.T, cfg containerd.Config) leftovers.State {
	t.Helper()
	s, err := leftovers.Snapshot(t.Context(), leftovers.Scope{
		Containerd: cfg.Address, Prefix: cfg.Namespace, DataDirs: []string{cfg.DataDir},
		Cgroups: []string{cfg.CgroupParent}, Subnets: nil,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOpenSweepsWhatACrashLeft(t *testing.T) {
	w := newWorld(t)
	w.answers(t, "kept", 1, "wait", "0")
	if err := w.HalfCreate(t.Context(), "orphan"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(snapshot(t, w.cfg), "\n"), "orphan") {
		t.Fatal("there is no orphan: the test proves nothing")
	}
	again := open(t, w.cfg)
	for _, line := range snapshot(t, w.cfg) {
		if strings.Contains(line, "orphan") {
			t.Errorf("left behind: %s", line)
		}
	}
	if s := status(t, again, "kept"); s.State != sandbox.StateRunning {
		t.Errorf("the sandbox beside it is %s", s.State)
	}
}

func TestCgroupsOfOthersBelowTheParentAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.answers(t, "ours", 1, "wait", "0")
	cgroup := status(t, w.Driver, "ours").CgroupPath
	if want := w.cfg.CgroupParent + "/sandbox-ours"; cgroup != want {
		t.Errorf("the cgroup is %s, want %s", cgroup, want)
	}
	other := config(t)
	other.CgroupParent = w.cfg.CgroupParent + "/i-1"
	beside := world{open(t, other), other, w.out}
	t.Cleanup(func() {
		if err := beside.Destroy(context.WithoutCancel(t.Context())); err != nil { // the parent of both, too
			t.Errorf("destroying: %v", err)
		}
	})
	if _, err := beside.Pull(t.Context(), static); err != nil {
		t.Fatal(err)
	}
	beside.run(t, "theirs", "wait", "0")
	if err := w.Sweep(t.Context()); err != nil {
		t.Errorf("sweeping: %v", err)
	}
	if err := w.Destroy(t.Context()); err != nil {
		t.Errorf("destroying: %v", err)
	}
	if s := status(t, beside.Driver, "theirs"); s.State != sandbox.StateRunning {
		t.Errorf("the sandbox of the other driver is %s", s.State)
	}
}

func TestDestroyAfterEverythingWasKilled(t *testing.T) {
	w := newWorld(t) // its clean-up wants nothing left
	for i := range 3 {
		w.answers(t, sandbox.ID(fmt.Sprintf("e-%d", i)), 1, "stubborn")
	}
	if err := w.HalfCreate(t.Context(), "orphan"); err != nil {
		t.Fatal(err)
	}
	l, err := w.Listen(t.Context(), "e-0", "127.0.0.1:9001")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	all, err := w.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		_ = syscall.Kill(parent(t, s.PID), syscall.SIGKILL)
		_ = syscall.Kill(s.PID, syscall.SIGKILL)
	}
	d, err := containerd.New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Destroy(t.Context()); err != nil {
			t.Errorf("destroying: %v", err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// daemon is a containerd of the test's own, to be restarted at will.
type daemon struct {
	dir string
	cmd *exec.Cmd
}

func (d *daemon) address() string { return filepath.Join(d.dir, "containerd.sock") }

func (d *daemon) start(t *testing.T) {
	t.Helper()
	d.cmd = exec.Command("containerd", "--config", filepath.Join(d.dir, "config.toml"))
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		t.Skip("needs the containerd binary: ", err)
	}
	await(t, "containerd", func() bool {
		c, err := net.Dial("unix", d.address())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (d *daemon) kill(t *testing.T) {
	t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := d.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	_ = os.Remove(d.address())
}

func TestSandboxesAndWatchSurviveARestartOfContainerd(t *testing.T) {
	requireNode(t)
	d := &daemon{dir: t.TempDir()}
	toml := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(d.dir, "root"), filepath.Join(d.dir, "state"), d.address())
	if err := os.WriteFile(filepath.Join(d.dir, "config.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start(t)
	t.Cleanup(func() { d.kill(t) })
	cfg := config(t)
	out := &printed{lines: map[sandbox.ID][]string{}}
	cfg.Address, cfg.Output = d.address(), out.record
	w := world{open(t, cfg), cfg, out}
	t.Cleanup(func() {
		if err := w.Destroy(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("destroying: %v", err)
		}
	})
	if _, err := w.Pull(t.Context(), static); err != nil {
		t.Fatal(err)
	}
	exits := watched(t, w.Driver)
	w.answers(t, "during", 1, "wait", "3")
	w.answers(t, "after", 1, "wait", "4")
	during := status(t, w.Driver, "during").PID

	d.kill(t)
	if _, err := w.List(t.Context()); err == nil {
		t.Error("listing works without containerd")
	}
	if err := syscall.Kill(during, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, "the process", func() bool { return syscall.Kill(during, 0) != nil })
	d.start(t)
	await(t, "the exit while containerd was away", func() bool { _, ok := exits("during"); return ok })
	if exit, _ := exits("during"); exit.Code != 3 {
		t.Errorf("exit %+v, want 3", exit)
	}
	if err := w.Stop(t.Context(), "after", 20*time.Second); err != nil {
		t.Fatal(err)
	}
	await(t, "the exit after", func() bool { _, ok := exits("after"); return ok })
	if exit, _ := exits("after"); exit.Code != 4 {
		t.Errorf("exit %+v, want 4", exit)
	}
}
