//go:build node

package e2e

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// TestPythonAndShell runs a process for each slot, and one that has but a shell
// and curl.
func TestPythonAndShell(t *testing.T) {
	s := up(t, onImages(map[string]string{
		"python3.13": runtimeImage(t, "python"), "provided.al2023": runtimeImage(t, "base"),
	}))
	s.provider("subnet-a")
	t.Run("functions", func(t *testing.T) {
		t.Run("python", func(t *testing.T) { t.Parallel(); s.python(t) })
		t.Run("init error", func(t *testing.T) { t.Parallel(); s.pythonInitError(t) })
		t.Run("shell", func(t *testing.T) { t.Parallel(); s.shell(t) })
	})
}

func pythonFunction(t *testing.T, variables map[string]string) real {
	t.Helper()
	return real{
		runtime: types.RuntimePython313, handler: "app.handler", code: testdata(t, "python/app.py", "app.py"),
		concurrency: 4, memory: 1024, timeout: 2, variables: variables,
	}
}

// python: four processes; one that dies takes its own invoke along and nothing
// else.
func (s *stack) python(t *testing.T) {
	const name = "python"
	s.realFunction(t, name, pythonFunction(t, nil))
	before := s.alone(t, name)
	all, _ := s.callAll(t, name, `{"sleep":300}`, 12)
	if most, seen := atOnce(all), workers(all); most != 4 || len(seen) != 4 {
		t.Errorf("%d at once in %d processes, want 4 in 4", most, len(seen))
	}
	if left := all[0].Left; left <= 0 || left > 2000 {
		t.Errorf("%d ms were left of 2 s", left)
	}
	s.callFails(t, name, `{"raise":"no such thing"}`, `"errorType": "ValueError"`, "no such thing", "app.py")
	s.callFails(t, name, `{"sleep":2500}`, "Task timed out after 2.00 seconds")
	s.idle(t, name)

	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := s.call(t.Context(), name, `{"sleep":1000}`); err != nil {
				t.Errorf("a sibling of a process that died: %v", err)
			}
		})
	}
	begin := time.Now()
	s.callFails(t, name, `{"sleep":200,"exit":3}`, "Runtime.ExitError", "exit status 3")
	if took := time.Since(begin); took > 1500*time.Millisecond {
		t.Errorf("the caller of a process that died waited %v", took)
	}
	wg.Wait()
	after, _ := s.callAll(t, name, `{"sleep":300}`, 12)
	if most, seen := atOnce(after), workers(after); most != 4 || len(seen) != 4 || after[0].PID != all[0].PID || s.alone(t, name) != before {
		t.Errorf("after a process died: %d at once in %d processes", most, len(seen))
	}
}

// pythonInitError: every process reports it.
func (s *stack) pythonInitError(t *testing.T) {
	f := s.realFunction(t, "broken", pythonFunction(t, map[string]string{"FAIL_INIT": "never heard of it"}))
	reason := aws.ToString(f.StateReason)
	if f.State != types.StateFailed || !strings.Contains(reason, "ValueError") || !strings.Contains(reason, "never heard of it") {
		t.Errorf("got %s, %s: %q", f.State, f.StateReasonCode, reason)
	}
}

// shell takes one event after the other.
func (s *stack) shell(t *testing.T) {
	const name = "shell"
	s.realFunction(t, name, real{
		runtime: types.RuntimeProvidedal2023, handler: "bootstrap", code: testdata(t, "shell/bootstrap", "bootstrap"),
		concurrency: 1, memory: 256, timeout: 5,
	})
	out, err := s.lambda.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String(name), Payload: []byte(`{"a":1}`)})
	if err != nil || out.FunctionError != nil || !strings.Contains(string(out.Payload), `"event":{"a":1}`) {
		t.Errorf("got %v %s", err, payloadOf(out))
	}
	s.callFails(t, name, `{"fail":1}`, "Unhandled", `"errorType":"Shell.Failed"`, "asked to")
	all, _ := s.callAll(t, name, `{"b":2}`, 8)
	ids := map[string]bool{}
	for _, d := range all {
		ids[d.ID] = true
		if d.PID != all[0].PID {
			t.Error("two processes answered")
		}
	}
	if len(ids) != 8 {
		t.Errorf("%d different answers of 8", len(ids))
	}
}
