//go:build node

package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// processes finds this stack's processes of a binary.
func (s *stack) processes(binary string) []int {
	s.t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		s.t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		words := strings.Split(string(cmdline), "\x00")
		if filepath.Base(words[0]) != binary || !strings.Contains(string(cmdline), s.dir) {
			continue
		}
		pids = append(pids, pid)
	}
	return pids
}

// functions finds the host's pids of the function's processes: those whose
// command is the bootstrap and whose cgroup is ours.
func (s *stack) functions() []int {
	s.t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		s.t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		cgroup, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		program, _, _ := strings.Cut(string(cmdline), "\x00")
		if (program == "/var/task/bootstrap" || program == "/opt/bootstrap") && s.owns(string(cgroup)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// owns tells whether a cgroup is that of one of this stack's instances.
func (s *stack) owns(cgroup string) bool {
	instances, err := os.ReadDir(filepath.Join(s.dir, "instances"))
	if err != nil {
		s.t.Fatal(err)
	}
	return slices.ContainsFunc(instances, func(e os.DirEntry) bool { return strings.Contains(cgroup, e.Name()) })
}

func kill(t *testing.T, pids ...int) {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("nothing to kill")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
}

// replaced fails unless there are three processes, none of them the victim.
func replaced(pids []int, victim int) error {
	if len(pids) != 3 || slices.Contains(pids, victim) {
		return fmt.Errorf("processes %v", pids)
	}
	return nil
}

// environment is a line of "hearth ps -o json".
type environment struct {
	ID       string `json:"id"`
	Function string `json:"function"`
	Instance string `json:"instance"`
	Zone     string `json:"zone"`
	State    string `json:"state"`
	Sandbox  string `json:"sandbox_id"`
	InFlight int    `json:"in_flight"`
	Reason   string `json:"reason"`
}

func (s *stack) ps() []environment {
	s.t.Helper()
	var list []environment
	s.hearth(&list, "ps")
	return list
}

// allReady waits until three environments are ready, on connected instances.
func (s *stack) allReady() {
	s.t.Helper()
	s.eventually(20*time.Second, "three environments to be ready", s.readyOn)
}

// part is a process of an environment, found from that of the function.
type part struct {
	name string
	// command begins its command line.
	command string
	// above is how many generations it is above the function's process.
	above int
}

// TestKilledPartsOfAnEnvironmentAreReplaced: kill -9 of a function's process, of
// the init process above it, of the shim above that. The invokes that ran there
// are answered at once with Runtime.ExitError, those on the others go on, the
// environment comes back, and nothing is left of the one that died.
func TestKilledPartsOfAnEnvironmentAreReplaced(t *testing.T) {
	s := up(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(4))
	for _, p := range []part{
		{"runtime", "/var/task/bootstrap", 0},
		{"init", "/.hearth/init", 1},
		{"shim", "containerd-shim", 2},
	} {
		s.step(p.name, func() { s.killPart(p) })
	}
}

// killPart kills one part of that of three environments which runs most of six
// invokes. How they spread is the router's choice.
func (s *stack) killPart(p part) {
	t := s.t
	const sleep = 5 * time.Second
	s.allReady()
	callers := s.hold(6, sleep)
	s.eventually(sleep-time.Second, "six invokes in flight", s.inFlight(6))
	runtime, lost := s.busiest()
	victim := runtime
	for range p.above {
		victim = parent(t, victim)
	}
	if got := commandLine(victim); !strings.Contains(got, p.command) {
		t.Fatalf("process %d is %q, want %s", victim, got, p.command)
	}
	dead := sandboxOf(t, runtime)
	if before := s.traces(dead); len(before) < 5 {
		t.Fatalf("there are only %q of a running sandbox: the test proves nothing", before)
	}
	begin := time.Now()
	kill(t, victim)
	s.back(begin, backToThree, "another process and three ready after the kill of "+p.name, func() error {
		return errors.Join(replaced(s.functions(), runtime), s.readyOn())
	})
	callers.wantExitErrors(lost, begin)
	s.eventually(10*time.Second, "all trace of the dead sandbox to go", func() error {
		if left := s.traces(dead); len(left) > 0 {
			return fmt.Errorf("left:\n  %s", strings.Join(left, "\n  "))
		}
		return nil
	})
	s.answers()
}

// busiest is the process of the function that runs most invokes, and how many.
func (s *stack) busiest() (pid, invokes int) {
	s.t.Helper()
	all := s.functions()
	for _, e := range s.ps() {
		i := slices.IndexFunc(all, func(pid int) bool { return sandboxOf(s.t, pid) == e.Sandbox })
		if i < 0 {
			s.t.Fatalf("none of the processes %v is in sandbox %q", all, e.Sandbox)
		}
		if e.InFlight > invokes {
			pid, invokes = all[i], e.InFlight
		}
	}
	return pid, invokes
}

// answers wants a few invokes on each environment to succeed.
func (s *stack) answers() {
	s.t.Helper()
	for range 12 {
		if _, _, err := s.invoke(s.t.Context(), event{}); err != nil {
			s.t.Error(err)
		}
	}
}

// callers are invokes that run side by side.
type callers struct {
	t       *testing.T
	answers []heardBack
	wg      sync.WaitGroup
}

// heardBack is what one of them was told, and when.
type heardBack struct {
	payload string
	err     error
	at      time.Time
}

// hold begins n invokes that take as long.
func (s *stack) hold(n int, sleep time.Duration) *callers {
	c := &callers{t: s.t, answers: make([]heardBack, n)}
	for i := range n {
		c.wg.Go(func() {
			_, out, err := s.invoke(s.t.Context(), event{SleepMS: int(sleep.Milliseconds())})
			c.answers[i] = heardBack{payload: string(payloadOf(out)), err: err, at: time.Now()}
		})
	}
	return c
}

// wait returns the answers of those who were told an error.
func (c *callers) wait() (failed []heardBack) {
	c.wg.Wait()
	for _, a := range c.answers {
		if a.err != nil {
			failed = append(failed, a)
		}
	}
	return failed
}

// wantExitErrors wants n callers, those of a process that was killed, to be told
// Runtime.ExitError at once, and all others to succeed.
func (c *callers) wantExitErrors(n int, killed time.Time) {
	c.t.Helper()
	failed := c.wait()
	if len(failed) != n {
		c.t.Errorf("%d of %d invokes failed, want the %d of the killed environment", len(failed), len(c.answers), n)
	}
	for _, a := range failed {
		waited := a.at.Sub(killed)
		if !strings.Contains(a.payload, "Runtime.ExitError") || waited > toldAtOnce || waited < 0 {
			c.t.Errorf("a caller was told %v %v after the kill, want Runtime.ExitError at once", a.err, waited)
		}
		c.t.Logf("a caller of it heard %v after the kill", waited.Round(time.Millisecond))
	}
}

// inFlight says whether n invokes run, as hearth ps knows.
func (s *stack) inFlight(n int) func() error {
	return func() error {
		sum := 0
		for _, e := range s.ps() {
			sum += e.InFlight
		}
		if sum != n {
			return fmt.Errorf("%d are in flight", sum)
		}
		return nil
	}
}

// parent is the process that started pid.
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

func commandLine(pid int) string {
	content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(content), "\x00", " ")
}

// cgroupOf is empty when the process has ended.
func cgroupOf(pid int) string {
	content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return string(content)
}

// sandboxOf is the id of the sandbox a process runs in: the last part of its
// cgroup's name.
func sandboxOf(t *testing.T, pid int) string {
	t.Helper()
	cgroup := cgroupOf(pid)
	found := regexp.MustCompile(`/sandbox-(\S+)`).FindStringSubmatch(cgroup)
	if found == nil {
		t.Fatalf("process %d is in no sandbox: %q", pid, cgroup)
	}
	return found[1]
}

// traces is what there is of a sandbox on this machine: what leftovers finds,
// and what containerd keeps outside of its database.
func (s *stack) traces(sandbox string) []string {
	s.t.Helper()
	var found []string
	for _, line := range s.left() {
		if strings.Contains(line, sandbox) {
			found = append(found, line)
		}
	}
	for _, root := range []string{"/run/containerd", filepath.Dir(s.scope.Containerd)} {
		dirs, err := filepath.Glob(filepath.Join(root, "*", "io.containerd.runtime.v2.task", "*", sandbox))
		more, merr := filepath.Glob(filepath.Join(root, "io.containerd.runtime.v2.task", "*", sandbox))
		if err := errors.Join(err, merr); err != nil {
			s.t.Fatal(err)
		}
		found = append(append(found, dirs...), more...)
	}
	for _, instance := range s.instances() {
		// As containerd names the socket of a shim.
		sum := sha256.Sum256([]byte(filepath.Join(s.scope.Containerd, "hearth-"+instance, sandbox)))
		socket := "/run/containerd/s/" + hex.EncodeToString(sum[:])
		if _, err := os.Stat(socket); err == nil {
			found = append(found, "shim socket "+socket)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// instances are the ids of the local fleet's instances.
func (s *stack) instances() []string {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "instances"))
	if err != nil {
		s.t.Fatal(err)
	}
	var ids []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "i-") {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

// TestKilledAgentComesBack: kill -9 of an agent while invokes run. Those it
// ran are lost to their callers, never run twice; the others go on; the agent
// is started again and its environments are replaced.
func TestKilledAgentComesBack(t *testing.T) {
	t.Parallel()
	s := up(t)
	count := outside(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(1))
	victims := s.processes("hearth-agent")
	if len(victims) != 3 {
		t.Fatalf("%d agents, want 3", len(victims))
	}
	var wg sync.WaitGroup
	var lost, ok atomic.Int64
	for i := range 3 {
		wg.Go(func() {
			_, _, err := s.invoke(t.Context(), event{Dial: count.address, Say: fmt.Sprint(i), SleepMS: 8000})
			switch {
			case err == nil:
				ok.Add(1)
			case code(err) == "ServiceException":
				lost.Add(1)
			default:
				t.Errorf("invoke %d: %v", i, err)
			}
		})
	}
	s.eventually(6*time.Second, "three side effects", func() error {
		if n := count.total(); n != 3 {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
	begin := time.Now()
	kill(t, victims[0])
	s.back(begin, backToThree, "another agent and three ready after the kill of an agent", func() error {
		return errors.Join(replaced(s.processes("hearth-agent"), victims[0]), s.readyOn())
	})
	wg.Wait()
	if lost.Load() != 1 || ok.Load() != 2 {
		t.Errorf("%d lost and %d succeeded; want 1 and 2", lost.Load(), ok.Load())
	}
	count.once(t, 3)
	s.eventually(10*time.Second, "invokes on all three", func() error { return s.reaches(3) })
}

// reaches fails unless some invokes are answered by n environments.
func (s *stack) reaches(n int) error {
	seen := map[string]bool{}
	for range 3 * n {
		a, _, err := s.invoke(s.t.Context(), event{})
		if err != nil {
			return err
		}
		seen[a.Environment] = true
	}
	if len(seen) != n {
		return fmt.Errorf("%d environments answered", len(seen))
	}
	return nil
}

// TestKilledControlComesBack: kill -9 of hearth-control while invokes run. Their
// callers lose the connection at once; what they asked for is executed once, to
// its end, and frees its slots. No environment notices; the function is
// invocable again without help.
func TestKilledControlComesBack(t *testing.T) {
	t.Parallel()
	s := up(t)
	count := outside(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(4))
	s.allReady()
	before := s.functions()
	const held, sleep = 6, 6 * time.Second
	callers := s.count(count, held, sleep)
	s.eventually(sleep-time.Second, "six events in execution", count.executed(held))
	begin := time.Now()
	kill(t, s.processes("hearth-control")...)
	callers.wantLost(begin)
	s.back(begin, backInService, "invocable again after the kill of hearth-control", s.invocable)
	s.back(begin, backToThree, "three ready after the kill of hearth-control", s.readyOn)
	s.eventually(sleep+backInService, "the invokes that were lost to their callers to end", s.inFlight(0))
	if took := time.Since(begin); took < sleep/2 {
		t.Errorf("nothing was in flight any more %v after the kill, although the function takes %v", took, sleep)
	}
	count.once(t, held)
	s.fills(3 * 4)
	if after := s.functions(); !slices.Equal(after, before) || len(after) != 3 {
		t.Errorf("the function's processes were %v and are %v, want the same three", before, after)
	}
	f, err := s.lambda.GetFunction(t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String(functionName)})
	if err != nil || aws.ToString(f.Configuration.FunctionName) != "f" {
		t.Errorf("the function after the restart: %v", err)
	}
}

// wantLost wants all callers to be told at once that their connection is gone,
// and nothing else.
func (c *callers) wantLost(killed time.Time) {
	c.t.Helper()
	failed := c.wait()
	if len(failed) != len(c.answers) {
		c.t.Errorf("%d of %d callers were told an error, want all", len(failed), len(c.answers))
	}
	for _, a := range failed {
		waited := a.at.Sub(killed)
		if _, ok := errors.AsType[*smithyhttp.RequestSendError](a.err); !ok || code(a.err) != "" || waited < 0 || waited > toldAtOnce {
			c.t.Errorf("a caller was told %v %v after the kill, want a lost connection at once", a.err, waited)
		}
		c.t.Logf("a caller heard %v after the kill: %v", waited.Round(time.Millisecond), a.err)
	}
}

// TestRestartedControlAnswersWhatRuns: SIGTERM of hearth-control while invokes
// run. Their callers get their answers; whoever comes meanwhile finds nobody;
// no environment notices; the function is invocable again without help.
func TestRestartedControlAnswersWhatRuns(t *testing.T) {
	t.Parallel()
	s := up(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(4))
	s.allReady()
	before := s.functions()
	callers := s.hold(6, 4*time.Second)
	s.eventually(3*time.Second, "six invokes in flight", s.inFlight(6))
	old := s.processes("hearth-control")[0]
	if err := syscall.Kill(old, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, f := range callers.wait() {
		t.Errorf("an invoke that ran when the control service was stopped: %v", f.err)
	}
	answered := time.Now()
	s.back(answered, backInService, "another control service and an invoke after the last answer of the stopped", func() error {
		if now := s.processes("hearth-control"); len(now) != 1 || now[0] == old {
			return fmt.Errorf("processes %v", now)
		}
		return s.invocable()
	})
	s.back(answered, backToThree, "three ready after the last answer of the stopped", s.readyOn)
	if after := s.functions(); !slices.Equal(after, before) {
		t.Errorf("the function's processes were %v and are %v", before, after)
	}
	s.answers()
}

// TestNothingIsLeftAfterKillingEverything: kill -9 of every process of ours,
// then one hearth up and stop.
func TestNothingIsLeftAfterKillingEverything(t *testing.T) {
	s := up(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(nil)
	up := s.cmd.Process.Pid
	kill(t, append(append([]int{up}, s.processes("hearth-control")...), s.processes("hearth-agent")...)...)
	if err := <-s.exited; err == nil {
		t.Error("hearth up ended without an error although it was killed")
	}
	if pids := s.functions(); len(pids) > 0 { // most have seen the agent go and ended
		kill(t, pids...)
	}
	begin := time.Now()
	s.start()
	s.back(begin, backToThree, "an invoke of the function that was there after the start", s.invocable)
	// stop, at the end of the test, finds nothing left.
}

// counter counts lines by their text, outside of everything of ours: in a
// network namespace that only a route leads to.
type counter struct {
	address string
	mu      sync.Mutex
	lines   map[string]int
}

func (c *counter) counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.lines)
}

func (c *counter) total() int {
	n := 0
	for _, v := range c.counts() {
		n += v
	}
	return n
}

// outside makes the namespace and serves a counter in it.
func outside(t *testing.T) *counter {
	t.Helper()
	n := rand.IntN(256) // others may use this machine
	host, outer := fmt.Sprintf("hearthe2e%dh", n), fmt.Sprintf("hearthe2e%do", n)
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	lis, lerr := net.Listen("tcp", "0.0.0.0:7777")
	if err := errors.Join(lerr, netns.Set(home)); err != nil {
		t.Fatal(err)
	}
	runtime.UnlockOSThread()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host}, PeerName: outer, PeerNamespace: netlink.NsFd(ns)}
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkAdd(link), address(&netlink.Handle{}, host, fmt.Sprintf("10.212.%d.1/30", n)), address(inside, outer, fmt.Sprintf("10.212.%d.2/30", n))); err != nil {
		t.Fatal(err)
	}
	c := &counter{address: fmt.Sprintf("10.212.%d.2:7777", n), lines: map[string]int{}}
	var wg sync.WaitGroup
	wg.Go(func() { c.serve(lis, &wg) })
	t.Cleanup(func() {
		_ = lis.Close()
		wg.Wait()
		if err := errors.Join(netlink.LinkDel(link), ns.Close(), home.Close()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func address(h *netlink.Handle, name, cidr string) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return errors.Join(h.AddrAdd(l, a), h.LinkSetUp(l))
}

func (c *counter) serve(lis net.Listener, wg *sync.WaitGroup) {
	for {
		conn, err := lis.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer func() { _ = conn.Close() }()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				return
			}
			c.mu.Lock()
			c.lines[strings.TrimSpace(line)]++
			c.mu.Unlock()
		})
	}
}
