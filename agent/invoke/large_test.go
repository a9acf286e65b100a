//go:build !race

package invoke_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"

	"google.golang.org/grpc"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/invoke"
	"github.com/hearth-compute/hearth/proto/frame"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// exchange sends a large event and takes the large answer as the control service
// does.
func exchange(ctx context.Context, c invokev1.InvokeServiceClient, payload []byte) ([]byte, error) {
	h := head("r", len(payload))
	h.InlineBytes = 64 << 10
	if _, _, end, err := stream(ctx, c, h, payload); err != nil || !end {
		return nil, fmt.Errorf("end %v: %w", end, err)
	}
	s, err := c.TakeAnswer(ctx, &invokev1.TakeAnswerRequest{RequestId: "r"}, grpc.ForceCodecV2(frame.New()))
	if err != nil {
		return nil, err
	}
	in := frame.Into{Field: 1, Room: make([]byte, 0, len(payload)), Most: len(payload), Other: &invokev1.TakeAnswerResponse{}}
	for err == nil {
		err = s.RecvMsg(&in)
	}
	if errors.Is(err, io.EOF) && !in.IsTooLong && !in.IsOther {
		err = nil
	}
	return in.Room, err
}

func TestALargeEventAndItsAnswerAreCopiedOnceOnEachSide(t *testing.T) {
	_, c, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": environment(echo)})
	payload := bytes.Repeat([]byte("0123456789"), 500_000)
	const times = 10
	var before, after runtime.MemStats
	for i := range times + 3 {
		if i == 3 { // the pools are full
			runtime.ReadMemStats(&before)
		}
		if answer, err := exchange(t.Context(), c, payload); err != nil || !bytes.Equal(answer, payload) {
			t.Fatalf("got %d bytes, %v", len(answer), err)
		}
	}
	runtime.ReadMemStats(&after)
	// One buffer for the event, one for the answer. Pools are emptied now and then,
	// and all the time by the race detector.
	each := int64(after.TotalAlloc-before.TotalAlloc) / times
	if most := int64(35 * len(payload) / 10); each > most {
		t.Errorf("%d bytes were allocated for an event and an answer of %d each, more than %d", each, len(payload), most)
	}
}

// BenchmarkLarge is an event and an answer of 5 MB each, over gRPC, both sides of
// which are in this process.
func BenchmarkLarge(b *testing.B) {
	_, c, _ := serve(b, map[agent.EnvironmentID]invoke.Environment{"e": environment(echo)})
	payload := bytes.Repeat([]byte("x"), 5_000_000)
	b.SetBytes(2 * int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if answer, err := exchange(b.Context(), c, payload); err != nil || len(answer) != len(payload) {
			b.Fatalf("got %d bytes, %v", len(answer), err)
		}
	}
}
