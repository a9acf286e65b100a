package main

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
)

// Phase is what came of one rate of arrivals.
type Phase struct {
	Name string `json:"name"`
	// Load is the rate in parts of the capacity that was estimated before,
	// Offered is what arrived a second.
	Load    float64 `json:"load"`
	Offered float64 `json:"offered_per_second"`
	// Answered is answers a second, Goodput those of them within the SLO.
	Answered float64 `json:"answered_per_second"`
	Goodput  float64 `json:"goodput_per_second"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	// Refused counts refusals by reason, Failed everything else.
	Refused map[string]int `json:"refused"`
	Failed  int            `json:"failed"`
	Failure string         `json:"failure,omitempty"`
	// Late is how much after its time the 99th of 100 arrivals was offered: the
	// generator's own lateness, which is part of every latency here.
	Late float64 `json:"late_p99_ms"`
	// Limits is what the agent reported, twice a second.
	Limits []int `json:"limits"`

	took, late []time.Duration
}

// workload is how invocations arrive.
type workload struct {
	name  string
	env   controlplane.EnvironmentID
	event func(at time.Duration) string
	load  float64
	// rate is of arrivals a second; they are independent of each other (Poisson)
	// and of answers. If burst is not 0, that many come at once, at equal distances.
	rate  float64
	burst int
	// warmUp is not counted.
	warmUp, length time.Duration
	slo            time.Duration
}

// most is how many calls may be under way: a bound, not a limit that is reached.
const most = 4096

// run offers the workload and returns what came of it.
func (r *rig) run(ctx context.Context, w workload) Phase {
	p := Phase{Name: w.name, Load: w.load, Refused: map[string]int{}}
	var mu sync.Mutex // guards p
	var calls sync.WaitGroup
	slots := make(chan struct{}, most)
	began := time.Now()
	watched := make(chan struct{})
	ctx, stop := context.WithCancelCause(ctx)
	go func() {
		defer close(watched)
		r.watch(ctx, w.env, &p, &mu)
	}()
	random := rand.New(rand.NewPCG(1, uint64(w.rate*1000))) //nolint:gosec // reproducible on purpose
	for next := range w.arrivals(random) {
		due := began.Add(next)
		time.Sleep(time.Until(due))
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		late, event := time.Since(due), w.event(next)
		calls.Go(func() {
			defer func() { <-slots }()
			err := r.call(ctx, w.env, event)
			took := time.Since(due)
			if next >= w.warmUp {
				mu.Lock()
				p.add(took, late, err)
				mu.Unlock()
			}
		})
	}
	calls.Wait()
	stop(errMeasured)
	<-watched
	p.finish(w)
	return p
}

// arrivals are when to call, from the beginning of the phase on.
func (w workload) arrivals(random *rand.Rand) iter.Seq[time.Duration] {
	return func(yield func(time.Duration) bool) {
		for at := time.Duration(0); at < w.warmUp+w.length; {
			between, together := random.ExpFloat64(), 1
			if w.burst > 0 {
				between, together = float64(w.burst), w.burst
			}
			at += time.Duration(between / w.rate * float64(time.Second))
			for range together {
				if !yield(at) {
					return
				}
			}
		}
	}
}

// watch records the limit the agent reports.
func (r *rig) watch(ctx context.Context, env controlplane.EnvironmentID, p *Phase, mu *sync.Mutex) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if status, ok := r.status(env); ok {
			mu.Lock()
			p.Limits = append(p.Limits, status.Heat.Limit)
			mu.Unlock()
		}
	}
}

func (p *Phase) add(took, late time.Duration, err error) {
	p.late = append(p.late, late)
	switch refused, ok := errors.AsType[*router.RefusedError](err); {
	case err == nil:
		p.took = append(p.took, took)
	case ok:
		p.Refused[string(refused.Reason)]++
	default:
		p.Failed++
		p.Failure = err.Error()
	}
}

func (p *Phase) finish(w workload) {
	p.Offered = float64(len(p.late)) / w.length.Seconds()
	if len(p.late) > 0 {
		slices.Sort(p.late)
		p.Late = millis(p.late[len(p.late)*99/100])
	}
	p.Answered = float64(len(p.took)) / w.length.Seconds()
	p.within(w.slo, w.length)
	if len(p.took) == 0 {
		return
	}
	slices.Sort(p.took)
	p.P50, p.P99 = millis(p.took[len(p.took)/2]), millis(p.took[len(p.took)*99/100])
}

// within counts the answers that took no longer than the SLO.
func (p *Phase) within(slo, length time.Duration) {
	n := 0
	for _, d := range p.took {
		if d <= slo {
			n++
		}
	}
	p.Goodput = float64(n) / length.Seconds()
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// estimate is the throughput and the median latency of n callers that wait for
// their answers.
func (r *rig) estimate(ctx context.Context, env controlplane.EnvironmentID, event string, n int, length time.Duration) (perSecond float64, median time.Duration) {
	var mu sync.Mutex // guards took
	var took []time.Duration
	var callers sync.WaitGroup
	end := time.Now().Add(length)
	for range n {
		callers.Go(func() {
			for time.Now().Before(end) && ctx.Err() == nil {
				start := time.Now()
				if r.call(ctx, env, event) == nil {
					mu.Lock()
					took = append(took, time.Since(start))
					mu.Unlock()
				}
			}
		})
	}
	callers.Wait()
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return float64(len(took)) / length.Seconds(), took[len(took)/2]
}
