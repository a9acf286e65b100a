package runtimeapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// echo is a runtime client that keeps its connection and answers every event
// with itself, until the connection breaks.
func echo(address string) error {
	conn, err := (&net.Dialer{}).Dial("tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	body := make([]byte, 0, 64<<10)
	for {
		if _, err := io.WriteString(conn, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		body = body[:resp.ContentLength]
		_, err = io.ReadFull(resp.Body, body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return err
		}
		request := make([]byte, 0, 256+len(body))
		request = fmt.Appendf(request, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n",
			resp.Header.Get("Lambda-Runtime-Aws-Request-Id"), len(body))
		if _, err := conn.Write(append(request, body...)); err != nil {
			return err
		}
		accepted, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, accepted.Body)
		if err := errors.Join(err, accepted.Body.Close()); err != nil {
			return err
		}
		if accepted.StatusCode != http.StatusAccepted {
			return fmt.Errorf("got %d", accepted.StatusCode)
		}
	}
}

// echoes serves an environment whose slots are all taken by echo clients.
func echoes(tb testing.TB, slots int) *runtimeapi.API {
	tb.Helper()
	api := runtimeapi.New(runtimeapi.Config{Environment: "e", Concurrency: slots, Grace: 10 * time.Second, Log: slog.New(slog.DiscardHandler)})
	lis, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = api.Serve(ctx, lis) })
	for range slots {
		wg.Go(func() { _ = echo(lis.Addr().String()) })
	}
	tb.Cleanup(func() { cancel(nil); wg.Wait() })
	<-api.Ready()
	return api
}

func BenchmarkInvoke(b *testing.B) {
	for _, callers := range []int{1, 16, 32} {
		b.Run("c="+strconv.Itoa(callers), func(b *testing.B) {
			api := echoes(b, 32)
			payload := []byte(`{"hello":"world"}`)
			var id, left atomic.Int64
			b.ReportAllocs()
			// b.Loop is for one goroutine: the callers share its count.
			left.Store(int64(b.N))
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						inv := agent.Invocation{RequestID: strconv.FormatInt(id.Add(1), 10), Timeout: time.Minute}
						if _, err := api.Invoke(b.Context(), inv, payload); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "invokes/s")
		})
	}
}

// TestAnInvocationAllocatesLittle bounds the allocations of one invocation,
// those of the client and of net/http on both sides included.
func TestAnInvocationAllocatesLittle(t *testing.T) {
	api := echoes(t, 1)
	inv, payload := agent.Invocation{RequestID: "r", Timeout: time.Minute}, []byte(`{"hello":"world"}`)
	n := testing.AllocsPerRun(200, func() {
		if _, err := api.Invoke(t.Context(), inv, payload); err != nil {
			t.Fatal(err)
		}
	})
	const ceiling = 60
	if n > ceiling {
		t.Fatalf("got %v allocations, want at most %d", n, ceiling)
	}
}
