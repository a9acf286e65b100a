package runtimeapi

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/agent"
)

// What one environment may take of the agent's memory, while all its slots wait
// for events.
const (
	memoryPerEnvironment = 256 << 10
	memoryPerSlot        = 20 << 10
)

// held is memory in use, after what is not was freed.
func held() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they have for one
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// idlers are the connections of a runtime without memory of its own, each with
// a slot: one goroutine drives them all.
type idlers struct {
	t     *testing.T
	api   *API
	conns []net.Conn
	buf   []byte
}

func (c *idlers) send(i int, request string) {
	if _, err := c.conns[i].Write([]byte(request)); err != nil {
		c.t.Fatal(err)
	}
}

// read reads a response, which comes in one piece or several, to its end.
func (c *idlers) read(i int, end string) string {
	n := 0
	for !bytes.HasSuffix(c.buf[:n], []byte(end)) {
		m, err := c.conns[i].Read(c.buf[n:])
		if err != nil {
			c.t.Fatal(err)
		}
		n += m
	}
	return string(c.buf[:n])
}

func (c *idlers) poll() {
	for i := range c.conns {
		c.send(i, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	for deadline := time.Now().Add(10 * time.Second); c.api.pending() < len(c.conns); runtime.Gosched() {
		if time.Now().After(deadline) {
			c.t.Fatalf("%d of %d polls arrived", c.api.pending(), len(c.conns))
		}
	}
}

// serveAll answers one invocation on every connection.
func (c *idlers) serveAll(payload string) {
	var calls sync.WaitGroup
	for i := range c.conns {
		calls.Go(func() {
			inv := agent.Invocation{RequestID: "r-" + strconv.Itoa(i), Timeout: time.Minute}
			if _, err := c.api.Invoke(context.Background(), inv, []byte(payload)); err != nil {
				c.t.Error(err)
			}
		})
	}
	for i := range c.conns {
		_, rest, _ := bytes.Cut([]byte(c.read(i, payload)), []byte("Request-Id: "))
		id, _, _ := bytes.Cut(rest, []byte("\r\n"))
		c.send(i, fmt.Sprintf("POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", id, len(payload), payload))
		c.read(i, "\n")
	}
	calls.Wait()
}

// TestAnEnvironmentTakesLittleMemory: the agent's part of it, before and after
// all its slots were used.
func TestAnEnvironmentTakesLittleMemory(t *testing.T) { //nolint:paralleltest // it measures the process
	const environments, slots = 4, 32
	buf := make([]byte, 64<<10)
	ctx, cancel := context.WithCancelCause(t.Context())
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel(nil)
	before := held()
	var all []*idlers
	for range environments {
		api := New(Config{Environment: "e", Concurrency: slots, Grace: 10 * time.Second, Log: slog.New(slog.DiscardHandler)})
		lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		serving.Go(func() { _ = api.Serve(ctx, lis) })
		c := &idlers{t: t, api: api, buf: buf}
		for range slots {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			c.conns = append(c.conns, conn)
		}
		c.poll()
		all = append(all, c)
	}
	check := func(when string) {
		each := (held() - before) / environments
		t.Logf("%s: %d bytes for an environment of %d slots", when, each, slots)
		if most := int64(memoryPerEnvironment + slots*memoryPerSlot); each > most || each < slots*256 {
			t.Errorf("%s an environment of %d slots takes %d bytes, want at most %d", when, slots, each, most)
		}
	}
	check("when its slots wait")
	payload := `{"text":"` + string(bytes.Repeat([]byte("x"), 8<<10)) + `"}`
	for _, c := range all {
		c.serveAll(payload)
		c.poll()
	}
	check("after each was used")
	runtime.KeepAlive(all)
}
