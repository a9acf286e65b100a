//go:build node

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	local "github.com/hearth-compute/hearth/cmd/internal/stack"
)

// burns publishes the function of the overload benchmark, in one environment.
func (s *stack) burns(edit func(*lambda.CreateFunctionInput)) {
	s.t.Helper()
	code, err := local.BuildFunction(s.t.Context(), "../bench/overload/burn")
	if err != nil {
		s.t.Fatal(err)
	}
	s.function(func(in *lambda.CreateFunctionInput) {
		in.Code.ZipFile = code
		edit(in)
	})
	if _, err := s.lambda.PutFunctionScalingConfig(s.t.Context(), &lambda.PutFunctionScalingConfigInput{
		FunctionName: aws.String(functionName), Qualifier: aws.String("$LATEST.PUBLISHED"),
		FunctionScalingConfig: &types.FunctionScalingConfig{MinExecutionEnvironments: aws.Int32(1), MaxExecutionEnvironments: aws.Int32(1)},
	}); err != nil {
		s.t.Fatal(err)
	}
	s.eventually(20*time.Second, "one environment", s.single)
}

// does invokes it once. The reason is empty when it answered.
func (s *stack) does(ctx context.Context, event string) (reason string) {
	out, err := s.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(functionName), Payload: []byte(event)})
	if throttled, ok := errors.AsType[*types.TooManyRequestsException](err); ok {
		return string(throttled.Reason)
	}
	if err != nil {
		s.t.Errorf("%s: %v", event, err)
	} else if out.FunctionError != nil {
		s.t.Errorf("%s: %s", event, out.Payload)
	}
	return ""
}

// TestAFullTmpRefusesForDiskUntilANewEnvironmentServes: nothing that runs could
// make room again.
func TestAFullTmpRefusesForDiskUntilANewEnvironmentServes(t *testing.T) {
	s := up(t)
	s.provider("subnet-a")
	s.burns(func(in *lambda.CreateFunctionInput) {
		in.EphemeralStorage = &types.EphemeralStorage{Size: aws.Int32(512)}
	})
	before := s.ps()[0]
	var reason string
	s.eventually(30*time.Second, "a refusal because of the disk", func() error {
		<-time.After(100 * time.Millisecond) // the agent must have looked before it is full to the last byte
		if reason = s.does(t.Context(), `{"fillMB":20}`); reason == "" {
			return errors.New("another answer")
		}
		return nil
	})
	if reason != "disk" {
		t.Errorf("refused for %q", reason)
	}
	s.eventually(60*time.Second, "a new environment to serve", func() error {
		if now := s.ps()[0]; now.State != "Ready" || now.Sandbox == before.Sandbox || now.ID != before.ID {
			return fmt.Errorf("got %+v", now)
		}
		if reason := s.does(t.Context(), `{}`); reason != "" {
			return fmt.Errorf("refused for %q", reason)
		}
		return nil
	})
}

// TestMoreMemoryThanThereIsIsRefusedNotKilled: 48 at once would need 2.4 GiB of
// 512 MiB.
func TestMoreMemoryThanThereIsIsRefusedNotKilled(t *testing.T) {
	s := up(t)
	s.provider("subnet-a")
	s.burns(concurrency(48))
	before := s.ps()[0]
	for range 3 { // what one takes is learned from samples
		if reason := s.does(t.Context(), `{"holdMB":50,"holdMillis":400}`); reason != "" {
			t.Fatalf("one alone is refused for %q", reason)
		}
	}
	var mu sync.Mutex // guards reasons
	reasons := map[string]int{}
	var callers sync.WaitGroup
	for range 48 {
		callers.Go(func() {
			reason := s.does(t.Context(), `{"holdMB":50,"holdMillis":1000}`)
			mu.Lock()
			defer mu.Unlock()
			reasons[reason]++
		})
	}
	callers.Wait()
	if reasons[""] < 2 || reasons["memory"] < 24 || len(reasons) != 2 {
		t.Errorf("got %v", reasons)
	}
	if after := s.ps()[0]; after.Sandbox != before.Sandbox || strings.Contains(after.Reason, "memory") {
		t.Errorf("got %+v, want the same as %+v", after, before)
	}
}
