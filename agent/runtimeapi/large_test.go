//go:build !race

package runtimeapi_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"runtime"
	"testing"

	"golang.org/x/sync/semaphore"

	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// roundTrip hands the runtime an event of 5 MB, which it answers with as much, in
// chunks as aws-lambda-go does.
func roundTrip(tb testing.TB, api *runtimeapi.API, c *client, payload []byte) {
	tb.Helper()
	done := make(chan result, 1)
	go func() {
		out, err := api.Invoke(tb.Context(), invocation("r"), payload)
		done <- result{out, err}
	}()
	if got := c.discardNext(tb.Context()); got != int64(len(payload)) {
		tb.Fatalf("got an event of %d bytes", got)
	}
	if status, text := c.post("runtime/invocation/r/response", unsized{bytes.NewReader(payload)}); status != http.StatusAccepted {
		tb.Fatalf("got %d %s", status, text)
	}
	r := <-done
	if r.err != nil || len(r.out.Payload) != len(payload) {
		tb.Fatalf("got %d bytes, %v", len(r.out.Payload), r.err)
	}
	r.out.Release()
}

// discardNext polls once and returns the size of the event.
func (c *client) discardNext(ctx context.Context) int64 {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"runtime/invocation/next", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

func BenchmarkLarge(b *testing.B) {
	api, c, _ := serve(b, runtimeapi.Config{Concurrency: 1, Answers: semaphore.NewWeighted(1 << 30)})
	ready := c.poll(b.Context())
	<-api.Ready()
	first := call(b.Context(), api, "first")
	<-ready
	c.answer("first", "")
	<-first
	payload := bytes.Repeat([]byte("0123456789"), 500_000)
	b.SetBytes(2 * int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		roundTrip(b, api, c, payload)
	}
}

// The race detector empties pools.
func TestALargeAnswerIsReceivedIntoOneBuffer(t *testing.T) {
	api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1, Answers: semaphore.NewWeighted(1 << 30)})
	ready := c.poll(t.Context())
	<-api.Ready()
	first := call(t.Context(), api, "first")
	<-ready
	c.answer("first", "")
	<-first
	payload := bytes.Repeat([]byte("0123456789"), 500_000)
	const times = 10
	var before, after runtime.MemStats
	for i := range times + 2 {
		if i == 2 {
			runtime.ReadMemStats(&before)
		}
		roundTrip(t, api, c, payload)
	}
	runtime.ReadMemStats(&after)
	each := int64(after.TotalAlloc-before.TotalAlloc) / times
	if most := int64(2 * len(payload)); each > most {
		t.Errorf("%d bytes were allocated for an answer of %d, more than %d", each, len(payload), most)
	}
}
