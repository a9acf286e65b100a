package runtimeapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// asFunction makes the test binary a Lambda function when it is started again.
const asFunction = "HEARTH_TEST_AS_FUNCTION"

func TestMain(m *testing.M) {
	if os.Getenv(asFunction) != "" { //nolint:forbidigo // the main function of the test binary
		var inFlight, peak atomic.Int64
		lambda.Start(func(ctx context.Context, in order) (any, error) {
			if in.Words > 0 {
				return &words{left: in.Words, gap: in.Sleep, fail: in.Fail}, nil
			}
			return handle(ctx, in, &inFlight, &peak)
		})
		return
	}
	os.Exit(m.Run()) //nolint:forbidigo // the main function of the test binary
}

// order tells the function what to do.
type order struct {
	Sleep time.Duration
	Panic bool
	Fail  string
	// Words streams an answer of so many words, Sleep before each.
	Words int
}

// words is an answer that is made as it is read.
type words struct {
	left int
	gap  time.Duration
	fail string
}

// Read implements io.Reader.
func (w *words) Read(p []byte) (int, error) {
	if w.left == 0 && w.fail != "" {
		return 0, errors.New(w.fail)
	}
	if w.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(w.gap) // the order of the test, in a process of its own
	w.left--
	return copy(p, "word "), nil
}

// report is the function's answer.
type report struct {
	RequestID string
	PID       int
	Peak      int64
}

func handle(ctx context.Context, in order, inFlight, peak *atomic.Int64) (report, error) {
	n := inFlight.Add(1)
	defer inFlight.Add(-1)
	for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
	}
	time.Sleep(in.Sleep) // the order of the test, in a process of its own
	switch {
	case in.Panic:
		panic("as ordered")
	case in.Fail != "":
		return report{}, errors.New(in.Fail)
	}
	lc, _ := lambdacontext.FromContext(ctx)
	return report{RequestID: lc.AwsRequestID, PID: os.Getpid(), Peak: peak.Load()}, nil
}

// function starts the function in a process of its own and tells the API when
// it ends.
func function(t *testing.T, concurrency int) (*runtimeapi.API, <-chan struct{}) {
	t.Helper()
	api := runtimeapi.New(runtimeapi.Config{Environment: "e-1", Concurrency: concurrency, Log: slog.New(slog.DiscardHandler)})
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), asFunction+"=1",
		"AWS_LAMBDA_RUNTIME_API="+lis.Addr().String(),
		fmt.Sprintf("AWS_LAMBDA_MAX_CONCURRENCY=%d", concurrency))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := api.Serve(ctx, lis); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		defer close(exited)
		_ = cmd.Wait()
		api.Exited(runtimeapi.Exit{Code: cmd.ProcessState.ExitCode()})
	})
	t.Cleanup(func() { cancel(nil); wg.Wait() })
	select {
	case <-api.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the function did not become ready")
	}
	return api, exited
}

// do runs one order and returns what came back.
func do(t *testing.T, api *runtimeapi.API, id string, timeout time.Duration, in order) (agent.Outcome, error) {
	t.Helper()
	payload, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	inv := invocation(id)
	inv.Timeout = timeout
	return served(t.Context(), api, inv, payload)
}

// served invokes again while nothing asks for the event: on a busy machine a
// process that is free may need more than the moment it is waited for.
func served(ctx context.Context, api *runtimeapi.API, inv agent.Invocation, payload []byte) (agent.Outcome, error) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		out, err := api.Invoke(ctx, inv, payload)
		if _, refused := errors.AsType[*runtimeapi.RefusedError](err); !refused || time.Now().After(deadline) {
			return out, err
		}
	}
}

func answered(t *testing.T, out agent.Outcome, err error) report {
	t.Helper()
	if err != nil || out.FunctionError != "" {
		t.Fatalf("got %v, %s: %s", err, out.FunctionError, out.Payload)
	}
	var r report
	if err := json.Unmarshal(out.Payload, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheGoRuntimeRunsEightInvocationsAtOnce(t *testing.T) {
	t.Parallel()
	api, _ := function(t, 8)
	var wg sync.WaitGroup
	var top atomic.Int64
	pids := make(chan int, 64)
	for i := range 8 {
		wg.Go(func() {
			for j := range 8 {
				id := fmt.Sprintf("r-%d-%d", i, j)
				out, err := do(t, api, id, 30*time.Second, order{Sleep: 30 * time.Millisecond})
				r := answered(t, out, err)
				if r.RequestID != id {
					t.Errorf("got the answer of %s for %s", r.RequestID, id)
				}
				for p := top.Load(); r.Peak > p && !top.CompareAndSwap(p, r.Peak); p = top.Load() {
				}
				pids <- r.PID
			}
		})
	}
	wg.Wait()
	if top.Load() != 8 || api.Peak() != 8 || api.InFlight() != 0 {
		t.Errorf("got peak %d inside and %d outside, %d left in flight", top.Load(), api.Peak(), api.InFlight())
	}
	first := <-pids
	for range 63 {
		if pid := <-pids; pid != first {
			t.Fatalf("more than one process: %d and %d", first, pid)
		}
	}
}

func TestATimeoutLeavesTheGoRuntimeAndItsSiblingsAlive(t *testing.T) {
	t.Parallel()
	api, exited := function(t, 8)
	var wg sync.WaitGroup
	wg.Go(func() {
		out, err := do(t, api, "sibling", 30*time.Second, order{Sleep: 1500 * time.Millisecond})
		answered(t, out, err)
	})
	out, err := do(t, api, "slow", 500*time.Millisecond, order{Sleep: time.Second})
	if err != nil || out.FunctionError != "Unhandled" || !strings.Contains(string(out.Payload), "Task timed out after 0.50 seconds") {
		t.Fatalf("got %v %+v %s", err, out, out.Payload)
	}
	wg.Wait() // by now the late answer has come, too
	if err := api.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err = do(t, api, "after", 30*time.Second, order{})
	answered(t, out, err)
	select {
	case <-exited:
		t.Fatal("the process ended")
	default:
	}
}

// doStream runs one order whose answer is streamed.
func doStream(ctx context.Context, t *testing.T, api *runtimeapi.API, id string, timeout time.Duration, in order) (string, agent.Outcome) {
	t.Helper()
	payload, err := json.Marshal(in)
	if err != nil {
		t.Error(err)
	}
	inv := invocation(id)
	inv.Timeout, inv.Stream = timeout, true
	out, err := served(ctx, api, inv, payload)
	if err != nil || out.Stream == nil {
		t.Errorf("got %v %+v", err, out)
		return "", out
	}
	return all(out.Stream)
}

func TestStreamsOfTheGoRuntimeFailAndAreCutWithoutHarmToIt(t *testing.T) {
	t.Parallel()
	api, exited := function(t, 8)
	var wg sync.WaitGroup
	wg.Go(func() {
		if text, end := doStream(t.Context(), t, api, "whole", 30*time.Second, order{Words: 20, Sleep: 50 * time.Millisecond}); text != strings.Repeat("word ", 20) || end.FunctionError != "" {
			t.Errorf("got %q %+v", text, end)
		}
	})
	wg.Go(func() {
		if text, end := doStream(t.Context(), t, api, "fails", 30*time.Second, order{Words: 2, Fail: "no more"}); text != "word word " ||
			end.ErrorType == "" || !strings.Contains(string(end.Payload), "no more") {
			t.Errorf("got %q %+v %s", text, end, end.Payload)
		}
	})
	wg.Go(func() { // the function goes on for a second
		if text, end := doStream(t.Context(), t, api, "late", time.Second/2, order{Words: 15, Sleep: 100 * time.Millisecond}); text == "" ||
			end.ErrorType != "Sandbox.Timedout" || !strings.Contains(string(end.Payload), "Task timed out after 0.50 seconds") {
			t.Errorf("got %q %+v %s", text, end, end.Payload)
		}
	})
	wg.Go(func() { // an error that comes after the deadline
		out, err := do(t, api, "late error", time.Second/2, order{Sleep: time.Second, Fail: "too late"})
		if err != nil || out.ErrorType != "Sandbox.Timedout" {
			t.Errorf("got %v %+v", err, out)
		}
	})
	wg.Wait()
	livesOn(t, api, exited)
}

// livesOn wants a process that is done with everything and serves more.
func livesOn(t *testing.T, api *runtimeapi.API, exited <-chan struct{}) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); api.InFlight() > 0; time.Sleep(time.Millisecond) { // another process is at work
		if time.Now().After(deadline) {
			t.Fatalf("%d in flight", api.InFlight())
		}
	}
	out, err := do(t, api, "after", 30*time.Second, order{})
	answered(t, out, err)
	select {
	case <-exited:
		t.Fatal("the process ended")
	default:
	}
}

func TestAFunctionErrorIsUnhandled(t *testing.T) {
	t.Parallel()
	api, _ := function(t, 2)
	out, err := do(t, api, "r", 30*time.Second, order{Fail: "no luck"})
	if err != nil || out.FunctionError != "Unhandled" || string(out.Payload) != `{"errorMessage":"no luck","errorType":"errorString"}` {
		t.Fatalf("got %v %+v %s", err, out, out.Payload)
	}
}

func TestAPanicEndsTheProcessOnceItsSiblingsAreDone(t *testing.T) {
	t.Parallel()
	api, exited := function(t, 8)
	var wg sync.WaitGroup
	started := make(chan struct{})
	wg.Go(func() {
		close(started)
		out, err := do(t, api, "sibling", 30*time.Second, order{Sleep: time.Second})
		answered(t, out, err)
	})
	<-started
	for api.InFlight() == 0 {
		time.Sleep(time.Millisecond) // another process is at work
	}
	out, err := do(t, api, "r", 30*time.Second, order{Panic: true})
	if err != nil || out.FunctionError != "Unhandled" || !strings.Contains(string(out.Payload), "as ordered") {
		t.Fatalf("got %v %+v %s", err, out, out.Payload)
	}
	wg.Wait()
	select {
	case <-exited:
	case <-time.After(30 * time.Second):
		t.Fatal("the process did not end")
	}
	if _, err := do(t, api, "after", time.Second, order{}); err == nil {
		t.Fatal("an invocation was taken by a dead process")
	}
}
