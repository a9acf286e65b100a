package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/hearth-compute/hearth/cmd/internal/stack"
)

// invoker is what the demo needs of the SDK to invoke.
type invoker interface {
	Invoke(ctx context.Context, in *lambda.InvokeInput, opts ...func(*lambda.Options)) (*lambda.InvokeOutput, error)
}

// answer is what examples/hello-go returns, as far as it is shown.
type answer struct {
	RequestID     string `json:"requestId"`
	Environment   string `json:"environment"`
	PeakInFlight  int64  `json:"peakInFlight"`
	ProcessStarts int64  `json:"processStarts"`
}

func invoke(ctx context.Context, api invoker, event string) (answer, []byte, error) {
	out, err := api.Invoke(ctx, &lambda.InvokeInput{
		FunctionName: aws.String(function), Qualifier: aws.String("1"), Payload: []byte(event),
	})
	if err != nil {
		return answer{}, nil, err
	}
	if out.FunctionError != nil {
		return answer{}, nil, fmt.Errorf("the function failed: %s: %s", *out.FunctionError, out.Payload)
	}
	var a answer
	if err := json.Unmarshal(out.Payload, &a); err != nil {
		return answer{}, nil, fmt.Errorf("reading the answer %q: %w", out.Payload, err)
	}
	return a, out.Payload, nil
}

// result is what came of many invokes.
type result struct {
	mu        sync.Mutex // guards what follows while invokes run
	latencies []time.Duration
	answers   []answer
	errs      []error
	took      time.Duration
}

// load invokes the function as often and as concurrently as the demo says.
func load(ctx context.Context, api invoker) *result {
	r := &result{}
	event := fmt.Sprintf(`{"name": "demo", "sleepMs": %d}`, asleep.Milliseconds())
	turns := make(chan struct{})
	began := time.Now()
	var callers sync.WaitGroup
	for range concurrency {
		callers.Go(func() {
			for range turns {
				start := time.Now()
				a, _, err := invoke(ctx, api, event)
				r.add(a, time.Since(start), err)
			}
		})
	}
	for range invokes {
		turns <- struct{}{}
	}
	close(turns)
	callers.Wait()
	r.took = time.Since(began)
	return r
}

func (r *result) add(a answer, took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.errs = append(r.errs, err)
		return
	}
	r.answers = append(r.answers, a)
	r.latencies = append(r.latencies, took)
}

func (r *result) answered() int { return len(r.answers) }

func (r *result) firstErr() error {
	if len(r.errs) == 0 {
		return nil
	}
	return r.errs[0]
}

// percentile returns the latency that p per cent of the invokes did not exceed.
func (r *result) percentile(p int) time.Duration {
	sorted := slices.Sorted(slices.Values(r.latencies))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// row is one environment in the table of where invokes ran.
type row struct {
	stack.Environment
	stream       string
	invokes      int
	peak, starts int64
}

// rows groups the answers by environment.
func (r *result) rows(placed []stack.Environment) []row {
	byStream := map[string]*row{}
	for _, a := range r.answers {
		found := byStream[a.Environment]
		if found == nil {
			found = &row{stream: a.Environment}
			if i := slices.IndexFunc(placed, func(e stack.Environment) bool { return strings.Contains(a.Environment, e.ID) }); i >= 0 {
				found.Environment = placed[i]
			}
			byStream[a.Environment] = found
		}
		found.invokes++
		found.peak = max(found.peak, a.PeakInFlight)
		found.starts = max(found.starts, a.ProcessStarts)
	}
	rows := make([]row, 0, len(byStream))
	for _, found := range byStream {
		rows = append(rows, *found)
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.stream, b.stream))
	})
	return rows
}

// requestIDs counts the distinct request ids.
func (r *result) requestIDs() int {
	ids := map[string]bool{}
	for _, a := range r.answers {
		ids[a.RequestID] = true
	}
	return len(ids)
}

func (r *result) print(w io.Writer, placed []stack.Environment) {
	rows := r.rows(placed)
	var b strings.Builder
	fmt.Fprintf(&b, "\n   %-20s %-20s %-10s %8s %12s %14s\n", "ENVIRONMENT", "INSTANCE", "ZONE", "INVOKES", "MOST AT ONCE", "PROCESS STARTS")
	zones := map[string]bool{}
	for _, row := range rows {
		zones[row.Zone] = true
		fmt.Fprintf(&b, "   %-20s %-20s %-10s %8d %12d %14d\n",
			cmp.Or(row.ID, row.stream), row.Instance, row.Zone, row.invokes, row.peak, row.starts)
	}
	fmt.Fprintf(&b, "\n   %d of %d invokes answered by %d environments in %d zones (%s), %d distinct request ids\n",
		r.answered(), invokes, len(rows), len(zones), strings.Join(slices.Sorted(maps.Keys(zones)), ", "), r.requestIDs())
	fmt.Fprintf(&b, "   latency, %s of it asleep: p50 %s  p90 %s  p99 %s  max %s\n", asleep,
		ms(r.percentile(50)), ms(r.percentile(90)), ms(r.percentile(99)), ms(r.percentile(100)))
	fmt.Fprintf(&b, "   throughput: %.0f/s at concurrency %d (at most %.0f/s with that sleep)\n",
		float64(r.answered())/r.took.Seconds(), concurrency, concurrency/asleep.Seconds())
	_, _ = io.WriteString(w, b.String())
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
