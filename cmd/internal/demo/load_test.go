package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/hearth-compute/hearth/cmd/internal/stack"
)

// sleeper answers like hello-go, from two environments in turn; every nth
// invoke fails when failEvery is not zero.
type sleeper struct {
	failEvery int64
	count     atomic.Int64
}

func (s *sleeper) Invoke(_ context.Context, in *lambda.InvokeInput, _ ...func(*lambda.Options)) (*lambda.InvokeOutput, error) {
	var event struct {
		SleepMS int `json:"sleepMs"`
	}
	if err := json.Unmarshal(in.Payload, &event); err != nil {
		return nil, err
	}
	n := s.count.Add(1)
	time.Sleep(time.Duration(event.SleepMS) * time.Millisecond)
	if s.failEvery > 0 && n%s.failEvery == 0 {
		return nil, errors.New("TooManyRequestsException")
	}
	payload := fmt.Sprintf(`{"requestId": "r-%d", "environment": "stream/e-%d", "peakInFlight": %d, "processStarts": 1}`, n, n%2, n)
	return &lambda.InvokeOutput{Payload: []byte(payload)}, nil
}

func TestInvokesAsOftenAndAsConcurrentlyAsItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := load(t.Context(), &sleeper{})
		if r.answered() != invokes || r.requestIDs() != invokes || len(r.errs) != 0 {
			t.Errorf("%d answers, %d request ids, errors %v; want %d, %d, none", r.answered(), r.requestIDs(), r.errs, invokes, invokes)
		}
		if want := (invokes + concurrency - 1) / concurrency * asleep; r.took != want {
			t.Errorf("took %s, want %s: that many at once", r.took, want)
		}
		if r.percentile(50) != asleep || r.percentile(100) != asleep {
			t.Errorf("p50 %s, max %s, want %s", r.percentile(50), r.percentile(100), asleep)
		}
	})
}

func TestTellsWhereInvokesRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := load(t.Context(), &sleeper{failEvery: 50})
		if len(r.errs) != 4 || r.firstErr() == nil {
			t.Errorf("errors %v, want 4", r.errs)
		}
		var out strings.Builder
		r.print(&out, []stack.Environment{
			{ID: "e-0", Instance: "i-1", Zone: "subnet-b"},
			{ID: "e-1", Instance: "i-2", Zone: "subnet-a"},
		})
		for _, want := range []string{
			"196 of 200 invokes answered by 2 environments in 2 zones (subnet-a, subnet-b), 196 distinct request ids",
			"p50 250.0 ms",
			"subnet-a        100 ",
			"subnet-b         96 ",
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("lacks %q:\n%s", want, out.String())
			}
		}
	})
}

func TestPercentilesOfFewInvokes(t *testing.T) {
	r := &result{latencies: []time.Duration{3, 1, 2}}
	for p, want := range map[int]time.Duration{1: 1, 50: 2, 90: 3, 100: 3} {
		if got := r.percentile(p); got != want {
			t.Errorf("percentile(%d) = %d, want %d", p, got, want)
		}
	}
}
