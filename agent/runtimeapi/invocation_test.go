package runtimeapi

import (
	"context"
	"log/slog"
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
		done := make(chan agent.Outcome, 1)
		go func() {
			out, err := api.Invoke(t.Context(), agent.Invocation{RequestID: "r", Timeout: time.Second}, nil)
			if err != nil {
				t.Error(err)
			}
			done <- out
		}()
		// The first poll's connection breaks just as it gets the invocation.
		gone, leave := context.WithCancelCause(t.Context())
		leave(nil)
		if api.take(gone, <-api.work) {
			t.Fatal("a poll that is gone took an invocation")
		}
		x, ok := api.poll(t.Context())
		if !ok || x.RequestID != "r" {
			t.Fatalf("got %+v %v", x, ok)
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

func TestInvariant3_AnInvocationGivenBackAfterItsDeadlineFreesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := readyAPI(1)
		done := make(chan error, 1)
		go func() {
			_, err := api.Invoke(t.Context(), agent.Invocation{RequestID: "r", Timeout: 50 * time.Millisecond}, nil)
			done <- err
		}()
		x := <-api.work
		time.Sleep(time.Second)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		gone, leave := context.WithCancelCause(t.Context())
		leave(nil)
		if api.take(gone, x) || api.InFlight() != 0 {
			t.Fatalf("got %d in flight", api.InFlight())
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
			if y, ok := api.poll(poll); ok {
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
