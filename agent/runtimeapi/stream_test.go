package runtimeapi_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// streaming is what runtimes say that stream.
var streaming = [...]string{"Lambda-Runtime-Function-Response-Mode", "streaming"}

// callStream starts an invocation whose caller takes the answer as it comes.
func callStream(ctx context.Context, api *runtimeapi.API, id string) <-chan result {
	got := make(chan result, 1)
	go func() {
		inv := invocation(id)
		inv.Stream = true
		out, err := api.Invoke(ctx, inv, nil)
		got <- result{out, err}
	}()
	return got
}

// streamed is an environment whose runtime has the invocation "r", whose caller
// streams.
func streamed(t *testing.T, cfg runtimeapi.Config) (*runtimeapi.API, *client, <-chan result, func()) {
	t.Helper()
	cfg.Concurrency = max(cfg.Concurrency, 1)
	api, c, stop := serve(t, cfg)
	next := c.poll(t.Context())
	<-api.Ready()
	got := callStream(t.Context(), api, "r")
	if e := <-next; e.id() != "r" {
		t.Fatalf("got %+v", e)
	}
	return api, c, got, stop
}

// respond starts a streamed response to "r", whose status arrives on the channel.
func (c *client) respond(ctx context.Context, body io.Reader, trailer http.Header, header ...string) <-chan int {
	got := make(chan int, 1)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"runtime/invocation/r/response", body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.ContentLength, req.Trailer = -1, trailer
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	go func() {
		resp, err := c.http.Do(req)
		if err != nil {
			got <- -1
			return
		}
		_ = resp.Body.Close()
		got <- resp.StatusCode
	}()
	return got
}

// all reads a stream to its end.
func all(s agent.Stream) (body string, end agent.Outcome) {
	var b strings.Builder
	for p, ok := s.Next(); ok; p, ok = s.Next() {
		b.Write(p)
	}
	return b.String(), s.End()
}

func TestAStreamedAnswerArrivesAsTheRuntimeWritesIt(t *testing.T) {
	for name, header := range map[string][]string{"said so": streaming[:], "in chunks": nil} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { arrives(t, header) }) })
	}
}

// arrives streams an answer word by word.
func arrives(t *testing.T, header []string) {
	api, c, got, stop := streamed(t, runtimeapi.Config{})
	defer stop()
	body, write := io.Pipe()
	posted := c.respond(t.Context(), body, nil, append(header, "Content-Type", "text/event-stream")...)
	out := (<-got).out
	if out.Stream == nil || out.ContentType != "text/event-stream" || out.FunctionError != "" {
		t.Fatalf("got %+v", out)
	}
	for _, word := range []string{"one", "two", "three"} {
		wordArrives(t, write, out.Stream, word)
	}
	if n := api.InFlight(); n != 1 {
		t.Errorf("%d in flight while it streams", n)
	}
	_ = write.Close()
	if rest, end := all(out.Stream); rest != "" || end.FunctionError != "" || end.Duration != 3*time.Second/2 {
		t.Errorf("got %q and %+v", rest, end)
	}
	if status := <-posted; status != 202 || api.InFlight() != 0 {
		t.Errorf("got %d, %d in flight", status, api.InFlight())
	}
}

// wordArrives writes a word after half a second, which arrives at once.
func wordArrives(t *testing.T, write io.Writer, s agent.Stream, word string) {
	t.Helper()
	time.Sleep(time.Second / 2)
	began := time.Now()
	_, _ = io.WriteString(write, word)
	if p, ok := s.Next(); !ok || string(p) != word || time.Since(began) != 0 {
		t.Errorf("got %q %v after %v, want %q", p, ok, time.Since(began), word)
	}
}

func TestAStreamThatEndsInAnErrorSaysWhich(t *testing.T) {
	document := `{"errorType":"Halfway","errorMessage":"m"}`
	trailer := func(errorType, body string) http.Header {
		return http.Header{"Lambda-Runtime-Function-Error-Type": {errorType}, "Lambda-Runtime-Function-Error-Body": {body}}
	}
	for name, tc := range map[string]struct {
		trailer        http.Header
		errorType, doc string
	}{
		"type and body":    {trailer("Runtime.Halfway", base64.StdEncoding.EncodeToString([]byte(document))), "Runtime.Halfway", document},
		"no base64":        {trailer("Runtime.Halfway", "!"), "Runtime.Halfway", `{"errorType":"Runtime.Halfway","errorMessage":""}`},
		"type of its own":  {trailer("errorString", ""), "Runtime.Unknown", `{"errorType":"Runtime.Unknown","errorMessage":""}`},
		"empty, as always": {trailer("", ""), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, c, got, stop := streamed(t, runtimeapi.Config{})
				defer stop()
				posted := c.respond(t.Context(), strings.NewReader("half"), tc.trailer, streaming[:]...)
				body, end := all((<-got).out.Stream)
				if body != "half" || end.ErrorType != tc.errorType || string(end.Payload) != tc.doc || (end.FunctionError == "") != (tc.doc == "") {
					t.Errorf("got %q and %+v %s", body, end, end.Payload)
				}
				if status := <-posted; status != 202 {
					t.Errorf("got %d", status)
				}
			})
		})
	}
}

func TestAnErrorInterruptsAResponseThatStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, got, stop := streamed(t, runtimeapi.Config{})
		defer stop()
		body, write := io.Pipe()
		posted := c.respond(t.Context(), body, nil, streaming[:]...)
		_, _ = io.WriteString(write, "half")
		out := (<-got).out
		if p, ok := out.Stream.Next(); !ok || string(p) != "half" {
			t.Fatalf("got %q", p)
		}
		document := `{"errorType":"Late","errorMessage":"m"}`
		for i, want := range []int{202, 400} {
			if status, text := c.post("runtime/invocation/r/error", strings.NewReader(document), "Lambda-Runtime-Function-Error-Type", "Function.Late"); status != want {
				t.Errorf("%d: got %d %s", i, status, text)
			}
		}
		if rest, end := all(out.Stream); rest != "" || end.ErrorType != "Function.Late" || string(end.Payload) != document {
			t.Errorf("got %q and %+v", rest, end)
		}
		if n := api.InFlight(); n != 0 {
			t.Errorf("%d in flight", n)
		}
		_, _ = io.WriteString(write, "what nobody reads")
		_ = write.Close()
		if status := <-posted; status != 202 {
			t.Errorf("got %d", status)
		}
	})
}

func TestAStreamIsCutAtTheDeadlineAndTheRuntimeGoesOn(t *testing.T) {
	for name, callerReads := range map[string]bool{"a caller that reads": true, "a caller that does not": false} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { cutAtTheDeadline(t, callerReads) }) })
	}
}

func cutAtTheDeadline(t *testing.T, callerReads bool) {
	var timeouts atomic.Int64
	api, c, got, stop := streamed(t, runtimeapi.Config{Concurrency: 2, TimedOut: func() { timeouts.Add(1) }})
	defer stop()
	began := time.Now()
	body, write := io.Pipe()
	posted := c.respond(t.Context(), body, nil, streaming[:]...)
	go func() { // much longer than a minute, and than any buffer
		for range 200 {
			_, _ = write.Write(make([]byte, 100<<10))
			time.Sleep(400 * time.Millisecond) // never just at the deadline
		}
		_ = write.Close()
	}()
	out := (<-got).out
	if !callerReads {
		time.Sleep(time.Minute)
	}
	received, end := all(out.Stream)
	timedOut(t, end)
	if took := time.Since(began); callerReads && (took != 3*time.Second || len(received) != 8*100<<10) {
		t.Errorf("got %d bytes after %v", len(received), took)
	}
	synctest.Wait()
	if n := api.InFlight(); n != 1 || timeouts.Load() != 1 {
		t.Errorf("%d in flight, %d timeouts", n, timeouts.Load())
	}
	siblingIsServed(t, api, c)
	if status := <-posted; status != 202 || api.InFlight() != 0 {
		t.Errorf("got %d, %d in flight", status, api.InFlight())
	}
}

// timedOut wants the end of a stream after three seconds.
func timedOut(t *testing.T, end agent.Outcome) {
	t.Helper()
	want := `{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: r Error: Task timed out after 3.00 seconds"}`
	if end.FunctionError != "Unhandled" || end.ErrorType != "Sandbox.Timedout" || string(end.Payload) != want || end.Duration != 3*time.Second {
		t.Errorf("got %+v %s", end, end.Payload)
	}
}

func siblingIsServed(t *testing.T, api *runtimeapi.API, c *client) {
	t.Helper()
	next, sibling := c.poll(t.Context()), call(t.Context(), api, "sibling")
	<-next
	c.answer("sibling", "ok")
	if r := <-sibling; r.err != nil || string(r.out.Payload) != "ok" {
		t.Errorf("got %+v", r)
	}
}

func TestASlowCallerHoldsUpTheRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, got, stop := streamed(t, runtimeapi.Config{})
		defer stop()
		body := &counter{left: 20 << 20}
		posted := c.respond(t.Context(), body, nil, streaming[:]...)
		out := (<-got).out
		synctest.Wait()
		if n := body.read.Load(); n > 512<<10 {
			t.Errorf("%d bytes were taken of a runtime whose caller reads nothing", n)
		}
		received, end := all(out.Stream)
		if len(received) != 20<<20 || end.FunctionError != "" {
			t.Errorf("got %d bytes, %+v", len(received), end)
		}
		<-posted
	})
}

// counter is a body that counts what was read of it.
type counter struct {
	left int
	read atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), c.left)
	c.left -= n
	c.read.Add(int64(n))
	return n, nil
}

func TestAStreamEndsWhenTheProcessDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, got, stop := streamed(t, runtimeapi.Config{})
		defer stop()
		body, write := io.Pipe()
		posted := c.respond(t.Context(), body, nil, streaming[:]...)
		out := (<-got).out
		api.Exited(runtimeapi.Exit{Code: 3})
		if _, end := all(out.Stream); end.ErrorType != "Runtime.ExitError" || !strings.Contains(string(end.Payload), "exit status 3") {
			t.Errorf("got %+v", end)
		}
		_ = write.Close()
		if status := <-posted; status != 202 || api.InFlight() != 0 {
			t.Errorf("got %d, %d in flight", status, api.InFlight())
		}
	})
}

func TestAStreamThatBreaksIsTruncated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, got, stop := streamed(t, runtimeapi.Config{})
		defer stop()
		body, write := io.Pipe()
		posted := c.respond(t.Context(), body, nil, streaming[:]...)
		out := (<-got).out
		_, _ = io.WriteString(write, "half")
		_ = write.CloseWithError(errors.New("the function died"))
		if body, end := all(out.Stream); body != "half" || end.ErrorType != "Runtime.TruncatedResponse" {
			t.Errorf("got %q and %+v", body, end)
		}
		<-posted
		if n := api.InFlight(); n != 0 {
			t.Errorf("%d in flight", n)
		}
	})
}

func TestAStreamLargerThanTwoHundredMebibytesIsEnded(t *testing.T) {
	t.Parallel()
	api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
	next := c.poll(t.Context())
	<-api.Ready()
	got := make(chan result, 1)
	go func() {
		inv := invocation("r")
		inv.Stream, inv.Timeout = true, 5*time.Minute // so much takes its time
		out, err := api.Invoke(t.Context(), inv, nil)
		got <- result{out, err}
	}()
	<-next
	posted := c.respond(t.Context(), zeros(runtimeapi.MaxStream+1), nil, streaming[:]...)
	s := (<-got).out.Stream
	var n int
	for p, ok := s.Next(); ok; p, ok = s.Next() {
		n += len(p)
	}
	if end := s.End(); n > runtimeapi.MaxStream || n < runtimeapi.MaxStream-64<<10 || end.ErrorType != "Function.ResponseSizeTooLarge" {
		t.Errorf("got %d bytes, %+v", n, end)
	}
	if status := <-posted; status != 413 {
		t.Errorf("got %d", status)
	}
}

func TestAStreamMayBeHeldToARateAfterItsFirstSixMebibytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 2 << 20, 10 << 20
		_, c, got, stop := streamed(t, runtimeapi.Config{StreamRate: rate})
		defer stop()
		began := time.Now()
		posted := c.respond(t.Context(), zeros(size), nil, streaming[:]...)
		body, end := all((<-got).out.Stream)
		if took := time.Since(began); took < 1900*time.Millisecond || took > 2100*time.Millisecond || len(body) != size || end.FunctionError != "" {
			t.Errorf("got %d bytes after %v, %+v", len(body), took, end)
		}
		<-posted
	})
}

func TestEitherKindOfCallerIsServedByEitherKindOfRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 1})
		defer stop()
		next := c.poll(t.Context())
		<-api.Ready()
		buffered := call(t.Context(), api, "r")
		<-next
		body, write := io.Pipe()
		posted := c.respond(t.Context(), body, nil, streaming[:]...)
		_, _ = io.WriteString(write, "slowly ")
		time.Sleep(time.Second)
		_, _ = io.WriteString(write, "told")
		_ = write.Close()
		if out := (<-buffered).out; out.Stream != nil || string(out.Payload) != "slowly told" {
			t.Errorf("got %+v", out)
		}
		<-posted
		next = c.poll(t.Context())
		synctest.Wait()
		stream := callStream(t.Context(), api, "whole")
		<-next
		c.answer("whole", "at once")
		if out := (<-stream).out; out.Stream != nil || string(out.Payload) != "at once" {
			t.Errorf("got %+v", out)
		}
	})
}

func TestABufferedCallerOfAStreamingRuntimeGetsSixMegabytesAtMost(t *testing.T) {
	t.Parallel()
	api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
	for extra, want := range map[int]int{0: 202, 1: 413} {
		next := c.poll(t.Context())
		<-api.Ready()
		got := call(t.Context(), api, "r")
		<-next
		if status := <-c.respond(t.Context(), zeros(runtimeapi.MaxResponse+extra), nil, streaming[:]...); status != want {
			t.Errorf("%d more: got %d", extra, status)
		}
		if out := (<-got).out; (out.FunctionError == "") != (want == 202) {
			t.Errorf("%d more: got %s", extra, out.ErrorType)
		}
	}
}

func TestAStreamThatBeginsAfterTheDeadlineIsAcceptedAndDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, got, stop := streamed(t, runtimeapi.Config{})
		defer stop()
		if out := (<-got).out; out.ErrorType != "Sandbox.Timedout" || out.Stream != nil {
			t.Errorf("got %+v", out)
		}
		if status := <-c.respond(t.Context(), zeros(10<<20), nil, streaming[:]...); status != 202 || api.InFlight() != 0 {
			t.Errorf("got %d, %d in flight", status, api.InFlight())
		}
	})
}
