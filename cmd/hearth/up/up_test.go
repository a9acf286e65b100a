package up

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/fleet/local"
	"github.com/hearth-compute/hearth/controlplane/fleet/local/process"
)

// TestMain turns the test binary into the programs that tests start: a
// hearth-control that runs a real local fleet, its agents, and a hearth up.
func TestMain(m *testing.M) {
	switch os.Getenv("FAKE") {
	case "agent":
		fakeAgent(os.Args[1:])
	case "control":
		fakeControl(os.Args[1:])
	case "up":
		fakeUp(os.Args[1:])
	default:
		os.Exit(m.Run())
	}
}

// fastExit keeps programs built with the race detector from waiting a second
// before they exit.
const fastExit = "GORACE=atexit_sleep_ms=0"

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func flagValue(args []string, name string) string { return args[slices.Index(args, name)+1] }

// fakeAgent runs until it is told to stop, and destroys nothing.
func fakeAgent(args []string) {
	if slices.Contains(args, "--destroy") {
		os.Exit(0)
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	must(os.WriteFile(flagValue(args, "--data-dir")+"/runs-"+strconv.Itoa(os.Getpid()), nil, 0o600))
	<-term
	os.Exit(0)
}

// fakeControl has one instance, serves /readyz, and keeps a store.
func fakeControl(args []string) {
	dir := flagValue(args, "--data-dir")
	f := newFleet(dir)
	must(f.Launch(context.Background(), fleet.LaunchRequest{
		Instance: "i-1", Provider: "p", Zone: "z", JoinToken: "t", Size: controlplane.Resources{CPU: 500, Memory: 1 << 28},
	}))
	for _, name := range []string{"hearth.db", "hearth.db-wal", "ca/ca.pem", "artifacts/a"} {
		must(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	if _, err := os.Stat(filepath.Join(dir, "stubborn")); err == nil {
		stop()
		signal.Ignore(syscall.SIGTERM)
		ctx = context.Background()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", flagValue(args, "--metrics-listen"))
	must(err)
	go func() { _ = (&http.Server{Handler: mux, ReadHeaderTimeout: time.Second}).Serve(lis) }()
	must(f.Run(ctx))
	os.Exit(0)
}

// fakeUp is a hearth up in a process of its own, to be killed.
func fakeUp(args []string) {
	cfg := testConfig(args[0], args[1])
	cfg.Stdout, cfg.Stderr = os.Stdout, os.Stderr
	must(Run(context.Background(), cfg))
}

func self() string {
	path, err := os.Executable()
	must(err)
	return path
}

func newFleet(dir string) *local.Fleet {
	f, err := local.New(local.Config{
		DataDir: dir, AgentPath: self(), Control: "127.0.0.1:1", Environ: []string{"FAKE=agent", fastExit},
		Logger: slog.New(slog.DiscardHandler),
	})
	must(err)
	return f
}

func testConfig(dir, metrics string) Config {
	return Config{
		ControlPath: self(), Args: []string{"--metrics-listen", metrics}, Environ: []string{"FAKE=control", fastExit},
		DataDir: dir, Region: "us-east-1", Instances: newFleet(dir),
		Addresses:   Addresses{Lambda: "127.0.0.1:0", Agents: "127.0.0.1:0", Operators: "127.0.0.1:0", Metrics: metrics},
		StopTimeout: 5 * time.Second,
	}
}

// stack is a Run in this process.
type stack struct {
	cfg     Config
	signals chan os.Signal
	out     string
	ended   chan struct{}
	err     error // once ended is closed
}

// start starts a Run. Whatever happens, nothing of it is left when the test ends.
func start(t *testing.T, change func(*Config)) *stack {
	t.Helper()
	s := &stack{signals: make(chan os.Signal), out: filepath.Join(t.TempDir(), "out"), ended: make(chan struct{})}
	out, err := os.OpenFile(s.out, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s.cfg = testConfig(filepath.Join(t.TempDir(), "data"), freeAddress(t))
	s.cfg.Stdout, s.cfg.Stderr, s.cfg.Signals = out, out, s.signals
	if change != nil {
		change(&s.cfg)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		defer close(s.ended)
		s.err = Run(ctx, s.cfg)
	})
	t.Cleanup(func() {
		cancel(errors.New("the test is over"))
		running.Wait()
		if t.Failed() {
			t.Logf("hearth up ended with %v and said:\n%s", s.err, s.output())
		}
	})
	return s
}

func (s *stack) output() string {
	data, _ := os.ReadFile(s.out)
	return string(data)
}

func (s *stack) awaitOutput(t *testing.T, text string) {
	t.Helper()
	until(t, fmt.Sprintf("it says %q", text), func() bool { return strings.Contains(s.output(), text) })
}

// control is the hearth-control that runs.
func (s *stack) control(t *testing.T) *process.Process {
	t.Helper()
	var p *process.Process
	until(t, "hearth-control runs", func() bool {
		p = process.Recall(filepath.Join(s.cfg.DataDir, pidFileName), "--data-dir", s.cfg.DataDir)
		return p != nil
	})
	return p
}

// agents are the starts of agents so far, as process ids.
func (s *stack) agents() []int {
	found, _ := filepath.Glob(filepath.Join(s.cfg.DataDir, "instances/i-1/agent/runs-*"))
	var pids []int
	for _, path := range found {
		_, pid, _ := strings.Cut(filepath.Base(path), "-")
		n, _ := strconv.Atoi(pid)
		pids = append(pids, n)
	}
	return pids
}

func (s *stack) awaitAgent(t *testing.T) int {
	t.Helper()
	until(t, "the agent runs", func() bool { return len(s.agents()) > 0 })
	return s.agents()[0]
}

func (s *stack) stop(t *testing.T) {
	t.Helper()
	s.signals <- syscall.SIGTERM
	<-s.ended
	if s.err != nil {
		t.Errorf("Run: %v", s.err)
	}
}

func (s *stack) wantNothingLeft(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(s.cfg.DataDir); !os.IsNotExist(err) {
		entries, _ := os.ReadDir(s.cfg.DataDir)
		t.Errorf("the data directory is left with %v", entries)
	}
	for _, dir := range []string{s.cfg.DataDir, filepath.Join(s.cfg.DataDir, "instances/i-1/agent")} {
		if left, err := process.Find("--data-dir", dir); err != nil || len(left) != 0 {
			t.Errorf("%d processes are left, %v", len(left), err)
		}
	}
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

// nextPort is below what the kernel hands out, so that no two tests get the same.
var nextPort atomic.Int32

func freeAddress(t *testing.T) string {
	t.Helper()
	for range 200 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+os.Getpid()%500*20+int(nextPort.Add(1)))
		lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		if err == nil {
			_ = lis.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// gone reports whether a process has ended, reaped or not: an orphan's zombie is
// init's to reap.
func gone(pid int) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || len(cmdline) == 0
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.awaitOutput(t, "Hearth is running")
	agent := s.awaitAgent(t)
	s.stop(t)
	s.wantNothingLeft(t)
	if !gone(agent) {
		t.Error("the agent is left")
	}
	for _, want := range []string{
		"everything goes, functions included", "http://" + s.cfg.Addresses.Metrics + "/metrics",
		"aws --endpoint-url http://127.0.0.1:0 --region us-east-1 lambda list-functions", "everything is gone",
	} {
		if strings.Count(s.output(), want) != 1 {
			t.Errorf("it does not say %q once", want)
		}
	}
}

func TestKilledControlIsStartedAgainAndAgentsStay(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	agent := s.awaitAgent(t)
	first := s.control(t)
	first.Signal(unix.SIGKILL)
	s.awaitOutput(t, "hearth-control ended by itself (killed by SIGKILL); starting it again in 100ms")
	if second := s.control(t); second.PID == first.PID {
		t.Errorf("it is process %d still", first.PID)
	}
	if got := s.agents(); len(got) != 1 || gone(agent) {
		t.Errorf("the agent was started %d times", len(got))
	}
	s.stop(t)
	s.wantNothingLeft(t)
}

func TestKeepDataKeepsTheStoreOnly(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *Config) { c.KeepData = true })
	s.awaitOutput(t, "functions stay")
	agent := s.awaitAgent(t)
	s.stop(t)
	entries, err := os.ReadDir(s.cfg.DataDir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"artifacts", "ca", "hearth.db", "hearth.db-wal"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("got %q, %v, want %q", names, err, want)
	}
	if !gone(agent) {
		t.Error("the agent is left")
	}
}

func TestFilesOfOthersStay(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.awaitAgent(t)
	diary := filepath.Join(s.cfg.DataDir, "diary.txt")
	if err := os.WriteFile(diary, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.stop(t)
	entries, err := os.ReadDir(s.cfg.DataDir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "diary.txt" {
		t.Errorf("got %v, %v, want only diary.txt", entries, err)
	}
}

func TestThirdSignalGivesUpAndTheNextRunFinishes(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *Config) {
		c.StopTimeout = time.Hour
		must(os.MkdirAll(c.DataDir, 0o700))
		must(os.WriteFile(filepath.Join(c.DataDir, "stubborn"), nil, 0o600))
	})
	s.awaitOutput(t, "Hearth is running")
	agent := s.awaitAgent(t)
	control := s.control(t)
	s.signals <- syscall.SIGINT
	s.signals <- syscall.SIGINT
	s.awaitOutput(t, "once more gives up")
	if !control.Alive() {
		t.Error("the second signal killed hearth-control")
	}
	s.signals <- syscall.SIGINT
	<-s.ended
	if !errdefs.IsUnavailable(s.err) && !errors.Is(s.err, errGivenUp) {
		t.Errorf("got %v", s.err)
	}
	if !gone(control.PID) || gone(agent) {
		t.Errorf("control gone %t, agent gone %t; want true and false", gone(control.PID), gone(agent))
	}
	must(os.Remove(filepath.Join(s.cfg.DataDir, "stubborn")))
	again := start(t, func(c *Config) {
		c.DataDir, c.Instances = s.cfg.DataDir, s.cfg.Instances
	})
	again.awaitOutput(t, "Hearth is running")
	again.stop(t)
	again.wantNothingLeft(t)
}

// Everything may be killed in any order; one more run leaves nothing.
func TestRunAfterTheOneBeforeWasKilled(t *testing.T) {
	t.Parallel()
	for name, killed := range map[string]struct{ control, agent bool }{
		"only hearth up":   {},
		"and control":      {control: true},
		"and the agent":    {agent: true},
		"and all of these": {control: true, agent: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, metrics := filepath.Join(t.TempDir(), "data"), freeAddress(t)
			cmd := exec.Command(self(), dir, metrics)
			cmd.Env = []string{"FAKE=up", fastExit}
			before, err := process.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			old := &stack{cfg: testConfig(dir, metrics)}
			agent, control := old.awaitAgent(t), old.control(t)
			before.Signal(unix.SIGKILL)
			until(t, "hearth up ended", func() bool { return !before.Alive() })
			if killed.control {
				control.Signal(unix.SIGKILL)
				until(t, "control ended", func() bool { return !control.Alive() })
			}
			if killed.agent {
				must(unix.Kill(agent, unix.SIGKILL))
			}
			s := start(t, func(c *Config) {
				*c = Config{
					ControlPath: c.ControlPath, Args: old.cfg.Args, Environ: c.Environ, DataDir: dir, Instances: old.cfg.Instances,
					Addresses: old.cfg.Addresses, Signals: c.Signals, Stdout: c.Stdout, Stderr: c.Stderr, StopTimeout: c.StopTimeout,
				}
			})
			s.awaitOutput(t, "Hearth is running")
			if control.Alive() {
				t.Error("the old hearth-control still runs")
			}
			if !killed.agent && gone(agent) {
				t.Error("the agent was not taken back")
			}
			s.stop(t)
			s.wantNothingLeft(t)
		})
	}
}

func TestOneDataDirectoryOneRun(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.awaitAgent(t)
	other := s.cfg
	other.Addresses.Metrics = freeAddress(t)
	err := Run(t.Context(), other)
	if want := fmt.Sprintf("another hearth up (process %d) uses %s", os.Getpid(), s.cfg.DataDir); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	s.stop(t)
	s.wantNothingLeft(t)
}

func TestTakenAddressIsNamedBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	cfg := testConfig(t.TempDir(), freeAddress(t))
	cfg.Addresses.Operators = lis.Addr().String()
	cfg.Stdout, cfg.Stderr = os.Stdout, os.Stderr
	must(os.WriteFile(filepath.Join(cfg.DataDir, "hearth.db"), nil, 0o600))
	must(os.WriteFile(filepath.Join(cfg.DataDir, lockFileName), []byte("1\n"), 0o600)) // of a run that was killed
	err = Run(t.Context(), cfg)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "--operator-listen: ") {
		t.Errorf("got %v, want it to name --operator-listen", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "hearth.db")); err != nil {
		t.Errorf("the data of before: %v", err)
	}
}

func TestPreflightNamesEverythingThatIsMissing(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "containerd.sock")
	if err := (Preflight{UID: 1000}).Check(t.Context()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "sudo hearth up") {
		t.Errorf("got %v", err)
	}
	missing := Preflight{Binaries: []string{self(), "/nowhere/hearth-agent"}, ContainerdAddress: socket}
	err := missing.Check(t.Context())
	for _, want := range []string{"/nowhere/hearth-agent: no such file", "does not answer at " + socket + ": no such file", "apt-get install containerd"} {
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a failed precondition with %q", err, want)
		}
	}
	serveHealth(t, socket)
	if err := (Preflight{Binaries: []string{self()}, ContainerdAddress: socket}).Check(t.Context()); err != nil {
		t.Errorf("got %v with everything in place", err)
	}
}

// serveHealth answers at socket as containerd does.
func serveHealth(t *testing.T, socket string) {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, health.NewServer())
	var running sync.WaitGroup
	running.Go(func() {
		if err := srv.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(func() { srv.Stop(); running.Wait() })
}

func TestWildcardAddressesAreShownAsReachable(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		":9000": "127.0.0.1:9000", "0.0.0.0:9000": "127.0.0.1:9000", "[::]:9000": "127.0.0.1:9000",
		"10.0.0.1:9000": "10.0.0.1:9000", "localhost:9000": "localhost:9000",
	} {
		if got := reachable(address); got != want {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
}
