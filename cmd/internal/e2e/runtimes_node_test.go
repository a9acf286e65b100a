//go:build node

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// unavailable is the exit status of deploy/runtimes/build when packages cannot be
// had.
const unavailable = 75

// runtimeImage makes a runtime image, or skips the test if its packages cannot be
// had here. Images are kept beside the binaries.
func runtimeImage(t *testing.T, kind string) string {
	t.Helper()
	file, err := filepath.Abs("../../../bin/runtimes/" + kind + ".tar")
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	out, err := exec.CommandContext(t.Context(), "../../../deploy/runtimes/build", kind, file).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == unavailable {
		t.Skipf("packages of the %s runtime cannot be had: %s", kind, out)
	}
	if err != nil {
		t.Fatalf("building the %s runtime: %v: %s", kind, err, out)
	}
	t.Logf("image of %s after %v", kind, time.Since(begin).Round(time.Millisecond))
	return "oci-archive:" + file
}

// onImages maps runtimes to images.
func onImages(images map[string]string) option {
	return func(s *stack) {
		for name, image := range images {
			s.flags = append(s.flags, "--runtime-image", name+"="+image)
		}
		s.flags = append(s.flags, "--local-instance-vcpu", "8")
	}
}

// testdata is a file of a function.
func testdata(t *testing.T, path, as string) member {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", path))
	if err != nil {
		t.Fatal(err)
	}
	return member{as, body, 0o755}
}

// real is a function on a real runtime.
type real struct {
	runtime     types.Runtime
	handler     string
	code        member
	concurrency int32
	memory      int32
	timeout     int32
	variables   map[string]string
}

// realFunction creates a function in one environment and waits until it is Active or
// Failed.
func (s *stack) realFunction(t *testing.T, name string, r real) *lambda.GetFunctionConfigurationOutput {
	t.Helper()
	begin := time.Now()
	if _, err := s.lambda.CreateFunction(t.Context(), s.input(func(in *lambda.CreateFunctionInput) {
		in.FunctionName, in.Runtime, in.Handler = aws.String(name), r.runtime, aws.String(r.handler)
		in.Code.ZipFile, in.MemorySize, in.Timeout = zipped(t, r.code), aws.Int32(r.memory), aws.Int32(r.timeout)
		in.Environment = &types.Environment{Variables: r.variables}
		concurrency(r.concurrency)(in)
	})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.lambda.PutFunctionScalingConfig(t.Context(), &lambda.PutFunctionScalingConfigInput{
		FunctionName: aws.String(name), Qualifier: aws.String(latestPublished),
		FunctionScalingConfig: &types.FunctionScalingConfig{MinExecutionEnvironments: aws.Int32(1), MaxExecutionEnvironments: aws.Int32(1)},
	}); err != nil {
		t.Fatal(err)
	}
	f := s.published(t, name, settled)
	t.Logf("%s is %s after %v", name, f.State, time.Since(begin).Round(time.Millisecond))
	if f.State == types.StateActive {
		s.alone(t, name)
	}
	return f
}

// alone waits until a function has one environment, which is ready, and returns
// its container.
func (s *stack) alone(t *testing.T, name string) string {
	t.Helper()
	var sandbox string
	deadline := time.Now().Add(20 * time.Second)
	for {
		var all []environment
		for _, e := range s.ps() {
			if e.Function == name {
				all = append(all, e)
			}
		}
		if len(all) == 1 && all[0].State == "Ready" {
			sandbox = all[0].Sandbox
			return sandbox
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has environments %+v, want one that is ready", name, all)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// done is what the functions in testdata answer.
type done struct {
	Begin, End int64 // microseconds
	Worker     string
	Thread     int
	PID        int
	ID         string
	Left       int
}

// call invokes a function; err has its error document.
func (s *stack) call(ctx context.Context, name, event string) (d done, err error) {
	out, err := s.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(name), Payload: []byte(event)})
	if err != nil {
		return d, err
	}
	if out.FunctionError != nil {
		return d, fmt.Errorf("%s: %s", *out.FunctionError, out.Payload)
	}
	return d, json.Unmarshal(out.Payload, &d)
}

// callAll invokes a function for many callers at once. Those who are refused try
// again; it returns how often that was.
func (s *stack) callAll(t *testing.T, name, event string, callers int) (all []done, refused int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	deadline := time.Now().Add(30 * time.Second)
	for range callers {
		wg.Go(func() {
			for {
				d, err := s.call(t.Context(), name, event)
				mu.Lock()
				if code(err) == "TooManyRequestsException" && time.Now().Before(deadline) {
					refused++
					mu.Unlock()
					time.Sleep(20 * time.Millisecond)
					continue
				}
				if err != nil {
					t.Error(err)
				}
				all = append(all, d)
				mu.Unlock()
				return
			}
		})
	}
	wg.Wait()
	return all, refused
}

// atOnce is the most invokes that a function saw running at once.
func atOnce(all []done) (most int) {
	type edge struct {
		at    int64
		delta int
	}
	var edges []edge
	for _, d := range all {
		edges = append(edges, edge{d.Begin, 1}, edge{d.End, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.delta, b.delta)) })
	now := 0
	for _, e := range edges {
		now += e.delta
		most = max(most, now)
	}
	return most
}

// workers are the workers that answered.
func workers(all []done) map[string]bool {
	seen := map[string]bool{}
	for _, d := range all {
		seen[d.Worker] = true
	}
	return seen
}

// callFails invokes a function and wants these words in its error document.
func (s *stack) callFails(t *testing.T, name, event string, words ...string) {
	t.Helper()
	d, err := s.call(t.Context(), name, event)
	for deadline := time.Now().Add(10 * time.Second); code(err) == "TooManyRequestsException" && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond) // the runtime is slow to ask for the next event
		d, err = s.call(t.Context(), name, event)
	}
	if err == nil {
		t.Errorf("%s of %s: got %+v, want an error with %q", event, name, d, words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s of %s: got %v, want %q in it", event, name, err, w)
		}
	}
}

// idle waits until nothing runs in a function's environments: code that ran past
// its deadline has ended.
func (s *stack) idle(t *testing.T, name string) {
	t.Helper()
	s.eventually(10*time.Second, name+" to be idle", func() error {
		for _, e := range s.ps() {
			if e.Function == name && e.InFlight > 0 {
				return fmt.Errorf("%d in flight", e.InFlight)
			}
		}
		return nil
	})
}

// answersAgain waits until a function answers, in another container than before.
func (s *stack) answersAgain(t *testing.T, name, before string) {
	t.Helper()
	begin := time.Now()
	for {
		_, err := s.call(t.Context(), name, `{}`)
		if err == nil && s.alone(t, name) != before {
			t.Logf("%s answers again after %v", name, time.Since(begin).Round(time.Millisecond))
			return
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("%s does not answer again in 30 s, in another container than %s: %v", name, before, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
