package local

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/fleet/fleettest"
	"github.com/hearth-compute/hearth/controlplane/fleet/local/process"
)

// fastExit keeps programs built with the race detector from waiting a second
// before they exit.
const fastExit = "GORACE=atexit_sleep_ms=0"

// TestMain turns the test binary into the programs that tests start.
func TestMain(m *testing.M) {
	os.Exit(program(m, os.Getenv("FAKE"))) //nolint:forbidigo // this is a main function
}

func program(m *testing.M, name string) int {
	switch name {
	case "agent":
		return fakeAgent(os.Args[1:])
	case "control":
		return fakeControl()
	default:
		return m.Run()
	}
}

// fakeAgent behaves as the files in its instance's directory say, and writes
// down what it is told to do in the file runs there. Its destroy is recorded in
// the data directory of the control service, which survives it.
func fakeAgent(args []string) int {
	dir := filepath.Dir(args[slices.Index(args, "--data-dir")+1])
	has := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	line, err := json.Marshal(fakeRun{os.Getpid(), args, os.Environ()})
	if err != nil {
		panic(err)
	}
	runs, err := os.OpenFile(filepath.Join(dir, "runs"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		panic(err)
	}
	_, _ = runs.Write(append(line, '\n'))
	println("the agent of", filepath.Base(dir), "says hello")
	switch {
	case slices.Contains(args, "--destroy") && has("cannot-destroy"):
		println("something is in the way")
		return 1
	case slices.Contains(args, "--destroy"):
		if err := os.WriteFile(filepath.Join(dir, "../../destroyed-"+filepath.Base(dir)), nil, 0o600); err != nil {
			panic(err)
		}
		return 0
	case has("crashes"):
		return 7
	}
	term := make(chan os.Signal, 1)
	if has("stubborn") {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(term, syscall.SIGTERM)
	}
	<-term
	return 0
}

type fakeRun struct {
	PID  int
	Args []string
	Env  []string
}

// fakeControl runs a fleet in the working directory until it is killed.
func fakeControl() int {
	f, err := New(testConfig("."))
	if err == nil {
		err = f.Run(context.Background())
	}
	panic(err)
}

func testConfig(dataDir string) Config {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Config{
		DataDir: dataDir, AgentPath: self, Control: "127.0.0.1:9100", Region: "us-east-1",
		Environ:     []string{"FAKE=agent", "HEARTH_DATA_DIR=/of/control", "NOTIFY_SOCKET=/run/x", fastExit},
		StopTimeout: 200 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	}
}

// newFleet makes a fleet whose instances are gone when the test ends.
func newFleet(t *testing.T, change func(*Config)) *Fleet {
	t.Helper()
	cfg := testConfig(t.TempDir())
	if change != nil {
		change(&cfg)
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.hostAddrs = func() ([]net.Addr, error) { return nil, nil }
	f.cgroups = t.TempDir()
	t.Cleanup(func() {
		for _, inst := range mustInstances(t, f) {
			_ = os.Remove(inst.path("cannot-destroy"))
		}
		ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Second, errors.New("cleaning up is too slow"))
		defer cancel()
		if err := f.TerminateAll(ctx); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return f
}

// run runs the fleet until the returned function is called or the test ends.
func run(t *testing.T, f *Fleet) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := f.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	stop = func() { cancel(errors.New("the test stopped it")); running.Wait() }
	t.Cleanup(stop)
	return stop
}

func launch(t *testing.T, f *Fleet, n int) instance {
	t.Helper()
	req := fleettest.Request(n)
	if err := f.Launch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	return instance{req.Instance, filepath.Join(f.root, string(req.Instance))}
}

func mustInstances(t *testing.T, f *Fleet) []instance {
	t.Helper()
	all, err := f.instances()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// runs are the starts of an instance's agent so far.
func (i instance) runs() []fakeRun {
	data, _ := os.ReadFile(i.path("runs"))
	var all []fakeRun
	for line := range strings.Lines(string(data)) {
		var r fakeRun
		if json.Unmarshal([]byte(line), &r) == nil {
			all = append(all, r)
		}
	}
	return all
}

// awaitRuns waits for the nth start and returns it.
func (i instance) awaitRuns(t *testing.T, n int) fakeRun {
	t.Helper()
	until(t, "agent "+string(i.id)+" was started "+strconv.Itoa(n)+" times", func() bool { return len(i.runs()) >= n })
	return i.runs()[n-1]
}

func (i instance) destroyed() bool {
	_, err := os.Stat(filepath.Join(i.dir, "../../destroyed-"+string(i.id)))
	return err == nil
}

func wantNothingLeft(t *testing.T, f *Fleet) {
	t.Helper()
	entries, err := os.ReadDir(f.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".lock" {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	fleettest.Run(t, func(t *testing.T) fleet.Cloud {
		f := newFleet(t, nil)
		run(t, f)
		return f
	})
}

func TestAgentIsToldEverythingItNeeds(t *testing.T) {
	t.Parallel()
	f := newFleet(t, func(c *Config) { c.InitPath = "/opt/hearth-init"; c.AgentArgs = []string{"--log-level", "debug"} })
	run(t, f)
	inst := launch(t, f, 1)
	got := inst.awaitRuns(t, 1)
	want := []string{
		"--data-dir", inst.dir + "/agent", "--control", "127.0.0.1:9100",
		"--containerd-address", "/run/containerd/containerd.sock",
		"--containerd-namespace", "hearth-i-00000000000000001",
		"--subnet", "10.201.0.0/24", "--deny-cidr", "10.201.0.0/16",
		"--nft-table", "hearth_i_00000000000000001", "--cgroup-parent", "/hearth/i-00000000000000001",
		"--vcpu", "0.5", "--memory", "256MiB", "--limit",
		"--capacity-provider", "provider", "--zone", "subnet-1",
		"--join-token-file", inst.dir + "/join-token",
		"--init-path", "/opt/hearth-init", "--region", "us-east-1", "--log-level", "debug",
	}
	if d := cmp.Diff(want, got.Args); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"FAKE=agent", fastExit}, got.Env); d != "" {
		t.Error(d)
	}
	info, err := os.Stat(inst.path("join-token"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("join token: %v, %v, want mode 0600", info.Mode(), err)
	}
	if token, _ := os.ReadFile(inst.path("join-token")); string(token) != "hearth1.1.secret.hash\n" {
		t.Errorf("got token %q", token)
	}
	if sid, err := unix.Getsid(got.PID); err != nil || sid != got.PID {
		t.Errorf("the agent %d is in session %d, %v, want one of its own", got.PID, sid, err)
	}
	until(t, "the agent's output is in its log", func() bool { return lastLine(inst.logFile()) == "the agent of i-00000000000000001 says hello" })
}

func TestDeadAgentIsStartedAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	run(t, f)
	inst, other := launch(t, f, 1), launch(t, f, 2)
	bystander := other.awaitRuns(t, 1)
	for n := range 3 {
		if err := unix.Kill(inst.awaitRuns(t, n+1).PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	inst.awaitRuns(t, 4)
	if got := other.runs(); len(got) != 1 || unix.Kill(bystander.PID, 0) != nil {
		t.Errorf("the other instance's agent was started %d times", len(got))
	}
}

func TestCrashingAgentIsStartedEverMoreSlowly(t *testing.T) {
	t.Parallel()
	var b backoff
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("do not really wait"))
	var waits []time.Duration
	for range 8 {
		b.sleep(ended, nil)
		waits = append(waits, b.next)
	}
	ms := time.Millisecond
	want := []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 5000 * ms, 5000 * ms}
	if d := cmp.Diff(want, waits); d != "" {
		t.Error(d)
	}
	f := newFleet(t, nil)
	inst := launch(t, f, 1)
	if err := os.WriteFile(inst.path("crashes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, f)
	inst.awaitRuns(t, 3)
}

func TestAgentsSurviveTheFleetAndAreTakenBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	stop := run(t, f)
	inst := launch(t, f, 1)
	agent := inst.awaitRuns(t, 1)
	stop()
	if err := unix.Kill(agent.PID, 0); err != nil {
		t.Fatalf("the agent ended with the fleet: %v", err)
	}
	again, err := New(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, again)
	// A second instance shows that the new fleet works by now.
	launch(t, again, 2).awaitRuns(t, 1)
	if got := inst.runs(); len(got) != 1 {
		t.Errorf("the agent was started %d times", len(got))
	}
	// It is supervised as before.
	if err := unix.Kill(agent.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	inst.awaitRuns(t, 2)
}

func TestAgentIsTakenBackWithoutItsPIDFile(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	stop := run(t, f)
	inst := launch(t, f, 1)
	inst.awaitRuns(t, 1)
	stop()
	if err := os.Remove(inst.pidFile()); err != nil {
		t.Fatal(err)
	}
	run(t, f)
	launch(t, f, 2).awaitRuns(t, 1)
	if got := inst.runs(); len(got) != 1 {
		t.Errorf("the agent was started %d times", len(got))
	}
}

func TestRecycledPIDIsNeverSignalled(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	inst := launch(t, f, 1)
	innocent, err := process.Start(exec.Command("/bin/sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		innocent.KillSession()
		until(t, "sleep ended", func() bool { return !innocent.Alive() })
	})
	if err := innocent.Note(inst.pidFile()); err != nil {
		t.Fatal(err)
	}
	if err := f.TerminateAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !innocent.Alive() {
		t.Error("somebody else's process was signalled")
	}
	wantNothingLeft(t, f)
}

func TestTerminateStopsDestroysAndRemoves(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	run(t, f)
	inst := launch(t, f, 1)
	agent := inst.awaitRuns(t, 1)
	if err := os.WriteFile(inst.path("stubborn"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(agent.PID, unix.SIGKILL); err != nil { // the next one is stubborn
		t.Fatal(err)
	}
	agent = inst.awaitRuns(t, 2)
	for range 3 {
		if err := f.Terminate(t.Context(), inst.id); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the instance is gone", func() bool { return len(mustInstances(t, f)) == 0 })
	if err := unix.Kill(agent.PID, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the agent still runs: %v", err)
	}
	if !inst.destroyed() {
		t.Error("the agent was not told to destroy")
	}
}

func TestForgottenShimsAreEnded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	req := fleettest.Request(0xf00000 + os.Getpid()) // no other test's namespace
	if err := f.Launch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	start := func(namespace string) *process.Process {
		p, err := process.Start(exec.Command("/bin/sh", "-c", "kill -STOP $$", "shim", "-namespace", namespace, "-id", "e-1"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.KillSession(); until(t, "it ended", func() bool { return !p.Alive() }) })
		return p
	}
	ours, other := start("hearth-"+string(req.Instance)), start("hearth-"+string(req.Instance)+"0")
	if err := f.TerminateAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "the forgotten shim ended", func() bool { return !ours.Alive() })
	if !other.Alive() {
		t.Error("a shim of another namespace was ended")
	}
}

func TestInstanceIsListedUntilDestroyingSucceeds(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	stop := run(t, f)
	inst := launch(t, f, 1)
	inst.awaitRuns(t, 1)
	if err := os.WriteFile(inst.path("cannot-destroy"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Terminate(t.Context(), inst.id); err != nil {
		t.Fatal(err)
	}
	inst.awaitRuns(t, 3) // the agent and two attempts
	if got := mustInstances(t, f); len(got) != 1 {
		t.Fatalf("got %v while the instance cannot be destroyed", got)
	}
	// The fleet crashes in the middle; the next one carries on.
	stop()
	if err := os.Remove(inst.path("cannot-destroy")); err != nil {
		t.Fatal(err)
	}
	again, err := New(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, again)
	until(t, "the instance is gone", func() bool { return len(mustInstances(t, f)) == 0 })
	wantAgents := 0
	for _, r := range inst.runs() {
		if !slices.Contains(r.Args, "--destroy") {
			wantAgents++
		}
	}
	if wantAgents != 0 {
		t.Errorf("an agent was started for a terminating instance")
	}
}

func TestTerminateAllSaysWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	inst := launch(t, f, 1)
	launch(t, f, 2)
	if err := os.WriteFile(inst.path("cannot-destroy"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	var err error
	var running sync.WaitGroup
	running.Go(func() { err = f.TerminateAll(ctx) })
	until(t, "the other instance is gone", func() bool { return len(mustInstances(t, f)) == 1 })
	cancel(errors.New("the test is impatient"))
	running.Wait()
	if err == nil || !strings.Contains(err.Error(), string(inst.id)) {
		t.Errorf("got %v, want an error that names %s", err, inst.id)
	}
	if got := mustInstances(t, f); len(got) != 1 || got[0].id != inst.id {
		t.Errorf("got %v, want only %s left", got, inst.id)
	}
}

// Everything is killed -9; TerminateAll alone leaves nothing.
func TestTerminateAllAfterControlAndAgentsWereKilled(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	one, two := launch(t, f, 1), launch(t, f, 2)
	control := startControl(t, f.cfg.DataDir)
	dead, living := one.awaitRuns(t, 1), two.awaitRuns(t, 1)
	control.KillSession()
	until(t, "control ended", func() bool { return !control.Alive() })
	if err := unix.Kill(dead.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(living.PID, 0); err != nil {
		t.Fatalf("the other agent did not survive control: %v", err)
	}
	if err := os.Mkdir(filepath.Join(f.root, ".new-i-3"), 0o700); err != nil { // died while launching
		t.Fatal(err)
	}
	if err := f.TerminateAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, inst := range []instance{one, two} {
		if !inst.destroyed() {
			t.Errorf("%s was not destroyed", inst.id)
		}
		if left, err := process.Find(inst.identity()...); err != nil || len(left) != 0 {
			t.Errorf("%s: %d processes left, %v", inst.id, len(left), err)
		}
	}
	wantNothingLeft(t, f)
}

func startControl(t *testing.T, dataDir string) *process.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Dir = dataDir
	cmd.Env = []string{"FAKE=control", fastExit}
	cmd.Stderr = os.Stderr
	p, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTwoFleetsDoNotManageTheSameInstances(t *testing.T) {
	t.Parallel()
	f := newFleet(t, nil)
	stop := run(t, f)
	launch(t, f, 1).awaitRuns(t, 1)
	again, err := New(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Run(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Run: got %v, want a failed precondition", err)
	}
	if err := again.TerminateAll(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("TerminateAll: got %v, want a failed precondition", err)
	}
	stop()
}

func TestInstancesNeverShareASubnet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, func(c *Config) { c.SubnetPool = netip.MustParsePrefix("10.9.7.1/22") })
	f.hostAddrs = func() ([]net.Addr, error) {
		return []net.Addr{&net.IPNet{IP: net.IPv4(10, 9, 5, 1), Mask: net.CIDRMask(32, 32)}, &net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}}, nil
	}
	for n, want := range []string{"10.9.4.0/24", "10.9.6.0/24", "10.9.7.0/24"} {
		r, err := launch(t, f, n).record()
		if err != nil || r.Subnet.String() != want {
			t.Errorf("instance %d: got %s, %v, want %s", n, r.Subnet, err, want)
		}
	}
	if err := f.Launch(t.Context(), fleettest.Request(3)); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v, want resource exhausted", err)
	}
	if got := nextSubnet(netip.MustParseAddr("255.255.255.0")); got.IsValid() {
		t.Errorf("got %s after the last subnet", got)
	}
}

func TestLaunchStopsAtTheLimit(t *testing.T) {
	t.Parallel()
	f := newFleet(t, func(c *Config) { c.MaxInstances = 2 })
	launch(t, f, 1)
	launch(t, f, 2)
	if err := f.Launch(t.Context(), fleettest.Request(3)); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v, want resource exhausted", err)
	}
	launch(t, f, 2)
}

func TestLogStaysBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "agent.log")
	writer, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close() }()
	for n := range 100 {
		_, _ = writer.WriteString("line " + strconv.Itoa(n) + " of the log\n")
		if err := boundLog(path, 100); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{path, path + ".1"} {
			if info, err := os.Stat(name); err == nil && info.Size() > 100 {
				t.Fatalf("%s has %d bytes", name, info.Size())
			}
		}
	}
	both, _ := os.ReadFile(path)
	old, _ := os.ReadFile(path + ".1")
	if !strings.HasSuffix(string(old)+string(both), "line 98 of the log\nline 99 of the log\n") {
		t.Errorf("got %q and %q", old, both)
	}
	if err := boundLog(filepath.Join(t.TempDir(), "none"), 1); err != nil {
		t.Errorf("a log that does not exist: %v", err)
	}
}

func TestConfigMistakesAreAllNamed(t *testing.T) {
	t.Parallel()
	_, err := New(Config{SubnetPool: netip.MustParsePrefix("10.0.0.0/25")})
	for _, want := range []string{"data directory", "logger", "10.0.0.0/25"} {
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an invalid argument with %q", err, want)
		}
	}
}

func TestAmountsAreWrittenAsFlagsWantThem(t *testing.T) {
	t.Parallel()
	for cpu, want := range map[controlplane.MilliCPU]string{2000: "2", 500: "0.5", 1250: "1.25", 16000: "16"} {
		if got := formatCPU(cpu); got != want {
			t.Errorf("%d: got %q, want %q", cpu, got, want)
		}
	}
	for size, want := range map[controlplane.Bytes]string{8 << 30: "8GiB", 512 << 20: "512MiB", 1 << 10: "1KiB", 1500: "1500B"} {
		if got := formatBytes(size); got != want {
			t.Errorf("%d: got %q, want %q", size, got, want)
		}
	}
}

func TestEmptyCgroupParentIsRemoved(t *testing.T) {
	t.Parallel()
	v1, v2 := t.TempDir(), t.TempDir()
	for _, dir := range []string{v1 + "/cpu/hearth", v1 + "/memory/hearth/i-1", v2 + "/hearth", v2 + "/user.slice/hearth"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(v2+"/cgroup.controllers", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	removeCgroupParent(v1)
	removeCgroupParent(v2)
	for dir, want := range map[string]bool{
		v1 + "/cpu/hearth": false, v1 + "/memory/hearth/i-1": true, v2 + "/hearth": false, v2 + "/user.slice/hearth": true,
	} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: got %v, want there %t", dir, err, want)
		}
	}
}
