//go:build node

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// traffic invokes a function one after the other, without retries, and keeps
// what went wrong.
type traffic struct {
	stop func()

	mu       sync.Mutex
	count    int
	failures []string
	revision string // of the last answer
}

func (s *stack) traffic(qualifier string) *traffic {
	s.t.Helper()
	f := &traffic{}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(s.t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			a, err := s.invokeVersion(context.WithoutCancel(ctx), qualifier)
			f.mu.Lock()
			f.count++
			if err != nil {
				f.failures = append(f.failures, err.Error())
			} else {
				f.revision = a.Revision
			}
			f.mu.Unlock()
			if err != nil {
				<-time.After(20 * time.Millisecond)
			}
		}
	})
	f.stop = sync.OnceFunc(func() { cancel(errors.New("the test has seen enough")); wg.Wait() })
	s.t.Cleanup(f.stop)
	return f
}

// last is the revision of the last answer, and how many there were.
func (f *traffic) last() (string, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revision, f.count
}

// end stops the traffic and fails the test if anything failed.
func (f *traffic) end(t *testing.T) {
	t.Helper()
	f.stop()
	if len(f.failures) > 0 {
		t.Errorf("%d of %d invokes failed, the first with %s", len(f.failures), f.count, f.failures[0])
	}
	t.Logf("%d invokes, none failed", f.count)
}

// endWith stops the traffic and fails the test if something failed otherwise
// than with code.
func (f *traffic) endWith(t *testing.T, code string) {
	t.Helper()
	f.stop()
	seen := map[string]int{}
	for _, why := range f.failures {
		seen[why]++
	}
	for why, n := range seen {
		if !strings.Contains(why, code) {
			t.Errorf("%d of %d invokes failed with %s", n, f.count, why)
		}
	}
	t.Logf("%d invokes, %d failed with %s", f.count, len(f.failures), code)
}

func (s *stack) invokeVersion(ctx context.Context, qualifier string) (answer, error) {
	var q *string
	if qualifier != "" {
		q = &qualifier
	}
	out, err := s.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(functionName), Qualifier: q, Payload: []byte("{}")})
	if err != nil {
		return answer{}, err
	}
	return decodeAnswer(out)
}

// set changes the REVISION variable of $LATEST and waits for the update.
func (s *stack) set(revision string) {
	s.t.Helper()
	_, err := s.lambda.UpdateFunctionConfiguration(s.t.Context(), &lambda.UpdateFunctionConfigurationInput{
		FunctionName: aws.String(functionName), Environment: &types.Environment{Variables: map[string]string{"REVISION": revision}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	waiter := lambda.NewFunctionUpdatedV2Waiter(s.lambda, func(o *lambda.FunctionUpdatedV2WaiterOptions) { o.MinDelay = 100 * time.Millisecond })
	if err := waiter.Wait(s.t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String(functionName)}, time.Minute); err != nil {
		s.t.Fatal(err)
	}
}

// publishNumber publishes $LATEST and waits until the version runs.
func (s *stack) publishNumber() string {
	s.t.Helper()
	v, err := s.lambda.PublishVersion(s.t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String(functionName)})
	if err != nil {
		s.t.Fatal(err)
	}
	waiter := lambda.NewPublishedVersionActiveWaiter(s.lambda, func(o *lambda.PublishedVersionActiveWaiterOptions) { o.MinDelay = 100 * time.Millisecond })
	err = waiter.Wait(s.t.Context(), &lambda.GetFunctionConfigurationInput{FunctionName: aws.String(functionName), Qualifier: v.Version}, time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	return *v.Version
}

// TestToolsThatKnowNothingOfCapacityProviders: a function created as on default
// Lambda runs on the default provider. Its $LATEST is invocable, updates roll
// without a failed invoke, aliases share invokes between versions, and a change
// of the provider moves everything to other instances without a failed invoke.
func TestToolsThatKnowNothingOfCapacityProviders(t *testing.T) {
	t.Parallel()
	s := up(t)
	created, err := s.lambda.CreateFunction(t.Context(), &lambda.CreateFunctionInput{
		FunctionName: aws.String(functionName), Role: aws.String(role), Runtime: types.RuntimeProvidedal2023,
		Handler: aws.String("bootstrap"), Code: &types.FunctionCode{ZipFile: archive(t, "probe")}, Timeout: aws.Int32(30),
		Environment: &types.Environment{Variables: map[string]string{"REVISION": "one"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if created.State != types.StatePending || aws.ToInt32(created.MemorySize) != 128 || created.CapacityProviderConfig != nil {
		t.Errorf("created %s with %d MB and capacity provider config %v", created.State, aws.ToInt32(created.MemorySize), created.CapacityProviderConfig)
	}
	waiter := lambda.NewFunctionActiveV2Waiter(s.lambda, func(o *lambda.FunctionActiveV2WaiterOptions) { o.MinDelay = 100 * time.Millisecond })
	if err := waiter.Wait(t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String(functionName)}, time.Minute); err != nil {
		t.Fatal(err)
	}

	begin := time.Now()
	load := s.traffic("")
	s.set("two")
	t.Logf("updated in %v", time.Since(begin).Round(time.Millisecond))
	s.eventually(10*time.Second, "answers of the new configuration", func() error {
		if got, _ := load.last(); got != "two" {
			return fmt.Errorf("answers are of %q", got)
		}
		return nil
	})
	load.end(t)

	first := s.publishNumber()
	s.set("three")
	second := s.publishNumber()
	s.shareByAlias(first, second)
	s.rollsProvider(first)

	out, err := s.lambda.DeleteFunction(t.Context(), &lambda.DeleteFunctionInput{FunctionName: aws.String(functionName)})
	if err != nil || out.StatusCode != http.StatusNoContent {
		t.Errorf("deleting: %v, %+v; want 204", err, out)
	}
	s.eventually(30*time.Second, "the function to be gone", func() error {
		_, err := s.lambda.GetFunction(t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String(functionName)})
		if code(err) == "ResourceNotFoundException" {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}

// shareByAlias splits an alias between two versions.
func (s *stack) shareByAlias(first, second string) {
	s.t.Helper()
	_, err := s.lambda.CreateAlias(s.t.Context(), &lambda.CreateAliasInput{
		FunctionName: aws.String(functionName), Name: aws.String("live"), FunctionVersion: &first,
		RoutingConfig: &types.AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{second: 0.5}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	got := map[string]int{}
	for range 40 {
		a, err := s.invokeVersion(s.t.Context(), "live")
		if err != nil {
			s.t.Fatal(err)
		}
		got[a.Revision]++
	}
	if got["two"] < 5 || got["three"] < 5 || len(got) != 2 { // 40 fair tosses: fewer than 5 of either is one in a million
		s.t.Errorf("answers by revision: %v, want about 20 each of two and three", got)
	}
}

// rollsProvider gives the default provider other subnets while a version serves.
func (s *stack) rollsProvider(version string) {
	s.t.Helper()
	load := s.traffic(version)
	body := `{"VpcConfig": {"SubnetIds": ["subnet-x", "subnet-y"], "SecurityGroupIds": []}}`
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPut, s.api+"/2025-11-30/capacity-providers/default", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusAccepted {
		s.t.Fatalf("updating the provider: %s: %s, %v", resp.Status, text, err)
	}
	begin := time.Now()
	s.eventually(time.Minute, "instances in the new subnets only", func() error {
		var list []instance
		s.hearth(&list, "instances")
		if slices.ContainsFunc(list, func(in instance) bool { return in.Zone != "subnet-x" && in.Zone != "subnet-y" }) || len(list) == 0 {
			return fmt.Errorf("instances %+v", list)
		}
		return nil
	})
	s.t.Logf("moved to other subnets in %v", time.Since(begin).Round(time.Millisecond))
	_, before := load.last()
	s.eventually(10*time.Second, "further answers", func() error {
		if _, now := load.last(); now < before+10 {
			return fmt.Errorf("%d answers", now-before)
		}
		return nil
	})
	load.end(s.t)
}
