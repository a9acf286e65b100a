package runtimeapi

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
)

func readyAPI(concurrency int) *API {
	api := New(Config{Environment: "e", Concurrency: concurrency, Log: slog.New(slog.DiscardHandler)})
	api.becomeReady()
	return api
}

func TestInvariant2_AnInvocationGivenBackIsHandedToTheNextPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := readyAPI(1)
		// The first poll's connection breaks just as it gets the invocation.
		offered := 0
		broken := &poller{give: func(*invocation) bool { offered++; return false }}
		if x, err := api.arrive(broken); x != nil || err != nil {
			t.Fatalf("got %+v %v", x, err)
		}
		done := make(chan agent.Outcome, 1)
		go func() {
			out, err := api.Invoke(t.Context(), agent.Invocation{RequestID: "r", Timeout: time.Second}, nil)
			if err != nil {
				t.Error(err)
			}
			done <- out
		}()
		x, err := api.poll(t.Context())
		if err != nil || x.RequestID != "r" || offered != 1 {
			t.Fatalf("got %+v %v after %d offers", x, err, offered)
		}
		if api.claim("r") != x || api.claim("r") != nil {
			t.Fatal("an answer must be claimed exactly once")
		}
		api.finish(x, agent.Outcome{Payload: []byte("ok")})
		api.finish(x, agent.Outcome{Payload: []byte("again")})
		if out := <-done; string(out.Payload) != "ok" || api.InFlight() != 0 {
			t.Fatalf("got %+v with %d in flight", out, api.InFlight())
		}
	})
}

func TestInvariant3_AnInvocationGivenBackTooLateIsRefusedAndFreesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := readyAPI(1)
		slow := &poller{give: func(*invocation) bool { time.Sleep(time.Second); return false }}
		if _, err := api.arrive(slow); err != nil {
			t.Fatal(err)
		}
		_, err := api.Invoke(t.Context(), agent.Invocation{RequestID: "r", Timeout: 50 * time.Millisecond}, nil)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Verdict.Reason != agent.ReasonConcurrency || api.InFlight() != 0 {
			t.Fatalf("got %v with %d in flight", err, api.InFlight())
		}
	})
}

func TestPollsAreServedInTheOrderTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := readyAPI(3)
		got := make(chan int, 3)
		for i := range 3 {
			go func() {
				if x, err := api.poll(t.Context()); err == nil {
					got <- i
					api.finish(x, agent.Outcome{})
				}
			}()
			synctest.Wait()
		}
		for i := range 3 {
			if _, err := api.Invoke(t.Context(), agent.Invocation{RequestID: strconv.Itoa(i), Timeout: time.Second}, nil); err != nil {
				t.Fatal(err)
			}
			if order := <-got; order != i {
				t.Fatalf("invocation %d went to poll %d", i, order)
			}
		}
	})
}

func TestInvocationsThatWaitAreServedInTheOrderTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := readyAPI(3)
		for i := range 3 {
			go func() {
				if _, err := api.Invoke(t.Context(), agent.Invocation{RequestID: strconv.Itoa(i), Timeout: time.Second}, nil); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		for i := range 3 {
			x, err := api.poll(t.Context())
			if err != nil || x.RequestID != strconv.Itoa(i) {
				t.Fatalf("poll %d got %+v", i, x)
			}
			api.finish(x, agent.Outcome{})
		}
	})
}

func TestAnIDThatRunsIsNotRunTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := readyAPI(2)
		inv := agent.Invocation{RequestID: "r", Timeout: time.Second}
		errs := make(chan error, 2)
		for range 2 {
			go func() { _, err := api.Invoke(t.Context(), inv, nil); errs <- err }()
		}
		poll, stop := context.WithCancelCause(t.Context())
		x, _ := api.poll(poll)
		go func() {
			if y, err := api.poll(poll); err == nil {
				t.Errorf("got %+v as well", y)
			}
		}()
		if err := <-errs; !errdefs.IsAlreadyExists(err) {
			t.Errorf("got %v", err)
		}
		api.finish(x, agent.Outcome{})
		if err := <-errs; err != nil || api.InFlight() != 0 {
			t.Errorf("got %v with %d in flight", err, api.InFlight())
		}
		stop(nil)
	})
}

func TestADeadlineInThePastIsRefused(t *testing.T) {
	t.Parallel()
	inv := agent.Invocation{RequestID: "r", Timeout: time.Second, DetachedDeadline: time.Now().Add(-time.Second)}
	if _, err := readyAPI(1).Invoke(t.Context(), inv, nil); !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("got %v", err)
	}
}

func TestErrorTypesOfRuntimesAreKeptInAWSsForm(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                          "Runtime.Unknown",
		"Runtime.ImportModuleError": "Runtime.ImportModuleError",
		"Function.MyError":          "Function.MyError",
		"Function.my":               "Function.Unknown",
		"Function.A1":               "Function.Unknown",
		"Extension.Crash":           "Runtime.Unknown",
		"ValueError":                "Runtime.Unknown",
	} {
		if got := knownType(in); got != want {
			t.Errorf("%q: got %q want %q", in, got, want)
		}
	}
}
