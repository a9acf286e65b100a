package runtimeapi_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// heardLog remembers what a log was told.
type heardLog struct {
	mu    sync.Mutex
	calls []string
}

func (l *heardLog) add(call string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, call)
}

func (l *heardLog) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.calls, " ")
}

func (l *heardLog) Began(id string) { l.add("began:" + id) }

func (l *heardLog) Ended(id string) { l.add("ended:" + id) }

func (l *heardLog) Tail(id string) runtimeapi.Tail {
	l.add("tail:" + id)
	return &heardTail{log: l, id: id}
}

type heardTail struct {
	log *heardLog
	id  string
}

func (t *heardTail) Finish(context.Context) []byte {
	t.log.add("finish:" + t.id)
	return []byte("the end of " + t.id)
}

func (t *heardTail) Drop() { t.log.add("drop:" + t.id) }

func TestLogsAreToldWhatRunsWhereOneDoes(t *testing.T) {
	t.Parallel()
	for concurrency, want := range map[int]string{
		1: "tail:a began:a ended:a finish:a began:b ended:b",
		2: "tail:a finish:a",
	} {
		log := &heardLog{}
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: concurrency, Logs: log})
		for _, id := range []string{"a", "b"} {
			polled := c.poll(t.Context())
			<-api.Ready()
			inv := invocation(id)
			inv.LogTail = id == "a"
			done := make(chan agent.Outcome, 1)
			go func() {
				out, err := api.Invoke(t.Context(), inv, nil)
				if err != nil {
					t.Error(err)
				}
				done <- out
			}()
			<-polled
			c.answer(id, "{}")
			if got, want := string((<-done).LogTail), map[bool]string{true: "the end of a"}[inv.LogTail]; got != want {
				t.Errorf("the tail of %s is %q", id, got)
			}
		}
		stop()
		if d := cmp.Diff(want, log.all()); d != "" {
			t.Errorf("concurrency %d: %s", concurrency, d)
		}
	}
}

func TestARefusedInvocationLeavesNoTail(t *testing.T) {
	t.Parallel()
	log := &heardLog{}
	api, _, _ := serve(t, runtimeapi.Config{Concurrency: 1, Logs: log})
	inv := invocation("a")
	inv.LogTail = true
	if _, err := api.Invoke(t.Context(), inv, nil); err == nil { // nobody has asked for anything yet
		t.Error("it was run")
	}
	if !slices.Equal(log.calls, []string{"tail:a", "drop:a"}) {
		t.Errorf("got %q", log.calls)
	}
}

func TestTheEndOfAStreamedAnswerHasTheTail(t *testing.T) {
	t.Parallel()
	log := &heardLog{}
	api, c, _ := serve(t, runtimeapi.Config{Concurrency: 1, Logs: log})
	polled := c.poll(t.Context())
	<-api.Ready()
	inv := invocation("r")
	inv.LogTail, inv.Stream = true, true
	done := make(chan agent.Outcome, 1)
	go func() {
		out, err := api.Invoke(t.Context(), inv, nil)
		if err != nil {
			t.Error(err)
		}
		done <- out
	}()
	<-polled
	status := c.respond(t.Context(), strings.NewReader("hello"), nil, streaming[:]...)
	out := <-done
	body, end := all(out.Stream)
	if <-status; body != "hello" || string(end.LogTail) != "the end of r" {
		t.Errorf("got %q, then the tail %q", body, end.LogTail)
	}
}
