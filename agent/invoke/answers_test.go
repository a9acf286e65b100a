package invoke_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/invoke"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// counted answers size bytes, and counts in held what was not released.
func counted(size int, held *atomic.Int64) environment {
	return func(context.Context, agent.Invocation, []byte) (agent.Outcome, error) {
		held.Add(int64(size))
		return agent.Outcome{
			ContentType: "text/x", Payload: bytes.Repeat([]byte("x"), size), Duration: time.Second,
			Release: func() { held.Add(-int64(size)) },
		}, nil
	}
}

// small wants answers larger than 1,000 bytes to be kept.
func small(id string) *invokev1.InvocationHead {
	h := head(id, 0)
	h.InlineBytes = 1000
	return h
}

// take gets an answer that was kept.
func take(ctx context.Context, c invokev1.InvokeServiceClient, id string) (payload []byte, err error) {
	s, err := c.TakeAnswer(ctx, &invokev1.TakeAnswerRequest{RequestId: id})
	for err == nil {
		var m *invokev1.TakeAnswerResponse
		m, err = s.Recv()
		payload = append(payload, m.GetChunk()...)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return payload, err
}

// takesOnce wants an answer of that size, which is gone then.
func takesOnce(t *testing.T, c invokev1.InvokeServiceClient, id string, size int) {
	t.Helper()
	if payload, err := take(t.Context(), c, id); len(payload) != size || err != nil {
		t.Errorf("%s: got %d bytes, %v", id, len(payload), err)
	}
	if _, err := take(t.Context(), c, id); status.Code(err) != codes.NotFound {
		t.Errorf("%s: taken twice: %v", id, err)
	}
}

// holds checks what answers hold and how many there are.
func holds(t *testing.T, s *invoke.Server, held *atomic.Int64, bytes int64, inFlight int) {
	t.Helper()
	if held.Load() != bytes || s.InFlight() != inFlight {
		t.Errorf("%d bytes are held, %d in flight, want %d and %d", held.Load(), s.InFlight(), bytes, inFlight)
	}
}

func TestInvariant4_ALargeAnswerIsKeptUntilItIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 200_000
		var held atomic.Int64
		s, c, stop := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": counted(size, &held)})
		defer stop()
		resp, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: small("unary")})
		if err != nil || resp.GetHead().GetKeptBytes() != size || resp.GetHead().GetContentType() != "text/x" || len(resp.GetPayload()) != 0 {
			t.Fatalf("got %d bytes, %v, %v", len(resp.GetPayload()), resp.GetHead(), err)
		}
		if payload, _, end, err := stream(t.Context(), c, small("stream"), nil); len(payload) != 0 || !end || err != nil {
			t.Fatalf("got %d bytes, end %v, %v", len(payload), end, err)
		}
		holds(t, s, &held, 2*size, 2)
		for _, id := range []string{"unary", "stream"} {
			takesOnce(t, c, id, size)
		}
		synctest.Wait()
		holds(t, s, &held, 0, 0)
	})
}

func TestAnAnswerNobodyTakesIsForgottenAndADrainWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var held atomic.Int64
		s, c, stop := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": counted(2000, &held)})
		defer stop()
		for range 2 { // the second takes the place of the first
			if _, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: small("r")}); err != nil {
				t.Fatal(err)
			}
		}
		if held.Load() != 2000 {
			t.Errorf("%d bytes are held", held.Load())
		}
		began := time.Now()
		if err := s.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 30*time.Second || held.Load() != 0 {
			t.Errorf("after %v %d bytes are held", took, held.Load())
		}
		if _, err := take(t.Context(), c, "r"); status.Code(err) != codes.NotFound {
			t.Errorf("got %v", err)
		}
	})
}

func TestWhoTakesAnyAnswerGetsItAtOnce(t *testing.T) {
	t.Parallel()
	var held atomic.Int64
	_, c, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": counted(200_000, &held)})
	resp, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: head("r", 0)})
	if err != nil || len(resp.GetPayload()) != 200_000 || resp.GetHead().GetKeptBytes() != 0 {
		t.Errorf("got %d bytes, %v, %v", len(resp.GetPayload()), resp.GetHead(), err)
	}
	if held.Load() != 0 {
		t.Errorf("%d bytes are held", held.Load())
	}
}
