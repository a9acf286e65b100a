//go:build node

package e2e

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// TestNode runs Node with AWS's own runtime interface client.
func TestNode(t *testing.T) {
	s := up(t, onImages(map[string]string{"nodejs22.x": runtimeImage(t, "node")}))
	s.provider("subnet-a")
	t.Run("functions", func(t *testing.T) {
		t.Run("workers", func(t *testing.T) { t.Parallel(); s.nodeWorkers(t) })
		t.Run("init error", func(t *testing.T) { t.Parallel(); s.nodeInitError(t) })
		t.Run("native client", func(t *testing.T) { t.Parallel(); s.nodeCrashes(t, "native", nil) })
		t.Run("alternative client", func(t *testing.T) {
			t.Parallel()
			s.nodeCrashes(t, "alternative", map[string]string{"AWS_LAMBDA_NODEJS_USE_ALTERNATIVE_CLIENT_1": "true"})
		})
	})
	s.endsAtOnce(t)
}

// node is a function with some workers.
func node(t *testing.T, workers int, variables map[string]string) real {
	t.Helper()
	all := map[string]string{"AWS_LAMBDA_NODEJS_WORKER_COUNT": fmt.Sprint(workers)}
	maps.Copy(all, variables)
	return real{
		runtime: types.RuntimeNodejs22x, handler: "index.handler", code: testdata(t, "node/index.mjs", "index.mjs"),
		concurrency: 32, memory: 1024, timeout: 3, variables: all,
	}
}

// nodeWorkers: 32 invokes at once on 8 workers, which do not bound themselves;
// errors and late answers that disturb nobody.
func (s *stack) nodeWorkers(t *testing.T) {
	const name = "workers"
	s.realFunction(t, name, node(t, 8, nil))
	before := s.alone(t, name)
	all, refused := s.callAll(t, name, `{"sleep":1000}`, 64)
	if most := atOnce(all); most != 32 {
		t.Errorf("%d ran at once, want 32", most)
	}
	seen := workers(all)
	if len(all) != 64 || len(seen) != 8 {
		t.Errorf("%d answers of %d workers, want 64 of 8", len(all), len(seen))
	}
	t.Logf("64 callers on 32 slots were refused %d times", refused)
	if all, _ := s.callAll(t, name, `{"pool":true}`, 32); len(all) != 32 {
		t.Errorf("%d answers", len(all))
	}
	s.callFails(t, name, `{"throw":"no such thing"}`, "Unhandled", `"errorType":"RangeError"`, "no such thing")

	var wg sync.WaitGroup
	wg.Go(func() { s.callFails(t, name, `{"sleep":4000}`, "Task timed out after 3.00 seconds") })
	wg.Go(func() {
		for range 4 { // siblings before, at and after the deadline
			if _, err := s.call(t.Context(), name, `{"sleep":1200}`); err != nil {
				t.Errorf("a sibling of one that ran too long: %v", err)
			}
		}
	})
	wg.Wait()
	if after, _ := s.callAll(t, name, `{"sleep":100}`, 32); len(workers(after)) > 8 || after[0].PID != all[0].PID || s.alone(t, name) != before {
		t.Errorf("after a late answer other workers or another process answer")
	}
}

// nodeInitError: every worker reports it; the first report counts.
func (s *stack) nodeInitError(t *testing.T) {
	const name = "broken"
	f := s.realFunction(t, name, node(t, 4, map[string]string{"FAIL_INIT": "never heard of it"}))
	reason := aws.ToString(f.StateReason)
	if f.State != types.StateFailed || f.StateReasonCode != types.StateReasonCodeFunctionErrorRuntimeInitError && !strings.HasPrefix(string(f.StateReasonCode), "FunctionError") {
		t.Errorf("got %s, %s", f.State, f.StateReasonCode)
	}
	if !strings.Contains(reason, "RangeError") || !strings.Contains(reason, "never heard of it") {
		t.Errorf("got reason %q", reason)
	}
	s.remove(t, name)
}

// nodeCrashes: whatever ends the workers or the process, its callers are
// answered, and another environment takes over.
func (s *stack) nodeCrashes(t *testing.T, name string, variables map[string]string) {
	s.realFunction(t, name, node(t, 2, variables))
	for event, says := range map[string]string{
		// The native client aborts (134 or 139), the other ends with 0.
		`{"exit":0}`:                             "Runtime exited",
		`{"reject":"nobody cares","sleep":1000}`: "Runtime exited",
		`{"kill":"SIGABRT"}`:                     "Runtime exited with error: signal: aborted",
		`{"kill":"SIGSEGV"}`:                     "Runtime exited with error: signal: segmentation fault",
		`{"kill":"SIGTERM"}`:                     "Runtime exited with error: signal: terminated",
	} {
		before := s.alone(t, name)
		begin := time.Now()
		told := s.callersOfTheDead(t, name, event)
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("%s: callers waited %v", event, took)
		}
		if all := strings.Join(told, "\n"); !strings.Contains(all, says) || !strings.Contains(all, "Runtime.ExitError") {
			t.Errorf("%s: callers were told %q, want %q", event, told, says)
		}
		s.answersAgain(t, name, before)
	}
}

// callersOfTheDead invokes a function for four callers at once, each of which
// must be answered, and returns what they were told.
func (s *stack) callersOfTheDead(t *testing.T, name, event string) []string {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var told []string
	for range 4 { // one for each worker, and more to wake those that hang
		wg.Go(func() {
			d, err := s.call(t.Context(), name, event)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				t.Errorf("%s: got %+v", event, d)
				return
			}
			told = append(told, err.Error())
		})
	}
	wg.Wait()
	return told
}

// endsAtOnce: Node ignores SIGTERM as PID 1, and is none here.
func (s *stack) endsAtOnce(t *testing.T) {
	begin := time.Now()
	for _, name := range []string{"workers", "native", "alternative"} {
		s.remove(t, name)
	}
	s.eventually(20*time.Second, "nothing to run", func() error {
		if envs := s.ps(); len(envs) > 0 {
			return fmt.Errorf("%+v", envs)
		}
		return nil
	})
	t.Logf("all ended after %v", time.Since(begin).Round(time.Millisecond))
}
