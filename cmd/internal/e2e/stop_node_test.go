//go:build node

package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"golang.org/x/sys/unix"
)

// TestStoppedAgentFinishesWhatRuns: SIGTERM ends an agent in order. What it runs
// finishes, its containers stay, and the next agent replaces them, new first.
// While others serve nobody notices. While no agent takes anything callers are
// throttled, and told nothing else.
func TestStoppedAgentFinishesWhatRuns(t *testing.T) {
	t.Parallel()
	s := up(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(func(in *lambda.CreateFunctionInput) {
		concurrency(1)(in)
		// Runtimes that end themselves when their Runtime API goes prove nothing.
		in.Environment = &types.Environment{Variables: map[string]string{"PATIENT": "1"}}
	})
	s.allReady()
	s.step("one of three", func() { s.stopsAgents(1).end(s.t) })
	s.step("all", func() { s.stopsAgents(3).endWith(s.t, "TooManyRequestsException") })
}

// tenancy is an agent and the process of its one function.
type tenancy struct{ agent, function int }

// stopsAgents stops n of three agents while each runs an invoke, and returns
// the traffic that went on meanwhile.
func (s *stack) stopsAgents(n int) *traffic {
	t := s.t
	t.Helper()
	const sleep = 4 * time.Second
	callers := s.hold(n, sleep)
	s.eventually(sleep-time.Second, "invokes in flight", s.inFlight(n))
	before := s.busy(n)
	load := s.traffic("")
	ends := map[int]func() time.Duration{}
	for _, old := range before {
		ends[old.agent], ends[old.function] = endOf(t, old.agent), endOf(t, old.function)
		if err := syscall.Kill(old.agent, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range callers.wait() {
		t.Errorf("an invoke that ran when its agent was stopped: %v", f.err)
	}
	begin := time.Now()
	for _, old := range before {
		if agent, function := ends[old.agent](), ends[old.function](); agent >= function {
			t.Errorf("the function ended %v before its agent: what it was in was not left", agent-function)
		}
	}
	s.back(begin, backToThree, "three ready after the last answer of the stopped", s.readyOn)
	after := s.tenancies()
	for instance, old := range before {
		old.wantSuccessor(t, after[instance], ends[old.function]())
	}
	s.eventually(backInService, "invokes on all three", func() error { return s.reaches(3) })
	return load
}

// wantSuccessor wants another agent, and another process that was there before
// the old one ended.
func (old tenancy) wantSuccessor(t *testing.T, successor tenancy, ended time.Duration) {
	t.Helper()
	if successor.agent == old.agent || successor.function == old.function {
		t.Errorf("an instance had %+v and has %+v", old, successor)
	}
	if began := startOf(t, successor.function); began > ended {
		t.Errorf("%+v: the old process ended %v before the new one began", old, began-ended)
	}
}

// busy returns those of the n instances that run an invoke.
func (s *stack) busy(n int) map[string]tenancy {
	s.t.Helper()
	all := s.tenancies()
	for _, e := range s.ps() {
		if e.InFlight == 0 {
			delete(all, e.Instance)
		}
	}
	if len(all) != n {
		s.t.Fatalf("%d agents run something, want %d", len(all), n)
	}
	return all
}

// tenancies are those of the three instances.
func (s *stack) tenancies() map[string]tenancy {
	s.t.Helper()
	all := map[string]tenancy{}
	for _, agent := range s.processes("hearth-agent") {
		all[instanceOf(s.t, agent)] = tenancy{agent: agent}
	}
	for _, pid := range s.functions() {
		instance := instanceID.FindString(cgroupOf(pid))
		one, ok := all[instance]
		if !ok || one.function != 0 {
			s.t.Fatalf("process %d is not the only one of instance %q: %+v", pid, instance, all)
		}
		one.function = pid
		all[instance] = one
	}
	if len(all) != 3 || slices.ContainsFunc(slices.Collect(maps.Values(all)), func(one tenancy) bool { return one.function == 0 }) {
		s.t.Fatalf("agents and processes %+v, want three", all)
	}
	return all
}

// endOf watches a process and returns a function that waits for its end, and
// says when that was after the machine was booted.
func endOf(t *testing.T, pid int) func() time.Duration {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var at time.Duration
	wg.Go(func() {
		defer func() { _ = unix.Close(fd) }()
		deadline := time.Now().Add(backToThree)
		for n := 0; n == 0; {
			left := int(time.Until(deadline).Milliseconds())
			if left <= 0 {
				t.Errorf("process %d did not end in %v", pid, backToThree)
				return
			}
			n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, left) // it may be interrupted
			n = max(n, 0)
		}
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			t.Error(err)
		}
		at = time.Duration(now.Nano())
	})
	t.Cleanup(wg.Wait)
	return func() time.Duration { wg.Wait(); return at }
}

// startOf is when a process was started after the machine was booted, to 10 ms
// and never too late.
func startOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(content), ") ")
	ticks, err := strconv.Atoi(strings.Fields(rest)[19])
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(ticks) * time.Second / 100
}
