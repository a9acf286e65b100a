package lambdaapi_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
)

// invoking is an Invoker that is a function.
type invoking func(ctx context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error)

func (i invoking) Invoke(ctx context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
	return i(ctx, req)
}

func invoker(i invoking) func(*lambdaapi.Config) {
	return func(c *lambdaapi.Config) { c.Invoker = i }
}

// bubble runs a test with time of its own.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

// drip sends text a piece at a time, a second apart, until it is refused.
func drip(t *testing.T, c net.Conn, text string, piece int) {
	t.Helper()
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		for len(text) > 0 {
			n := min(piece, len(text))
			if _, err := io.WriteString(c, text[:n]); err != nil {
				return
			}
			text = text[n:]
			time.Sleep(time.Second)
		}
	}()
}

// within checks how long something took since from.
func within(t *testing.T, from time.Time, least, most time.Duration) {
	t.Helper()
	if took := time.Since(from); took < least || took > most {
		t.Errorf("it took %v, want %v to %v", took, least, most)
	}
}

func TestHeadersThatDripInEndTheConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFront(t, noDB{}, nil)
		c, began := f.dial(), time.Now()
		drip(t, c, strings.Repeat("G", 100), 1)
		in := bufio.NewReader(c)
		if got := hear(t, in, "GET"); got.status != http.StatusBadRequest {
			t.Errorf("got %+v", got)
		}
		if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		within(t, began, 9*time.Second, 12*time.Second)
	})
}

func TestAConnectionNobodyUsesIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFront(t, noDB{}, nil)
		c := f.dial()
		if _, err := io.WriteString(c, withBody(invocations+host, "{}")); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(c)
		hear(t, in, "POST")
		began := time.Now()
		if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		within(t, began, 2*time.Minute, 2*time.Minute+time.Second)
	})
}

func TestABodyThatDripsInIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"an invoke":           {invocations + host + "Content-Length: 1000\r\n\r\n", 408},
		"an invoke in chunks": {invocations + host + "Transfer-Encoding: chunked\r\n\r\n3e8\r\n", 408},
		"a function":          {create + "Content-Length: 60000000\r\n\r\n", 408},
		"too large":           {create + "Content-Length: 99999999999\r\n\r\n", 413},
		"an unknown path":     {"POST /nothing" + host + "Content-Length: 1000\r\n\r\n", 404},
		"not served":          {"POST /2015-03-31/event-source-mappings" + host + "Content-Length: 1000\r\n\r\n", 501},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFront(t, noDB{}, nil)
				conn, began := f.dial(), time.Now()
				if _, err := io.WriteString(conn, c.head); err != nil {
					t.Fatal(err)
				}
				drip(t, conn, strings.Repeat(" ", 1000), 1)
				in := bufio.NewReader(conn)
				if got := hear(t, in, "POST"); got.status != c.status || !got.closes {
					t.Errorf("got %+v, want %d and a closed connection", got, c.status)
				}
				within(t, began, 9*time.Second, 11*time.Second)
				_, _ = io.Copy(io.Discard, in)
				within(t, began, 9*time.Second, 12*time.Second)
			})
		})
	}
}

func TestABodyThatStopsMidwayIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFront(t, noDB{}, nil)
		conn := f.dial()
		sent := make(chan struct{})
		go func() { // all but the last byte, as fast as can be
			_, _ = io.WriteString(conn, create+"Content-Length: 2000001\r\n\r\n"+strings.Repeat(" ", 2_000_000))
			close(sent)
		}()
		<-sent
		began := time.Now()
		if got := hear(t, bufio.NewReader(conn), "POST"); got.exception != "RequestTimeoutException" || got.status != http.StatusRequestTimeout {
			t.Errorf("got %+v", got)
		}
		within(t, began, 9*time.Second, 11*time.Second)
	})
}

func TestASlowClientThatGoesOnIsServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFront(t, noDB{}, nil)
		conn, began := f.dial(), time.Now()
		payload := `"` + strings.Repeat("x", 5<<20) + `"`
		drip(t, conn, withBody(invocations+host, payload), 80<<10)
		in := bufio.NewReader(conn)
		w, err := http.ReadResponse(in, nil)
		if err != nil || w.StatusCode != http.StatusOK {
			t.Fatalf("got %+v %v", w, err)
		}
		defer func() { _ = w.Body.Close() }()
		within(t, began, time.Minute, 70*time.Second)
		var got bytes.Buffer
		for began = time.Now(); ; time.Sleep(time.Second) { // and reads as slowly
			if _, err := io.CopyN(&got, w.Body, 32<<10); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("after %d bytes: %v", got.Len(), err)
			}
		}
		within(t, began, 2*time.Minute, 4*time.Minute)
		if got.String() != payload {
			t.Errorf("%d bytes came back", got.Len())
		}
	})
}

func TestACallerThatDoesNotReadIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		answer := bytes.Repeat([]byte("x"), 6<<20)
		f := newFront(t, noDB{}, invoker(func(context.Context, controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
			return controlplane.InvokeResult{Payload: answer}, nil
		}))
		// A third of the budget is answers that nobody reads.
		for range 40 {
			if _, err := io.WriteString(f.dial(), withBody(invocations+host, "{}")); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := f.raw(withBody(invocations+host, "{}")); got.status != http.StatusTooManyRequests {
			t.Errorf("got %d while every answer is held", got.status)
		}
		time.Sleep(31 * time.Second)
		if got := f.raw(withBody(invocations+host, "{}")); got.status != http.StatusOK {
			t.Errorf("got %d after they were given up", got.status)
		}
	})
}

func TestACallerThatNeverReadsItsAnswersIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFront(t, noDB{}, nil)
		conn, began := f.dial(), time.Now()
		var err error
		for err == nil { // answers fill what the connection takes
			_, err = io.WriteString(conn, withBody(invocations+host, "{}"))
		}
		within(t, began, 20*time.Second, time.Minute)
	})
}

func TestAnInvokeMayTakeAnHourAndAHalf(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFront(t, noDB{}, invoker(func(ctx context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
			select {
			case <-time.After(90 * time.Minute):
				return controlplane.InvokeResult{Payload: req.Payload}, nil
			case <-ctx.Done():
				return controlplane.InvokeResult{}, context.Cause(ctx)
			}
		}))
		if got := f.raw(withBody(invocations+host, `"late"`)); got.status != http.StatusOK || got.body != `"late"` {
			t.Errorf("got %+v", got)
		}
	})
}

func TestACallerThatLeavesIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		left := make(chan time.Time, 1)
		f := newFront(t, noDB{}, invoker(func(ctx context.Context, _ controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
			<-ctx.Done()
			left <- time.Now()
			return controlplane.InvokeResult{}, context.Cause(ctx)
		}))
		conn := f.dial()
		if _, err := io.WriteString(conn, withBody(invocations+host, "{}")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		gone := time.Now()
		_ = conn.Close()
		if at := <-left; !at.Equal(gone) {
			t.Errorf("noticed at %v, left at %v", at, gone)
		}
	})
}

func TestBodiesThatDoNotFitAreRefusedAtOnce(t *testing.T) {
	t.Parallel()
	for name, head := range map[string]string{
		"length": create + "Content-Length: 69905067\r\n\r\n",
		"chunks": create + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFront(t, noDB{}, nil)
				large, small := f.dial(), f.dial()
				if _, err := io.WriteString(large, head); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				in, began := bufio.NewReader(small), time.Now()
				ask := func(body string) said {
					go func() { _, _ = io.WriteString(small, withBody(invocations+host, body)) }()
					return hear(t, in, "POST")
				}
				got := ask(`"` + strings.Repeat("x", 100_000) + `"`)
				if got.status != http.StatusTooManyRequests || got.exception != "TooManyRequestsException" || got.header.Get("Retry-After") != "1" ||
					!strings.Contains(got.body, `"Reason":"CallerRateLimitExceeded"`) || got.closes {
					t.Errorf("got %+v", got)
				}
				within(t, began, 0, 0)
				if got := f.raw("GET /x" + host + "\r\n"); got.status != http.StatusNotFound {
					t.Errorf("a request without a body got %+v", got)
				}
				_ = large.Close()
				synctest.Wait()
				if got := ask("{}"); got.status != http.StatusOK { // on the same connection
					t.Errorf("got %+v when there was room again", got)
				}
			})
		})
	}
}

func TestConnectionsBeyondTheMostWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFront(t, noDB{}, nil)
		var first net.Conn
		for i := range 10_000 {
			if c := f.dial(); i == 0 {
				first = c
			}
		}
		answered := make(chan said, 1)
		go func() { answered <- f.raw(withBody(invocations+host, "{}")) }()
		time.Sleep(time.Second)
		if len(answered) > 0 {
			t.Errorf("connection 10,001 was served")
		}
		_ = first.Close()
		if got := <-answered; got.status != http.StatusOK {
			t.Errorf("got %+v", got)
		}
	})
}
