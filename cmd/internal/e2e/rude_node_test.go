//go:build node

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// rudeTimeout is that of the functions whose runtimes misbehave.
const rudeTimeout = 2 * time.Second

// polite is what a rude runtime answers when it answers.
type polite struct {
	Environment string
	Said        map[string][]string
}

// rudeFunction makes a function of a runtime that obeys orders, in one
// environment.
func (s *stack) rudeFunction(t *testing.T, name string, slots int32) {
	t.Helper()
	_, err := s.lambda.CreateFunction(t.Context(), s.input(func(in *lambda.CreateFunctionInput) {
		in.FunctionName, in.Code.ZipFile, in.Timeout = aws.String(name), zippedProgram(t, "bad"), aws.Int32(int32(rudeTimeout/time.Second))
		in.Environment = &types.Environment{Variables: map[string]string{"BAD": "serve"}}
		concurrency(slots)(in)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.lambda.PutFunctionScalingConfig(t.Context(), &lambda.PutFunctionScalingConfigInput{
		FunctionName: &name, Qualifier: aws.String(latestPublished),
		FunctionScalingConfig: &types.FunctionScalingConfig{MinExecutionEnvironments: aws.Int32(1), MaxExecutionEnvironments: aws.Int32(1)},
	}); err != nil {
		t.Fatal(err)
	}
	if f := s.published(t, name, settled); f.State != types.StateActive {
		t.Fatalf("%s: %s %s", name, f.State, aws.ToString(f.StateReason))
	}
	s.has(t, name, "one environment", func(all []environment) bool { return len(all) == 1 })
}

// has waits until the environments of a function are as they should be.
func (s *stack) has(t *testing.T, function, what string, ok func([]environment) bool) {
	t.Helper()
	eventuallyOf(t, 20*time.Second, what, func() error {
		all := slices.DeleteFunc(s.ps(), func(e environment) bool { return e.Function != function })
		if !ok(all) {
			return fmt.Errorf("got %+v", all)
		}
		return nil
	})
}

// orders gives a function an order, and returns what the caller gets.
func (s *stack) orders(ctx context.Context, function, do string, sleep time.Duration) (string, error) {
	payload, err := json.Marshal(map[string]any{"Do": do, "SleepMS": sleep.Milliseconds()})
	if err != nil {
		return "", err
	}
	out, err := s.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: &function, Payload: payload})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.FunctionError) + string(out.Payload), nil
}

// asks wants a function to answer as it should.
func (s *stack) asks(ctx context.Context, function string) (p polite, err error) {
	got, err := s.orders(ctx, function, "", 0)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal([]byte(got), &p); err != nil {
		return p, fmt.Errorf("%w in %s", err, got)
	}
	return p, nil
}

// rudeness is what a runtime does, what its caller gets, and what it is told.
type rudeness struct {
	do    string
	sleep time.Duration
	// gets is part of what the caller gets, told of what the runtime is told.
	gets string
	told []string
}

// survived are those that harm nobody but their own caller.
func survived() []rudeness {
	const (
		accepted  = `202 {"status":"OK"}`
		invalidID = `400 {"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}`
		truncated = `400 {"errorMessage":"HTTP request detected as truncated","errorType":"TruncatedHTTPRequest"}`
		unended   = `Unhandled{"errorType":"Runtime.TruncatedResponse"`
		timedOut  = "Error: Task timed out after 2.00 seconds"
		late      = rudeTimeout + 700*time.Millisecond
	)
	return []rudeness{
		{"unknown", 0, `"Environment"`, []string{invalidID, invalidID}},
		{"twice", 0, `"Environment"`, []string{invalidID, invalidID}},
		{"init error", 0, `"Environment"`, []string{"403 ", "InvalidStateTransition"}},
		{"garbage", 0, `"Environment"`, []string{"400 ", "400 ", "405 "}},
		{"children", 0, `"Environment"`, []string{"<nil> <nil>"}},
		{"half", 0, `"half"`, []string{accepted}},
		{"continue", 0, `"cont"`, []string{"100 "}},
		{"error", 0, `Unhandled{"errorType":"Runtime.Unknown"`, []string{accepted}},
		{"strange", 0, `Unhandled{"errorType":"Runtime.Unknown"`, []string{accepted}},
		{"no json", 0, `Unhandledno JSON`, []string{accepted}},
		{"long", 0, `Unhandled{"errorType":"Function.Long"`, []string{"413 ", "RequestEntityTooLarge"}},
		{"large", 0, `Unhandled{"errorType":"Function.ResponseSizeTooLarge"`, []string{"413 ", "RequestEntityTooLarge"}},
		{"unknown size", 0, `Unhandled{"errorType":"Function.ResponseSizeTooLarge"`, []string{"413 ", "RequestEntityTooLarge"}},
		{"mode", 0, `Unhandled{"errorType":"Runtime.InvalidResponseModeHeader"`, []string{"400 ", "InvalidFunctionResponseMode"}},
		{"cut", 0, unended, []string{truncated}},
		{"cut chunk", 0, unended, []string{truncated}},
		{"no end", 0, unended, []string{truncated}},
		{"trailers", 0, `Unhandled{"errorMessage":"midway"}`, []string{accepted}},
		{"answer", late, timedOut, []string{accepted}},
		{"error", late, timedOut, []string{accepted}},
		{"trailers", late, timedOut, []string{accepted}},
		{"large", late, timedOut, []string{accepted}},
		{"cut", late, timedOut, []string{truncated}},
	}
}

// TestWhateverARuntimeDoes: what misbehaves harms its own caller only, what dies
// is answered at once and replaced.
func TestWhateverARuntimeDoes(t *testing.T) {
	s := up(t)
	build(t, "bad")
	s.provider("subnet-a")
	t.Run("harm nobody", s.harmNobody)
	t.Run("die", func(t *testing.T) {
		for _, r := range []rudeness{
			{"no more", 0, `"Environment"`, nil},
			{"freeze", 0, "Task timed out after 2.00 seconds", nil},
			{"quit", 0, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: ID Error: Runtime exited without providing a reason"}`, nil},
			{"abandon", 0, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: ID Error: Runtime exited without providing a reason"}`, nil},
			{"crash", 0, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: ID Error: Runtime exited with error: exit status 3"}`, nil},
			{"signal", 0, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: ID Error: Runtime exited with error: signal: killed"}`, nil},
			{"leave", 0, `"Environment"`, nil},
		} {
			t.Run(r.do, func(t *testing.T) {
				t.Parallel()
				s.dies(t, r)
			})
		}
	})
}

// harmNobody gives one process all orders it survives, at once.
func (s *stack) harmNobody(t *testing.T) {
	const name = "rude"
	s.rudeFunction(t, name, 8)
	before, err := s.asks(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.orders(t.Context(), name, "polls", 0); err != nil || !strings.Contains(got, `"polls":["1000"]`) {
		t.Errorf("a thousand polls that leave: %v %s", err, got)
	}
	var all sync.WaitGroup
	free := make(chan struct{}, 3) // of 8 slots, some of which are overrun
	for _, r := range survived() {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			got, err := s.orders(t.Context(), name, r.do, r.sleep)
			if err != nil || !strings.Contains(got, r.gets) {
				t.Errorf("%s after %v: the caller gets %v %.200s, want %s", r.do, r.sleep, err, got, r.gets)
			}
		})
	}
	all.Wait()
	s.leaves(t, name)
	s.has(t, name, "all slots to be free", func(all []environment) bool { return len(all) == 1 && all[0].InFlight == 0 })
	after, err := s.asks(t.Context(), name)
	if err != nil || after.Environment != before.Environment {
		t.Fatalf("afterwards: %v, environment %s became %s", err, before.Environment, after.Environment)
	}
	after.wasTold(t)
}

// wasTold wants the runtime to have been told what it should have been.
func (p polite) wasTold(t *testing.T) {
	t.Helper()
	for _, r := range survived() {
		name := r.do
		if r.sleep > 0 {
			name += " late"
		}
		said := strings.Join(p.Said[name], " ")
		for _, part := range r.told {
			if !strings.Contains(said, part) {
				t.Errorf("%s: the runtime was told %q, want %q", name, said, part)
			}
		}
	}
}

// leaves has callers that do not wait, beside one that does.
func (s *stack) leaves(t *testing.T, function string) {
	t.Helper()
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("impatient"))
			defer cancel()
			if got, err := s.orders(ctx, function, "", time.Second); err == nil {
				t.Errorf("a caller that leaves got %s", got)
			}
		})
	}
	all.Go(func() {
		if got, err := s.orders(t.Context(), function, "", time.Second); err != nil || !strings.Contains(got, `"Environment"`) {
			t.Errorf("the sibling: %v %s", err, got)
		}
	})
	all.Wait()
}

// dies wants an order to end the process: what runs is answered at once, another
// environment takes over.
func (s *stack) dies(t *testing.T, r rudeness) {
	name := "rude-" + strings.ReplaceAll(r.do, " ", "-")
	s.rudeFunction(t, name, 4)
	before, err := s.asks(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	callers := []string{r.do}
	if strings.Contains(r.gets, "Runtime.ExitError") {
		callers = []string{"", r.do} // the first is at it when the second comes
	}
	var all sync.WaitGroup
	defer all.Wait()
	for i, do := range callers {
		s.has(t, name, "those before it to run", func(all []environment) bool { return len(all) == 1 && all[0].InFlight == i })
		all.Go(func() {
			s.hears(t, name, do, time.Duration(len(callers)-1-i)*(rudeTimeout-100*time.Millisecond), r.gets)
		})
	}
	eventuallyOf(t, 30*time.Second, "another environment to answer", func() error {
		after, err := s.asks(t.Context(), name)
		if err == nil && after.Environment == before.Environment {
			err = errors.New("the same environment")
		}
		return err
	})
	s.remove(t, name)
}

// hears gives an order and wants to get an answer, of which ID is the request's.
func (s *stack) hears(t *testing.T, function, do string, sleep time.Duration, want string) {
	t.Helper()
	began := time.Now()
	got, err := s.orders(t.Context(), function, do, sleep)
	if _, rest, ok := strings.Cut(got, "RequestId: "); ok {
		id, _, _ := strings.Cut(rest, " ")
		want = strings.ReplaceAll(want, "ID Error", id+" Error")
	}
	took := time.Since(began)
	if err != nil || !strings.Contains(got, want) || sleep > 0 && took > sleep-300*time.Millisecond {
		t.Errorf("after %v the caller of %q gets %v %.300s, want %s", took, do, err, got, want)
	}
}

// eventuallyOf is eventually for a test beside others.
func eventuallyOf(t *testing.T, limit time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("waited %v for %s: %v", limit, what, err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
