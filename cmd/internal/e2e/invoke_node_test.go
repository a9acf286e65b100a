//go:build node

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
)

// TestConcurrentInvokesOverThreeZones: 64 at once, 32 slots each in 3
// environments, every one of which works in parallel in a single process.
func TestConcurrentInvokesOverThreeZones(t *testing.T) {
	s := up(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(32))
	begin := time.Now()
	if _, err := s.lambda.PublishVersion(t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String(functionName)}); err != nil {
		t.Fatal(err)
	}
	s.versionActive("1")
	t.Logf("version 1 was Active %v after PublishVersion was called, on warm instances", time.Since(begin).Round(time.Millisecond))
	if _, err := s.lambda.DeleteFunction(t.Context(), &lambda.DeleteFunctionInput{FunctionName: aws.String(functionName), Qualifier: aws.String("1")}); err != nil {
		t.Fatal(err)
	}
	s.allReady() // those of $LATEST.PUBLISHED
	const callers = 64
	answers := make([]answer, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			var err error
			if answers[i], _, err = s.invoke(t.Context(), event{SleepMS: 1500}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	spreadOver(t, answers)
	envs, zones := s.ps(), map[string]int{}
	for _, e := range envs {
		zones[e.Zone]++
	}
	if len(envs) != 3 || len(zones) != 3 {
		t.Errorf("hearth ps has %+v, want one environment in each zone", envs)
	}
	s.step("published again", s.republishes)
}

// republishes publishes another configuration, and then other code, to
// $LATEST.PUBLISHED while it serves: no invoke fails, and in the end everything
// that answers is new.
func (s *stack) republishes() {
	t := s.t
	before := s.functions()
	const callers = 3
	loads := make([]*traffic, callers)
	for i := range loads {
		loads[i] = s.traffic("")
	}
	s.set("two")
	if _, err := s.lambda.PublishVersion(t.Context(), &lambda.PublishVersionInput{
		FunctionName: aws.String(functionName), PublishTo: types.FunctionVersionLatestPublishedLatestPublished,
	}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	s.active()
	t.Logf("the configuration rolled in %v", time.Since(begin).Round(time.Millisecond))
	s.answersAre("two", before)
	between := s.functions()

	body, err := os.ReadFile(filepath.Join(bins, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	s.update(t, functionName, zipped(t, member{"bootstrap", body, 0o755}, member{"other", []byte("code"), 0o644}))
	s.active()
	t.Logf("the code rolled in %v", time.Since(begin).Round(time.Millisecond))
	s.answersAre("two", append(before, between...))
	for _, load := range loads {
		load.end(t)
	}
}

// answersAre wants three new processes of which each answers with a revision,
// and nothing else to answer.
func (s *stack) answersAre(revision string, old []int) {
	s.t.Helper()
	s.eventually(20*time.Second, "new processes only", func() error {
		now := s.functions()
		if slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(old, pid) }) {
			return fmt.Errorf("processes %v, of which some of %v are old", now, old)
		}
		return three(now)
	})
	for range 12 {
		if a, _, err := s.invoke(s.t.Context(), event{}); err != nil || a.Revision != revision {
			s.t.Errorf("got %+v, %v; want revision %q", a, err, revision)
		}
	}
}

// seen is what the answers of one environment tell.
type seen struct {
	peak, started int64
	pids          map[int]bool
}

// spreadOver wants the answers to come from three environments that each ran
// at least 16 at once in one process, and no request id twice.
func spreadOver(t *testing.T, answers []answer) {
	t.Helper()
	ids := map[string]bool{}
	environments := map[string]*seen{}
	for _, a := range answers {
		ids[a.RequestID] = true
		e := environments[a.Environment]
		if e == nil {
			e = &seen{pids: map[int]bool{}}
			environments[a.Environment] = e
		}
		e.peak, e.started, e.pids[a.PID] = max(e.peak, a.Peak), max(e.started, a.Started), true
	}
	if len(ids) != len(answers) {
		t.Errorf("%d distinct request ids of %d", len(ids), len(answers))
	}
	if len(environments) != 3 {
		t.Errorf("%d environments answered, want 3", len(environments))
	}
	for name, e := range environments {
		if e.peak < 16 || e.peak > 32 || e.started != 1 || len(e.pids) != 1 {
			t.Errorf("%s: peak %d (want 16 to 32), %d process starts in %d processes (want 1)", name, e.peak, e.started, len(e.pids))
		}
	}
}

// TestTheFourthOfThreeSlotsIsThrottled: limit 1, 3 environments.
func TestTheFourthOfThreeSlotsIsThrottled(t *testing.T) {
	t.Parallel()
	s := up(t)
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(1))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, _, err := s.invoke(t.Context(), event{SleepMS: 8000}); err != nil {
				t.Errorf("one of the three: %v", err)
			}
		})
	}
	s.eventually(6*time.Second, "three invokes in flight", func() error {
		for _, e := range s.ps() {
			if e.InFlight != 1 {
				return errors.New("not all are busy")
			}
		}
		return nil
	})
	begin := time.Now()
	_, _, err := s.invoke(t.Context(), event{})
	var throttled *types.TooManyRequestsException
	if !errors.As(err, &throttled) {
		t.Fatalf("the fourth: got %v, want TooManyRequestsException", err)
	}
	if !strings.Contains(string(throttled.Reason)+throttled.ErrorMessage(), "oncurren") || aws.ToString(throttled.RetryAfterSeconds) == "" {
		t.Errorf("the fourth: reason %q, message %q, retry after %q; want concurrency and a time",
			throttled.Reason, throttled.ErrorMessage(), aws.ToString(throttled.RetryAfterSeconds))
	}
	t.Logf("refused after %v: %v", time.Since(begin), throttled)
	wg.Wait()
	if _, _, err := s.invoke(t.Context(), event{}); err != nil {
		t.Errorf("the next: %v", err)
	}
}

// TestPayloadLimits: 6 MB each way and not a byte more.
func TestPayloadLimits(t *testing.T) {
	t.Parallel()
	s := up(t)
	s.provider("subnet-a")
	s.function(nil)
	const limit = 6 << 20
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	frame := len(`{"Pad":""}`)
	body := func(n int) []byte { return []byte(`{"Pad":"` + strings.Repeat("x", n-frame) + `"}`) }
	raw := func(payload []byte) (*lambda.InvokeOutput, error) {
		return s.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: payload})
	}
	out, err := raw(body(limit))
	if err != nil || out.FunctionError != nil || !strings.Contains(string(out.Payload), `"Padded":6291446`) {
		t.Errorf("6 MB request: %v, %.200s", err, payloadOf(out))
	}
	_, err = raw(body(limit + 1))
	if _, ok := errors.AsType[*types.RequestTooLargeException](err); !ok {
		t.Errorf("6 MB and 1 byte: got %v, want RequestTooLargeException", err)
	}

	s.responseLimit(ctx)
}

// responseLimit finds the largest response, and AWS's error one byte above it.
func (s *stack) responseLimit(ctx context.Context) {
	s.t.Helper()
	const most = 6<<20 + 100 // AWS allows 6,291,556 bytes
	_, out, err := s.invoke(ctx, event{})
	if err != nil {
		s.t.Fatal(err)
	}
	rest := len(out.Payload) // the answer around an empty body
	_, out, err = s.invoke(ctx, event{Size: most - rest})
	if err != nil || len(out.Payload) != most {
		s.t.Errorf("the largest response: %v, %d bytes", err, len(payloadOf(out)))
	}
	_, out, err = s.invoke(ctx, event{Size: most - rest + 1})
	if out == nil || aws.ToString(out.FunctionError) != "Unhandled" || !strings.Contains(string(out.Payload), "Function.ResponseSizeTooLarge") {
		s.t.Errorf("one byte more: %v, %.200s; want Function.ResponseSizeTooLarge", err, payloadOf(out))
	}
	if _, _, err := s.invoke(ctx, event{}); err != nil {
		s.t.Errorf("after it: %v", err)
	}
}

func payloadOf(out *lambda.InvokeOutput) []byte {
	if out == nil {
		return nil
	}
	return out.Payload
}

// TestATimeoutLeavesSiblingsAlone: the caller is answered at the deadline, the
// environment lives on.
func TestATimeoutLeavesSiblingsAlone(t *testing.T) {
	s := up(t)
	s.provider("subnet-a")
	s.function(func(in *lambda.CreateFunctionInput) { in.Timeout = aws.Int32(2) })
	if _, err := s.lambda.PutFunctionScalingConfig(t.Context(), &lambda.PutFunctionScalingConfigInput{
		FunctionName: aws.String("f"), Qualifier: aws.String("$LATEST.PUBLISHED"),
		FunctionScalingConfig: &types.FunctionScalingConfig{MinExecutionEnvironments: aws.Int32(1), MaxExecutionEnvironments: aws.Int32(1)},
	}); err != nil {
		t.Fatal(err)
	}
	s.eventually(20*time.Second, "one environment", s.single)
	before, _, err := s.invoke(t.Context(), event{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, out, err := s.invoke(t.Context(), event{SleepMS: 3500})
		if out == nil || !strings.Contains(string(out.Payload), "Task timed out after 2.00 seconds") {
			t.Errorf("got %v, %s; want a time-out", err, payloadOf(out))
		}
	})
	wg.Go(func() {
		if _, _, err := s.invoke(t.Context(), event{SleepMS: 1500}); err != nil {
			t.Errorf("the sibling: %v", err)
		}
	})
	wg.Wait()
	s.eventually(10*time.Second, "the late answer to free its slot", func() error {
		for _, e := range s.ps() {
			if e.InFlight != 0 {
				return fmt.Errorf("%d in flight", e.InFlight)
			}
		}
		return nil
	})
	after, _, err := s.invoke(t.Context(), event{})
	if err != nil || after.PID != before.PID || after.Started != before.Started || after.Environment != before.Environment {
		t.Errorf("after the late answer: %+v, %v; want the same process as %+v", after, err, before)
	}
}

// single fails unless there is one environment.
func (s *stack) single() error {
	if n := len(s.ps()); n != 1 {
		return fmt.Errorf("there are %d environments", n)
	}
	return nil
}

// code is the error code of an AWS error.
func code(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return ""
}
