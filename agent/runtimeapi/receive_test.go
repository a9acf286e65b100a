package runtimeapi_test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// unsized hides how long a body is.
type unsized struct{ io.Reader }

func TestInvariant5_LargeAnswersWaitForRoom(t *testing.T) {
	for name, chunked := range map[string]bool{"of known size": false, "in chunks": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { largeAnswers(t, chunked) })
		})
	}
}

func answerBody(text string, chunked bool) io.Reader {
	if chunked {
		return unsized{strings.NewReader(text)}
	}
	return strings.NewReader(text)
}

// largeAnswers has two environments give more answers at once than there is
// memory for.
func largeAnswers(t *testing.T, chunked bool) {
	const each, size, room = 6, 5 << 20, runtimeapi.LeastAnswers
	memory := semaphore.NewWeighted(room)
	text := strings.Repeat("x", size)
	var mu sync.Mutex
	var held, peak, answered int
	var all sync.WaitGroup
	for range 2 {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: each, Answers: memory})
		defer stop()
		for i := range each {
			next := c.poll(t.Context())
			<-api.Ready()
			id := "r" + strconv.Itoa(i)
			result := call(t.Context(), api, id)
			<-next
			all.Go(func() {
				if status, text := c.post("runtime/invocation/"+id+"/response", answerBody(text, chunked)); status != 202 {
					t.Errorf("got %d %s", status, text)
				}
			})
			all.Go(func() {
				r := <-result
				if r.err != nil || r.out.FunctionError != "" || len(r.out.Payload) != size || r.out.Release == nil {
					t.Errorf("%d bytes, %s, %v", len(r.out.Payload), r.out.FunctionError, r.err)
					return
				}
				mu.Lock()
				held += size
				peak, answered = max(peak, held), answered+1
				mu.Unlock()
				time.Sleep(10 * time.Millisecond) // it is sent
				mu.Lock()
				held -= size
				mu.Unlock()
				r.out.Release()
			})
		}
	}
	all.Wait()
	if answered != 2*each || peak > room || peak == 0 {
		t.Errorf("%d answers, %d bytes at once", answered, peak)
	}
	if !memory.TryAcquire(room) {
		t.Error("some memory was not given back")
	}
}

func TestAnAnswerThatFindsNoRoomInTimeIsDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := semaphore.NewWeighted(runtimeapi.LeastAnswers)
		if !memory.TryAcquire(runtimeapi.LeastAnswers) {
			t.Fatal("no room")
		}
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 1, Answers: memory})
		defer stop()
		next := c.poll(t.Context())
		<-api.Ready()
		result := call(t.Context(), api, "r")
		<-next
		began := time.Now()
		c.answer("r", strings.Repeat("x", 100_000)) // wants a 202
		r := <-result
		if took := time.Since(began); took != 3*time.Second || !strings.Contains(string(r.out.Payload), "Sandbox.Timedout") {
			t.Errorf("after %v: %s, %v", took, r.out.Payload, r.err)
		}
		synctest.Wait()
		if n := api.InFlight(); n != 0 {
			t.Errorf("%d in flight", n)
		}
		// A small one needs no room.
		next = c.poll(t.Context())
		result = call(t.Context(), api, "small")
		<-next
		c.answer("small", strings.Repeat("x", 64<<10))
		if r := <-result; len(r.out.Payload) != 64<<10 || r.out.Release != nil {
			t.Errorf("%d bytes, %v", len(r.out.Payload), r.err)
		}
	})
}

func TestALateAnswerGivesItsMemoryBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := semaphore.NewWeighted(runtimeapi.LeastAnswers)
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 1, Answers: memory})
		defer stop()
		next := c.poll(t.Context())
		<-api.Ready()
		result := call(t.Context(), api, "r")
		<-next
		body, send := io.Pipe()
		posted := make(chan int, 1)
		go func() {
			status, _ := c.post("runtime/invocation/r/response", body)
			posted <- status
		}()
		if _, err := io.WriteString(send, strings.Repeat("x", 100_000)); err != nil {
			t.Fatal(err)
		}
		<-result // timed out while the answer was on its way
		_ = send.Close()
		if status := <-posted; status != 202 {
			t.Errorf("got %d", status)
		}
		if !memory.TryAcquire(runtimeapi.LeastAnswers) {
			t.Error("some memory was not given back")
		}
	})
}

// TestALateAnswerIsAcceptedWhateverItsSize: aws-lambda-go ends its process on
// anything but a 202, and all that runs there with it.
func TestALateAnswerIsAcceptedWhateverItsSize(t *testing.T) {
	for path, most := range map[string]int{"response": runtimeapi.MaxResponse, "error": 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			api, c, stop := serve(t, runtimeapi.Config{Concurrency: 1})
			defer stop()
			next := c.poll(t.Context())
			<-api.Ready()
			result := call(t.Context(), api, "r")
			<-next
			if r := <-result; r.out.ErrorType != "Sandbox.Timedout" {
				t.Errorf("got %+v", r)
			}
			if status, text := c.post("runtime/invocation/r/"+path, sized(most+1)); status != http.StatusAccepted {
				t.Errorf("%s: got %d %s", path, status, text)
			}
			synctest.Wait()
			if n := api.InFlight(); n != 0 {
				t.Errorf("%d in flight", n)
			}
		})
	}
}
