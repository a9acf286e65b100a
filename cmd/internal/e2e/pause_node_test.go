//go:build node

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// pauseLength is longer than any patience between agents and the control
// service.
const pauseLength = 30 * time.Second

// pause stops a process as a suspended machine or a debugger would, and returns
// when it began. The process continues when resume is called, at the latest
// when the test ends.
func pause(t *testing.T, pid int) (began time.Time, resume func()) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	resume = sync.OnceFunc(func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
	})
	t.Cleanup(resume)
	return began, resume
}

// instanceOf is the instance an agent process is of.
func instanceOf(t *testing.T, agent int) string {
	t.Helper()
	_, rest, _ := strings.Cut(commandLine(agent), "/instances/")
	id, _, found := strings.Cut(rest, "/")
	if !found {
		t.Fatalf("process %d has no instance: %s", agent, commandLine(agent))
	}
	return id
}

// TestAPausedAgentIsReplacedAndComesBack: an agent is stopped for 30 s and then
// goes on. Callers whose invokes it ran are told a ServiceException, long before
// the timeout of the function; new invokes go elsewhere within seconds; its
// environment is replaced. When it is back nothing runs twice: no event, no
// environment, no agent.
func TestAPausedAgentIsReplacedAndComesBack(t *testing.T) {
	t.Parallel()
	s := up(t)
	count := outside(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(4))
	s.allReady()
	victim := s.processes("hearth-agent")[0]
	held := s.count(count, 6, 3*time.Second)
	s.eventually(3*time.Second, "six events in execution", func() error {
		if n := count.total(); n != 6 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	began, resume := pause(t, victim)
	within := func(limit time.Duration) {
		t.Helper()
		for _, f := range held.wait() {
			waited := f.at.Sub(began)
			t.Logf("a caller of the paused agent was told %q %v after the pause", code(f.err), waited.Round(time.Millisecond))
			if code(f.err) != "ServiceException" || waited > limit {
				t.Errorf("a caller of the paused agent was told %v after %v, want a ServiceException within %v", f.err, waited, limit)
			}
		}
	}
	routed := s.stopsRouting(began, 10*time.Second)
	t.Logf("no invoke was sent to the paused agent any more %v after the pause", routed.Round(time.Millisecond))
	within(20 * time.Second)
	s.back(began, pauseLength, "three environments ready on others after the pause", func() error { return s.readyBeside(instanceOf(t, victim), 3) })
	if early := pauseLength - time.Since(began); early > 0 {
		<-time.After(early)
	}
	resumed := time.Now()
	resume()
	s.back(resumed, backToThree, "three environments and no more after the agent went on", func() error {
		if err := s.readyOn(); err != nil {
			return err
		}
		return three(s.functions())
	})
	count.once(t, 6)
	agents := map[string]int{}
	for _, pid := range s.processes("hearth-agent") {
		agents[instanceOf(t, pid)]++
	}
	for _, id := range s.instances() {
		if agents[id] != 1 {
			t.Errorf("instance %s has %d agents", id, agents[id])
		}
	}
	s.answers()
}

// count begins n invokes of which each says its number outside and then takes
// as long.
func (s *stack) count(count *counter, n int, sleep time.Duration) *callers {
	c := &callers{t: s.t, answers: make([]heardBack, n)}
	for i := range n {
		c.wg.Go(func() {
			_, out, err := s.invoke(s.t.Context(), event{Dial: count.address, Say: fmt.Sprint(i), SleepMS: int(sleep.Milliseconds())})
			c.answers[i] = heardBack{payload: string(payloadOf(out)), err: err, at: time.Now()}
		})
	}
	return c
}

// stopsRouting invokes all the time and returns how long after began the last
// one was begun that failed, once there was none for a while. A caller may be
// told nothing but ServiceException.
func (s *stack) stopsRouting(began time.Time, limit time.Duration) time.Duration {
	s.t.Helper()
	var wg sync.WaitGroup
	defer wg.Wait()
	var last atomic.Int64 // of those that are not answered or failed
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var failures atomic.Int64
	for time.Since(began) < limit {
		<-tick.C
		at := time.Since(began)
		answered := make(chan error, 1)
		wg.Go(func() {
			_, _, err := s.invoke(s.t.Context(), event{})
			answered <- err
		})
		wg.Go(func() {
			slow := time.NewTimer(2 * time.Second)
			defer slow.Stop()
			select {
			case err := <-answered:
				if err == nil {
					return
				}
				answered <- err
			case <-slow.C:
			}
			last.Store(max(last.Load(), int64(at)))
			if err := <-answered; err != nil {
				failures.Add(1)
				if code(err) != "ServiceException" {
					s.t.Errorf("an invoke %v after the pause: %v", at, err)
				}
			}
		})
	}
	wg.Wait()
	s.t.Logf("%d invokes that were begun after the pause went to the paused agent", failures.Load())
	if d := time.Duration(last.Load()); d > limit/2 {
		s.t.Errorf("an invoke was sent to the paused agent %v after the pause", d)
	}
	return time.Duration(last.Load())
}

// readyBeside fails unless n environments are ready on other instances than one.
func (s *stack) readyBeside(instance string, n int) error {
	ready := 0
	for _, e := range s.ps() {
		if e.State == "Ready" && e.Instance != instance {
			ready++
		}
	}
	if ready != n {
		return fmt.Errorf("%d are ready", ready)
	}
	return nil
}

// readyOn fails unless there are three environments and all are ready.
func (s *stack) readyOn() error {
	envs := s.ps()
	if slices.ContainsFunc(envs, func(e environment) bool { return e.State != "Ready" }) || len(envs) != 3 {
		return fmt.Errorf("environments %+v", envs)
	}
	return nil
}

// TestAPausedControlServiceReplacesNothing: hearth-control is stopped for 30 s
// and then goes on. Whoever waited for an invoke gets the answer; the function
// is invocable at once; no environment is replaced and no instance launched,
// although no agent was heard for all that time.
func TestAPausedControlServiceReplacesNothing(t *testing.T) {
	t.Parallel()
	s := up(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(4))
	s.allReady()
	functions, instances := s.functions(), s.instances()
	held := s.hold(3, 4*time.Second)
	s.eventually(3*time.Second, "three invokes in flight", s.inFlight(3))
	began, resume := pause(t, s.processes("hearth-control")[0])
	<-time.After(pauseLength - time.Since(began))
	resumed := time.Now()
	resume()
	for _, f := range held.wait() {
		t.Errorf("an invoke that ran when the control service was paused: %v", f.err)
	}
	t.Logf("callers who waited were answered %v after it went on", time.Since(resumed).Round(time.Millisecond))
	s.back(resumed, backInService, "an invoke after it went on", s.invocable)
	s.back(resumed, backToThree, "all agents heard after it went on", s.readyOn)
	s.answers()
	// Longer than whatever might still be decided late.
	for begin := time.Now(); time.Since(begin) < 5*time.Second; <-time.After(200 * time.Millisecond) {
		if now := s.functions(); !slices.Equal(now, functions) {
			t.Fatalf("the function's processes were %v and are %v", functions, now)
		}
		if now := s.instances(); !slices.Equal(now, instances) {
			t.Fatalf("the instances were %v and are %v", instances, now)
		}
	}
}
