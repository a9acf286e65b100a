package runtimeapi_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

func TestNextCarriesTheEventAndEveryHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 1})
		defer stop()
		next := c.poll(t.Context())
		<-api.Ready()
		inv := invocation("r-1")
		inv.TraceID, inv.ClientContext = "Root=1-2", `{"client":{}}`
		done := make(chan agent.Outcome, 1)
		go func() {
			out, err := api.Invoke(t.Context(), inv, []byte(`{"n":1}`))
			if err != nil {
				t.Error(err)
			}
			done <- out
		}()
		ev := <-next
		if ev.err != nil || ev.body != `{"n":1}` {
			t.Fatalf("got %q %v", ev.body, ev.err)
		}
		deadline := time.Now().Add(3 * time.Second)
		want := http.Header{
			"Content-Type":                        {"application/json"},
			"Lambda-Runtime-Aws-Request-Id":       {"r-1"},
			"Lambda-Runtime-Deadline-Ms":          {itoa(deadline.UnixMilli())},
			"Lambda-Runtime-Invoked-Function-Arn": {inv.InvokedARN},
			"Lambda-Runtime-Trace-Id":             {"Root=1-2"},
			"Lambda-Runtime-Client-Context":       {`{"client":{}}`},
			"Lambda-Runtime-Cognito-Identity":     {""},
		}
		ev.header.Del("Date")
		ev.header.Del("Content-Length")
		if d := cmp.Diff(want, ev.header); d != "" {
			t.Fatal(d)
		}
		time.Sleep(40 * time.Millisecond)
		if status, _ := c.post("runtime/invocation/r-1/response", strings.NewReader("hello"), "Content-Type", "text/plain"); status != 202 {
			t.Fatalf("got %d", status)
		}
		if d := cmp.Diff(agent.Outcome{ContentType: "text/plain", Payload: []byte("hello"), Duration: 40 * time.Millisecond}, <-done, withoutLoad()); d != "" {
			t.Fatal(d)
		}
	})
}

func TestInvariant4_ADeadlineDisturbsNeitherTheRuntimeNorSiblings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 2})
		defer stop()
		next := c.poll(t.Context())
		<-api.Ready()
		began := time.Now()
		slow := call(t.Context(), api, "slow")
		if ev := <-next; ev.id() != "slow" {
			t.Fatalf("got %+v", ev)
		}
		time.Sleep(2 * time.Second)
		next = c.poll(t.Context())
		sibling := call(t.Context(), api, "sibling")
		<-next
		got := <-slow
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("caller was answered after %v", took)
		}
		want := agent.Outcome{
			FunctionError: "Unhandled", ErrorType: "Sandbox.Timedout", ContentType: "application/json", Duration: 3 * time.Second,
			Payload: []byte(`{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: slow Error: Task timed out after 3.00 seconds"}`),
		}
		if d := cmp.Diff(want, got.out, withoutLoad()); d != "" || got.err != nil {
			t.Error(d, got.err)
		}
		// The runtime is still busy with it: its slot stays taken.
		if r := <-call(t.Context(), api, "third"); !refused(r.err, agent.ReasonConcurrency) {
			t.Errorf("got %v", r.err)
		}
		time.Sleep(time.Minute)
		c.answer("slow", "late")
		if status, text := c.post("runtime/invocation/slow/response", strings.NewReader("later")); status != 400 || !strings.Contains(text, "InvalidRequestID") {
			t.Errorf("got %d %s for a second late answer", status, text)
		}
		if r := <-sibling; r.out.FunctionError == "" {
			t.Errorf("the sibling should have timed out meanwhile, got %+v", r)
		}
		c.answer("sibling", "late too")
		if api.InFlight() != 0 || api.Peak() != 2 {
			t.Errorf("got %d in flight, peak %d", api.InFlight(), api.Peak())
		}
	})
}

func TestInvariant1_WhatIsRefusedIsNeverHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 4})
		defer stop()
		if _, err := api.Invoke(t.Context(), invocation("early"), nil); !refused(err, agent.ReasonNotReady) {
			t.Fatalf("got %v before the first /next", err)
		}
		next := c.poll(t.Context())
		<-api.Ready()
		busy := call(t.Context(), api, "busy")
		<-next
		// A slot is free but no /next comes: refused after the grace, slot freed.
		began := time.Now()
		r := <-call(t.Context(), api, "unlucky")
		if !refused(r.err, agent.ReasonConcurrency) || !errdefs.IsResourceExhausted(r.err) || time.Since(began) != 100*time.Millisecond {
			t.Fatalf("got %v after %v", r.err, time.Since(began))
		}
		if api.InFlight() != 1 {
			t.Fatalf("got %d in flight", api.InFlight())
		}
		// One that comes within the grace is served, and it is not the refused one.
		waiting := call(t.Context(), api, "lucky")
		time.Sleep(99 * time.Millisecond)
		if ev := <-c.poll(t.Context()); ev.id() != "lucky" {
			t.Fatalf("got %q", ev.id())
		}
		c.answer("lucky", "1")
		c.answer("busy", "2")
		if r := <-waiting; r.err != nil || string(r.out.Payload) != "1" {
			t.Errorf("got %+v", r)
		}
		if r := <-busy; r.err != nil || string(r.out.Payload) != "2" {
			t.Errorf("got %+v", r)
		}
	})
}

func TestAPollThatLeftGetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 2})
		defer stop()
		leaving, leave := context.WithCancelCause(t.Context())
		gone := c.poll(leaving)
		<-api.Ready()
		synctest.Wait()
		stays := c.poll(t.Context())
		synctest.Wait()
		leave(nil)
		if ev := <-gone; ev.err == nil {
			t.Fatal("the poll that left got an event")
		}
		synctest.Wait()
		r := call(t.Context(), api, "r")
		if ev := <-stays; ev.id() != "r" {
			t.Fatalf("got %+v", ev)
		}
		c.answer("r", "ok")
		if got := <-r; got.err != nil || string(got.out.Payload) != "ok" {
			t.Fatalf("got %+v", got)
		}
	})
}

func TestInvariant4_ACallerThatLeavesAfterHandOverLosesOnlyItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 1})
		defer stop()
		next := c.poll(t.Context())
		<-api.Ready()
		ctx, leave := context.WithCancelCause(t.Context())
		r := call(ctx, api, "r-1")
		<-next
		leave(errors.New("caller hung up"))
		synctest.Wait()
		if api.InFlight() != 1 {
			t.Fatalf("got %d in flight", api.InFlight())
		}
		c.answer("r-1", "done")
		if got := <-r; got.err != nil || string(got.out.Payload) != "done" {
			t.Fatalf("got %+v", got)
		}
		// Before the hand-over it gives up, unless the invocation is detached.
		if got := <-call(ctx, api, "r-2"); got.err == nil || refused(got.err, agent.ReasonConcurrency) {
			t.Fatalf("got %+v", got)
		}
		inv := invocation("r-3")
		inv.DetachedDeadline = time.Now().Add(time.Hour)
		detached := make(chan agent.Outcome, 1)
		go func() {
			out, err := api.Invoke(ctx, inv, nil)
			if err != nil {
				t.Error(err)
			}
			detached <- out
		}()
		time.Sleep(50 * time.Millisecond)
		ev := <-c.poll(t.Context())
		if got, want := ev.header.Get("Lambda-Runtime-Deadline-Ms"), itoa(inv.DetachedDeadline.UnixMilli()); got != want {
			t.Errorf("got deadline %s want %s", got, want)
		}
		time.Sleep(30 * time.Minute)
		c.answer("r-3", "still here")
		if out := <-detached; string(out.Payload) != "still here" {
			t.Errorf("got %+v", out)
		}
	})
}

func TestExitAnswersEverythingInFlightAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name string
		exit runtimeapi.Exit
		want string
	}{
		{"status", runtimeapi.Exit{Code: 3}, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited with error: exit status 3"}`},
		{"zero", runtimeapi.Exit{}, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited without providing a reason"}`},
		{"unknown", runtimeapi.Exit{Code: -1}, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited without providing a reason"}`},
		{"killed", runtimeapi.Exit{Code: 137}, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited with error: signal: killed"}`},
		{"aborted", runtimeapi.Exit{Code: 134}, `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited with error: signal: aborted"}`},
		{"memory", runtimeapi.Exit{Code: 137, OutOfMemory: true}, `{"errorType":"Runtime.OutOfMemory","errorMessage":"RequestId: r Error: Runtime exited with error: signal: killed"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api, c, stop := serve(t, runtimeapi.Config{Concurrency: 2})
				defer stop()
				next := c.poll(t.Context())
				<-api.Ready()
				running := call(t.Context(), api, "r")
				<-next
				time.Sleep(time.Second)
				waiting := call(t.Context(), api, "waiting")
				synctest.Wait()
				api.Exited(tc.exit)
				api.Exited(runtimeapi.Exit{Code: 99})
				want := agent.Outcome{
					FunctionError: "Unhandled", ErrorType: tc.exit.Type(), ContentType: "application/json", Payload: []byte(tc.want), Duration: time.Second,
				}
				if r := <-running; r.err != nil || cmp.Diff(want, r.out, withoutLoad()) != "" {
					t.Error(r.err, cmp.Diff(want, r.out, withoutLoad()))
				}
				if r := <-waiting; !refused(r.err, agent.ReasonNotReady) {
					t.Errorf("got %+v for one that was never handed over", r)
				}
				if err := api.Settle(t.Context()); err != nil || api.InFlight() != 0 {
					t.Errorf("got %v with %d in flight", err, api.InFlight())
				}
			})
		})
	}
}

func TestSettleWaitsForTheLastSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 2})
		defer stop()
		next := c.poll(t.Context())
		<-api.Ready()
		r := call(t.Context(), api, "r")
		<-next
		api.SetDraining(true)
		if got := <-call(t.Context(), api, "new"); !refused(got.err, agent.ReasonDraining) {
			t.Fatalf("got %v", got.err)
		}
		slow := errors.New("too slow")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, slow)
		defer cancel()
		if err := api.Settle(ctx); !errors.Is(err, slow) {
			t.Fatalf("got %v", err)
		}
		settled := make(chan error, 1)
		go func() { settled <- api.Settle(t.Context()) }()
		synctest.Wait()
		c.answer("r", "")
		if err := <-settled; err != nil {
			t.Fatal(err)
		}
		<-r
	})
}

func TestSizesAreLimited(t *testing.T) {
	t.Parallel()
	const tooLarge = `{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}`
	for _, tc := range []struct {
		name, path string
		body       io.Reader
		status     int
		size       int
		payload    string
	}{
		{"largest response", "response", sized(runtimeapi.MaxResponse), 202, runtimeapi.MaxResponse, ""},
		{"largest response, chunked", "response", zeros(runtimeapi.MaxResponse), 202, runtimeapi.MaxResponse, ""},
		{"one byte more", "response", sized(runtimeapi.MaxResponse + 1), 413, 0, tooLarge},
		{"one byte more, chunked", "response", zeros(runtimeapi.MaxResponse + 1), 413, 0, tooLarge},
		{"largest error", "error", sized(1 << 20), 202, 1 << 20, ""},
		{"one byte more of error", "error", sized(1<<20 + 1), 413, 0, `{"errorType":"Runtime.Unknown","errorMessage":"error document exceeded 1048576 bytes"}`},
		{"empty error", "error", sized(0), 202, 0, `{"errorType":"Runtime.Unknown","errorMessage":""}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
			next := c.poll(t.Context())
			<-api.Ready()
			inv := invocation("r")
			inv.Timeout = time.Minute
			done := make(chan result, 1)
			go func() {
				out, err := api.Invoke(t.Context(), inv, nil)
				done <- result{out, err}
			}()
			<-next
			status, text := c.post("runtime/invocation/r/"+tc.path, tc.body)
			r := <-done
			if status != tc.status || r.err != nil {
				t.Fatalf("got %d %s, %v", status, text, r.err)
			}
			if tc.payload != "" && string(r.out.Payload) != tc.payload {
				t.Errorf("got %.200s want %s", r.out.Payload, tc.payload)
			}
			if tc.payload == "" && len(r.out.Payload) != tc.size {
				t.Errorf("got %d bytes want %d", len(r.out.Payload), tc.size)
			}
			if failed := tc.path == "error" || status != 202; failed != (r.out.FunctionError == "Unhandled") {
				t.Errorf("got function error %q", r.out.FunctionError)
			}
		})
	}
}

func TestFunctionErrorsReachTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 1})
		defer stop()
		invoke := func(answer func()) agent.Outcome {
			next := c.poll(t.Context())
			<-api.Ready()
			synctest.Wait()
			r := call(t.Context(), api, "r")
			<-next
			answer()
			got := <-r
			if got.err != nil {
				t.Fatal(got.err)
			}
			return got.out
		}
		out := invoke(func() {
			c.post("runtime/invocation/r/error", strings.NewReader(`{"errorType":"E","errorMessage":"m"}`), "Lambda-Runtime-Function-Error-Type", "Function.E")
		})
		unhandled(t, out, "Function.Unknown", `{"errorType":"E","errorMessage":"m"}`)
		out = invoke(func() {
			c.post("runtime/invocation/r/error", nil, "Lambda-Runtime-Function-Error-Type", "Function.Broken")
		})
		unhandled(t, out, "Function.Broken", `{"errorType":"Function.Broken","errorMessage":""}`)
		out = invoke(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"runtime/invocation/r/response", zeros(10))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Lambda-Runtime-Function-Response-Mode", "streaming")
			req.Trailer = http.Header{
				"Lambda-Runtime-Function-Error-Type": {"Runtime.Halfway"},
				"Lambda-Runtime-Function-Error-Body": {base64.StdEncoding.EncodeToString([]byte(`{"errorType":"Halfway"}`))},
			}
			resp, err := c.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != 202 {
				t.Errorf("got %d", resp.StatusCode)
			}
		})
		unhandled(t, out, "Runtime.Halfway", `{"errorType":"Halfway"}`)
		out = invoke(func() {
			status, text := c.post("runtime/invocation/r/response", nil, "Lambda-Runtime-Function-Response-Mode", "odd")
			if status != 400 || text != `{"errorMessage":"Invalid function response mode","errorType":"InvalidFunctionResponseMode"}` {
				t.Errorf("got %d %s", status, text)
			}
		})
		unhandled(t, out, "Runtime.InvalidResponseModeHeader",
			`{"errorType":"Runtime.InvalidResponseModeHeader","errorMessage":"Invalid function response mode"}`)
	})
}

func TestRequestsThatMakeNoSenseGetAWSsAnswers(t *testing.T) {
	t.Parallel()
	_, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
	for _, tc := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "ping", 200, "pong"},
		{"POST", "runtime/invocation/unknown/response", 400, `{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}`},
		{"POST", "runtime/invocation/unknown/error", 400, `{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}`},
		{"POST", "runtime/invocation/next", 405, `{"errorMessage":"Method not allowed","errorType":"MethodNotAllowed"}`},
		{"GET", "runtime/invocation/r/response", 405, `{"errorMessage":"Method not allowed","errorType":"MethodNotAllowed"}`},
		{"GET", "runtime/invocation/r/other", 404, `{"errorMessage":"Unknown path","errorType":"NotFound"}`},
		{"GET", "runtime/invocation", 404, `{"errorMessage":"Unknown path","errorType":"NotFound"}`},
		{"GET", "../other", 404, `{"errorMessage":"Unknown path","errorType":"NotFound"}`},
	} {
		if status, body := c.do(tc.method, tc.path, nil); status != tc.status || body != tc.body {
			t.Errorf("%s %s: got %d %s want %d %s", tc.method, tc.path, status, body, tc.status, tc.body)
		}
	}
}

func TestTheFirstInitErrorCounts(t *testing.T) {
	t.Parallel()
	api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
	if status, _ := c.post("runtime/init/error", strings.NewReader(`{"errorType":"Runtime.Broken","errorMessage":"no handler"}`)); status != 202 {
		t.Fatalf("got %d", status)
	}
	<-api.Failed()
	if status, text := c.post("runtime/init/error", strings.NewReader(`{"errorMessage":"me too"}`)); status != 403 || !strings.Contains(text, "InvalidStateTransition") {
		t.Fatalf("got %d %s", status, text)
	}
	if got, want := api.InitError(), (runtimeapi.InitError{Type: "Runtime.Broken", Message: "no handler"}); got != want {
		t.Fatalf("got %+v want %+v", got, want)
	}
}

// unhandled requires a function error with a document.
func unhandled(t *testing.T, out agent.Outcome, errorType, document string) {
	t.Helper()
	want := agent.Outcome{FunctionError: "Unhandled", ErrorType: errorType, ContentType: "application/json", Payload: []byte(document)}
	if d := cmp.Diff(want, out, withoutLoad()); d != "" {
		t.Error(d)
	}
}

func refused(err error, reason agent.Reason) bool {
	r, ok := errors.AsType[*runtimeapi.RefusedError](err)
	return ok && r.Verdict == agent.Verdict{Reason: reason}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// withoutLoad compares outcomes but for how busy the environment was.
func withoutLoad() cmp.Option { return cmpopts.IgnoreFields(agent.Outcome{}, "Load") }
