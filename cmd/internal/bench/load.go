package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// result is what came of calling for a while.
type result struct {
	latencies []time.Duration // of the calls that succeeded, ascending
	errs      int
	firstErr  error
	took      time.Duration
}

// load calls from n callers at once until the time is up.
func load(ctx context.Context, n int, duration time.Duration, call func(context.Context) error) result {
	var mu sync.Mutex // guards all
	var all result
	began := time.Now()
	var callers sync.WaitGroup
	for range n {
		callers.Go(func() {
			mine := caller(ctx, began.Add(duration), call)
			mu.Lock()
			defer mu.Unlock()
			all.latencies = append(all.latencies, mine.latencies...)
			all.errs += mine.errs
			if all.firstErr == nil {
				all.firstErr = mine.firstErr
			}
		})
	}
	callers.Wait()
	all.took = time.Since(began)
	slices.Sort(all.latencies)
	return all
}

func caller(ctx context.Context, end time.Time, call func(context.Context) error) result {
	var r result
	for ctx.Err() == nil {
		start := time.Now()
		if start.After(end) {
			break
		}
		if err := call(ctx); err != nil {
			r.errs++
			if r.firstErr == nil {
				r.firstErr = err
			}
			continue
		}
		r.latencies = append(r.latencies, time.Since(start))
	}
	return r
}

// percentile returns the latency that p per cent of the calls did not exceed.
func (r result) percentile(p int) time.Duration {
	return r.latencies[max(0, (len(r.latencies)*p+99)/100-1)]
}

func header() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%8s %10s %10s %10s %10s %8s   CPU per invoke:", "callers", "invokes/s", "p50", "p90", "p99", "errors")
	for _, process := range processes() {
		fmt.Fprintf(&b, " %14s", process)
	}
	return b.String()
}

func (r result) line(n int, cpu times) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%8d %10.0f %10s %10s %10s %8d   %15s", n, float64(len(r.latencies))/r.took.Seconds(),
		micros(r.percentile(50)), micros(r.percentile(90)), micros(r.percentile(99)), r.errs, "")
	for _, process := range processes() {
		fmt.Fprintf(&b, " %14s", micros(cpu[process]/time.Duration(len(r.latencies))))
	}
	return b.String()
}

func micros(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }
