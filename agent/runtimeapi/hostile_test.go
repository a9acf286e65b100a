package runtimeapi_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// open sends text on a connection of its own and reports whether all of it was
// taken. The connection stays open until the test ends.
func (c *client) open(text string) bool {
	c.t.Helper()
	conn, err := dialer(c)(c.t.Context(), "", "")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, text)
	return err == nil
}

func TestHugeHeadersOnEveryConnectionTakeABoundedAmountOfMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, c, stop := serve(t, runtimeapi.Config{Concurrency: 1})
		defer time.Sleep(time.Second) // net/http waits before it closes
		defer stop()
		half := "POST /2018-06-01/runtime/invocation/x/error HTTP/1.1\r\nX-Cause: " + strings.Repeat("x", 1<<20)
		taken := 0
		for range 60 {
			if c.open(half) {
				taken++
			}
		}
		if taken < 14 || taken > 18 {
			t.Errorf("%d of 60 headers of 1 MiB were read", taken)
		}
		if status, body := c.do(http.MethodGet, "ping", nil); status != http.StatusOK || body != "pong" {
			t.Errorf("got %d %s meanwhile", status, body)
		}
		time.Sleep(20 * time.Second) // they are given up, so that there is room again
		status, body := c.post("runtime/invocation/x/error", nil, "X-Cause", strings.Repeat("x", 1<<20))
		if status != http.StatusBadRequest || !strings.Contains(body, "InvalidRequestID") {
			t.Errorf("got %d %s for a large header alone", status, body)
		}
	})
}

func TestReportsOfAFailedInitialisationAreReadAFewAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 1})
		defer time.Sleep(time.Second) // net/http waits before it closes
		defer stop()
		for range 10 {
			c.open("POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
		}
		synctest.Wait()
		if status, body := c.do(http.MethodGet, "ping", nil); status != http.StatusOK || body != "pong" {
			t.Errorf("got %d %s meanwhile", status, body)
		}
		began := time.Now()
		if status, body := c.post("runtime/init/error", strings.NewReader(`{"errorMessage":"whole"}`)); status != http.StatusAccepted {
			t.Errorf("got %d %s", status, body)
		}
		if took := time.Since(began); took < time.Minute || took > 4*time.Minute {
			t.Errorf("the whole report was read after %v", took)
		}
		<-api.Failed()
		if got := api.InitError().Message; got != "whole" {
			t.Errorf("got %q", got)
		}
	})
}

func TestAReportOfAFailedInitialisationIsText(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"no JSON": "\xff\xfe\x00binary", "cut in a rune": `{"errorType":"` + strings.Repeat("é", 200) + `x","errorMessage":"x` + strings.Repeat("é", 3000) + `"}`,
	} {
		api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
		if status, text := c.post("runtime/init/error", strings.NewReader(body)); status != http.StatusAccepted {
			t.Errorf("%s: got %d %s", name, status, text)
		}
		got := api.InitError()
		if !utf8.ValidString(got.Type) || !utf8.ValidString(got.Message) || got.Message == "" || len(got.Message) > 3<<10 {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestABodyNobodyReadsEndsTheConnectionWhenItDoesNotCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, c, stop := serve(t, runtimeapi.Config{Concurrency: 1})
		defer time.Sleep(time.Second) // net/http waits before it closes
		defer stop()
		for i := range 68 { // all there may be
			path := [...]string{"runtime/invocation/none/response", "nothing", "runtime/init/error", "ping"}[i%4]
			c.open(fmt.Sprintf("POST /2018-06-01/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", path))
		}
		began := time.Now()
		if status, body := c.do(http.MethodGet, "ping", nil); status != http.StatusOK || body != "pong" {
			t.Errorf("got %d %s", status, body)
		}
		if took := time.Since(began); took > 61*time.Second {
			t.Errorf("a place was free after %v", took)
		}
	})
}

func TestAFunctionCannotAnswerForAnother(t *testing.T) {
	t.Parallel()
	victim, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
	attacker, mallory, _ := serve(t, runtimeapi.Config{Concurrency: 1})
	next, idle := c.poll(t.Context()), mallory.poll(t.Context())
	<-victim.Ready()
	<-attacker.Ready()
	done := call(t.Context(), victim, "r-1")
	<-next
	for _, verb := range []string{"response", "error"} {
		status, body := mallory.post("runtime/invocation/r-1/"+verb, strings.NewReader(`"mine"`))
		if status != http.StatusBadRequest || !strings.Contains(body, "InvalidRequestID") {
			t.Errorf("%s: got %d %s", verb, status, body)
		}
	}
	c.answer("r-1", `"right"`)
	if got := <-done; got.err != nil || string(got.out.Payload) != `"right"` {
		t.Errorf("got %+v", got)
	}
	attacker.Exited(runtimeapi.Exit{})
	<-idle
}

func TestOfManyAnswersAtOnceOneCounts(t *testing.T) {
	t.Parallel()
	api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
	next := c.poll(t.Context())
	<-api.Ready()
	done := call(t.Context(), api, "r-1")
	<-next
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := map[int]int{}
	for i := range 32 {
		verb := [...]string{"response", "error"}[i%2]
		wg.Go(func() {
			status, _ := c.post("runtime/invocation/r-1/"+verb, strings.NewReader(fmt.Sprint(i)))
			mu.Lock()
			defer mu.Unlock()
			statuses[status]++
		})
	}
	wg.Wait()
	if statuses[http.StatusAccepted] != 1 || statuses[http.StatusBadRequest] != 31 {
		t.Errorf("got %v", statuses)
	}
	if got := <-done; got.err != nil || api.InFlight() != 0 {
		t.Errorf("got %+v, %d in flight", got, api.InFlight())
	}
}

func TestAnAnswersTypeIsText(t *testing.T) {
	t.Parallel()
	api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1})
	next := c.poll(t.Context())
	<-api.Ready()
	done := call(t.Context(), api, "r-1")
	<-next
	conn, err := dialer(c)(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "POST /2018-06-01/runtime/invocation/r-1/response HTTP/1.1\r\nHost: x\r\nContent-Type: \xff\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.out.ContentType != "application/json" || string(got.out.Payload) != "{}" {
		t.Errorf("got %+v", got)
	}
}

func dialer(c *client) func(ctx context.Context, network, address string) (net.Conn, error) {
	return c.http.Transport.(*http.Transport).DialContext //nolint:forcetypeassert // as serve made it
}
