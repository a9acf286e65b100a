package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

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
	placement
	stream       string
	invokes      int
	peak, starts int64
}

// rows groups the answers by environment.
func (r *result) rows(placed []placement) []row {
	byStream := map[string]*row{}
	for _, a := range r.answers {
		found := byStream[a.Environment]
		if found == nil {
			found = &row{stream: a.Environment}
			if i := slices.IndexFunc(placed, func(p placement) bool { return strings.Contains(a.Environment, p.ID) }); i >= 0 {
				found.placement = placed[i]
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

func (r *result) print(w io.Writer, placed []placement) {
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
