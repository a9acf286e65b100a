package telemetry_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
)

func TestABatchLeavesWhenItIsOldEnough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{})
		r := w.receive(t, 81, nil)
		w.subscribe(t, "x", 81, function, `,"buffering":{"timeoutMs":2500}`)
		begun := time.Now()
		w.hub.Function([]byte("one"))
		time.Sleep(2 * time.Second)
		w.hub.Function([]byte("two"))
		time.Sleep(time.Second)
		w.hub.Function([]byte("three"))
		time.Sleep(time.Minute)
		got := r.got()
		if len(got) != 2 {
			t.Fatalf("got %+v", got)
		}
		if took := got[0].at.Sub(begun); took != 2500*time.Millisecond || len(got[0].events) != 2 {
			t.Errorf("the first came after %v with %d events", took, len(got[0].events))
		}
		if took := got[1].at.Sub(begun); took != 5500*time.Millisecond || len(got[1].events) != 1 {
			t.Errorf("the second came after %v with %d events", took, len(got[1].events))
		}
		if got[0].path != "/in" || got[0].host != "sandbox.localdomain:81" || got[0].mediaType != "application/json" {
			t.Errorf("got %+v", got[0])
		}
		if got[0].sequence == "" || got[0].sequence == got[1].sequence {
			t.Errorf("the sequence ids are %q and %q", got[0].sequence, got[1].sequence)
		}
	})
}

func TestABatchLeavesAtOnceWhenItIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{})
		many, much := w.receive(t, 81, nil), w.receive(t, 82, nil)
		w.subscribe(t, "many", 81, function, `,"buffering":{"maxItems":1000,"maxBytes":1048576,"timeoutMs":30000}`)
		w.subscribe(t, "much", 82, function, `,"buffering":{"maxBytes":262144,"timeoutMs":30000}`)
		line := []byte(strings.Repeat("x", 400))
		for range 1001 {
			w.hub.Function(line)
		}
		synctest.Wait()
		if got := many.got(); len(got) != 1 || len(got[0].events) != 1000 {
			t.Errorf("by number: got %d batches", len(got))
		}
		got := much.got()
		if len(got) != 1 {
			t.Fatalf("by size: got %d batches", len(got))
		}
		events, size := len(got[0].events), len(got[0].body)
		if each := size / events; size > 262144+events || size < 262144-2*each {
			t.Errorf("by size: a batch of %d bytes in %d events", size, events)
		}
		time.Sleep(31 * time.Second)
		for name, r := range map[string]*receiver{"by number": many, "by size": much} {
			if n := len(r.events()); n != 1001 {
				t.Errorf("%s: got %d events in the end", name, n)
			}
		}
	})
}

func TestInvariant3_WhatFailsIsSentAgainUnderTheSameSequenceID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{})
		answers := []int{500, 429, 200}
		r := w.receive(t, 81, func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(answers[0])
			answers = answers[1:]
		})
		w.subscribe(t, "x", 81, function, "")
		w.hub.Function([]byte("one"))
		time.Sleep(time.Minute)
		got := r.got()
		if len(got) != 3 || got[0].sequence != got[1].sequence || got[0].body != got[2].body || got[1].sequence != got[2].sequence {
			t.Fatalf("got %+v", got)
		}
		if log := w.logged(); strings.Contains(strings.Join(log, ""), "platform.logsDropped") {
			t.Errorf("logged %q", log)
		}
	})
}

func TestInvariant1_WhatASilentSubscriberMissesIsToldAndCostsOthersNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{JSON: true})
		var answers atomic.Bool
		bad := w.receive(t, 81, func(_ http.ResponseWriter, r *http.Request) {
			if !answers.Load() {
				<-r.Context().Done()
			}
		})
		good := w.receive(t, 82, nil)
		w.subscribe(t, "bad", 81, all, "")
		w.subscribe(t, "good", 82, function, "")
		const size, batches = 400, 10
		sent := 0
		begun := time.Now()
		for range batches {
			for range 500 {
				w.hub.Function([]byte(strings.Repeat("x", size)))
				sent++
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begun); took != batches*100*time.Millisecond {
			t.Errorf("it took %v: somebody waited", took)
		}
		time.Sleep(time.Minute)
		if n := len(good.events()); n != sent {
			t.Errorf("the other got %d of %d", n, sent)
		}
		answers.Store(true)
		before := len(bad.got())
		w.hub.Function([]byte("at last"))
		time.Sleep(time.Minute)
		after := bad.got()[before:]
		if len(after) != 1 || types(after[0].events) != "function logsDropped" {
			t.Fatalf("got %d posts", len(after))
		}
		// Nothing was ever answered: all is lost, the subscription's own event too.
		want := fmt.Sprintf(`"droppedRecords":%d,`, sent+2)
		if record := string(after[0].events[1].Record); !strings.Contains(record, want) || !strings.Contains(record, `"reason":"could not send events: `) {
			t.Errorf("told %s, want %s", record, want)
		}
		w.checkLogged(t, sent+2)
	})
}

// checkLogged checks how much was dropped, as the function's log has it.
func (w *world) checkLogged(t *testing.T, want int) {
	t.Helper()
	records := 0
	for _, line := range w.logged() {
		var n int
		if _, after, ok := strings.Cut(line, `"droppedRecords":`); ok {
			if _, err := fmt.Sscanf(after, "%d", &n); err != nil || !strings.Contains(line, " WARN ") {
				t.Errorf("logged %s", line)
			}
		}
		records += n
	}
	if records != want {
		t.Errorf("the log has %d dropped, want %d", records, want)
	}
}

func TestInvariant2_WhatWaitsIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{})
		released := make(chan struct{})
		var rs []*receiver
		for i := range 5 {
			r := w.receive(t, 81+i, func(http.ResponseWriter, *http.Request) { <-released })
			w.subscribe(t, fmt.Sprint(i), 81+i, function, `,"buffering":{"maxBytes":1048576}`)
			rs = append(rs, r)
		}
		for range 30 {
			w.hub.Function([]byte(strings.Repeat("x", 200<<10)))
		}
		synctest.Wait()
		close(released)
		time.Sleep(time.Minute)
		for _, r := range rs {
			// Half a megabyte each, as there are so many: two of these, in batches of
			// half of that.
			if n, posts := len(r.events()), len(r.got()); n != 2 || posts != 2 {
				t.Errorf("got %d in %d", n, posts)
			}
		}
	})
}

func TestOneWhoRefusesHasItsOwnLossAndLearnsOfItLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{})
		w.subscribe(t, "x", 81, all, "") // nobody listens
		w.hub.Close()
		w.hub.Function([]byte("one"))
		time.Sleep(time.Minute)
		if log := w.logged(); len(log) != 2 || log[1] != "platform.logsDropped  WARN LOGS_DROPPED Records: 2\tBytes: "+
			fmt.Sprint(size("function", `"one"`)+size("platform.telemetrySubscription", `{"name":"x","state":"Subscribed","types":["platform","function","extension"]}`))+
			"\tReason: could not send events: connect: connection refused" {
			t.Fatalf("logged %q", log)
		}
		time.Sleep(time.Hour)
		w.mu.Lock()
		attempts := len(w.dialled)
		w.mu.Unlock()
		if attempts != 3 {
			t.Errorf("dialled %d times", attempts)
		}
		r := w.receive(t, 81, nil)
		w.hub.Function([]byte("two"))
		time.Sleep(time.Minute)
		if got := types(r.events()); got != "function logsDropped" {
			t.Errorf("got %s", got)
		}
		w.hub.Function([]byte("three"))
		time.Sleep(time.Minute)
		if got := types(r.events()); got != "function logsDropped function" {
			t.Errorf("told of it again: %s", got)
		}
	})
}

// size is that of an event.
func size(kind, record string) int {
	return len(`{"time":"2000-01-01T00:00:00.000Z","type":"` + kind + `","record":` + record + `}`)
}

func TestFlushDeliversAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{})
		r, k := w.receive(t, 81, nil), w.receiveLines(t, 82, 0)
		w.subscribe(t, "x", 81, function, `,"buffering":{"timeoutMs":30000}`)
		tcp := `{"schemaVersion":"2022-12-13","types":["function"],"destination":{"protocol":"TCP","port":82},"buffering":{"timeoutMs":30000}}`
		if err := w.hub.Subscribe(t.Context(), "y", []byte(tcp)); err != nil {
			t.Fatal(err)
		}
		w.hub.Function([]byte("one"))
		w.hub.Function([]byte("two"))
		begun := time.Now()
		w.hub.Flush(t.Context())
		if took := time.Since(begun); took != 0 || len(r.events()) != 2 {
			t.Errorf("it took %v and %d events arrived", took, len(r.events()))
		}
		synctest.Wait()
		if got, _ := k.got(); len(got) != 2 || !strings.Contains(got[1], `"two"`) {
			t.Errorf("got %q", got)
		}
		w.hub.Flush(t.Context()) // of nothing
		if took := time.Since(begun); took != 0 || len(r.got()) != 1 {
			t.Errorf("it took %v and %d posts", took, len(r.got()))
		}
	})
}

func TestFlushTakesASecondAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{})
		w.receive(t, 81, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		w.subscribe(t, "x", 81, function, "")
		w.hub.Function([]byte("one"))
		begun := time.Now()
		w.hub.Flush(t.Context())
		if took := time.Since(begun); took != time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestLinesOverTCPComeAgainOnANewConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{})
		k := w.receiveLines(t, 82, 1) // hangs up after each line
		tcp := `{"schemaVersion":"2025-01-29","types":["function"],"destination":{"protocol":"TCP","port":82}}`
		if err := w.hub.Subscribe(t.Context(), "y", []byte(tcp)); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"one", "two", "three"} {
			w.hub.Function([]byte(line))
			time.Sleep(time.Minute)
		}
		got, conns := k.got()
		var texts []string
		for _, line := range got {
			_, record, _ := strings.Cut(line, `"record":`)
			texts = append(texts, record)
		}
		if diff := cmp.Diff([]string{"\"one\"}\n", "\"two\"}\n", "\"three\"}\n"}, texts); diff != "" || conns != 3 {
			t.Errorf("%d connections: %s", conns, diff)
		}
	})
}

func TestASubscriberThatReadsNothingOverTCPLosesItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, telemetry.Config{})
		l := w.listen(t, 82) // nobody ever accepts, and what is sent fills the pipe
		tcp := `{"schemaVersion":"2025-01-29","types":["function"],"destination":{"protocol":"TCP","port":82}}`
		err := w.hub.Subscribe(t.Context(), "y", []byte(tcp))
		if err == nil || !strings.Contains(err.Error(), "could not TCP dial") {
			t.Fatalf("got %v", err)
		}
		accepted := make(chan struct{})
		go func() {
			defer close(accepted)
			for {
				if _, err := l.Accept(); err != nil {
					return
				}
			}
		}()
		if err := w.hub.Subscribe(t.Context(), "y", []byte(tcp)); err != nil {
			t.Fatal(err)
		}
		w.hub.Function([]byte(strings.Repeat("x", 200<<10)))
		time.Sleep(time.Minute)
		if log := strings.Join(w.logged(), "\n"); !strings.Contains(log, "Records: 1\t") || !strings.Contains(log, "no answer within 3 s") {
			t.Errorf("logged %q", log)
		}
		_ = l.Close()
		<-accepted
	})
}
