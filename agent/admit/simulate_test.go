package admit_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
)

// machine simulates an environment: invocations share its CPU time equally
// (processor sharing), then wait for something else. Time goes in small steps.
type machine struct {
	quota   agent.MilliCPU
	ceiling int
	// rate is of arrivals a second at a moment, cost the CPU time and wait the
	// rest of the next invocation.
	rate       func(at time.Duration) float64
	cost, wait func(at time.Duration, r *rand.Rand) time.Duration
	// limiter decides; nil means the governor.
	limiter limiter
	length  time.Duration
	// from is from when on results count.
	from time.Duration
}

// limiter is what may run at once: our governor, or what it is compared with.
type limiter interface {
	slots() int
	sample(u admit.Usage, w admit.Work)
	completed(took time.Duration, inFlight int)
}

type governed struct {
	g      *admit.Governor
	limits admit.Limits
}

func (l *governed) slots() int                         { return l.limits.Slots() }
func (l *governed) sample(u admit.Usage, w admit.Work) { l.limits = l.g.Observe(u, w) }
func (*governed) completed(time.Duration, int)         {}

// outcome is what came of a simulation.
type outcome struct {
	arrived, refused int
	took             []time.Duration
	length           time.Duration
	// limits is the limit at every sample.
	limits []int
}

func (o outcome) goodput() float64 { return float64(len(o.took)) / o.length.Seconds() }

// within counts only answers that took no longer than slo.
func (o outcome) within(slo time.Duration) float64 {
	n := 0
	for _, d := range o.took {
		if d <= slo {
			n++
		}
	}
	return float64(n) / o.length.Seconds()
}

func (o outcome) p99() time.Duration {
	if len(o.took) == 0 {
		return 0
	}
	slices.Sort(o.took)
	return o.took[len(o.took)*99/100]
}

type job struct {
	began     time.Duration
	cpu, wait time.Duration
}

const (
	tickLength = 100 * time.Microsecond
	sampleTime = 100 * time.Millisecond
	cfsPeriod  = 100 * time.Millisecond
	// cores is how many CPUs an environment's threads may be on at once.
	cores = 2
)

// state is a simulation under way.
type state struct {
	machine
	random *rand.Rand
	at     time.Duration
	jobs   []job
	next   time.Duration
	// budget is what is left of the quota in this period.
	budget, used, throttled time.Duration
	work                    admit.Work
	out                     outcome
}

func (m machine) run() outcome {
	if m.limiter == nil {
		g := admit.NewGovernor(admit.Config{Concurrency: m.ceiling, CPU: m.quota})
		m.limiter = &governed{g: g, limits: admit.Limits{Concurrency: m.ceiling}}
	}
	s := state{machine: m, random: rand.New(rand.NewPCG(1, 2))}
	for s.at = 0; s.at < m.length; s.at += tickLength {
		if s.at%cfsPeriod == 0 {
			s.budget = cfsPeriod * time.Duration(m.quota) / 1000
		}
		s.arrive()
		s.serve()
		if s.at%sampleTime == 0 && s.at > 0 {
			s.sample()
		}
	}
	s.out.length = m.length - m.from
	return s.out
}

func (s *state) arrive() {
	for rate := s.rate(s.at); s.next <= s.at; {
		if rate <= 0 {
			s.next = s.at + tickLength
			return
		}
		s.next += time.Duration(s.random.ExpFloat64() / rate * float64(time.Second))
		if s.at >= s.from {
			s.out.arrived++
		}
		if len(s.jobs) >= s.limiter.slots() {
			s.work.Refused++
			if s.at >= s.from {
				s.out.refused++
			}
			continue
		}
		s.jobs = append(s.jobs, job{began: s.at, cpu: s.cost(s.at, s.random), wait: s.wait(s.at, s.random)})
		s.work.Peak = max(s.work.Peak, len(s.jobs))
	}
}

func (s *state) serve() {
	running := 0
	for _, j := range s.jobs {
		if j.cpu > 0 {
			running++
		}
	}
	available := min(tickLength*time.Duration(min(cores, running)), s.budget)
	if running > 0 && s.budget <= 0 {
		s.throttled += tickLength
	}
	s.budget -= available
	s.used += available
	for i := range s.jobs {
		if j := &s.jobs[i]; j.cpu > 0 {
			j.cpu -= available / time.Duration(running)
		} else {
			j.wait -= tickLength
		}
	}
	s.jobs = slices.DeleteFunc(s.jobs, func(j job) bool {
		if j.cpu > 0 || j.wait > 0 {
			return false
		}
		took := s.at - j.began
		s.work.Completed++
		s.work.Busy += took
		s.limiter.completed(took, len(s.jobs))
		if s.at >= s.from {
			s.out.took = append(s.out.took, took)
		}
		return true
	})
}

func (s *state) sample() {
	s.work.InFlight = len(s.jobs)
	// The kernel accounts a running task late, by up to a few milliseconds.
	late := min(time.Duration(s.random.Int64N(int64(3*time.Millisecond))), s.used)
	s.limiter.sample(admit.Usage{Elapsed: sampleTime, CPU: s.used - late, Throttled: s.throttled}, s.work)
	s.used, s.throttled, s.work = late, 0, admit.Work{Peak: len(s.jobs)}
	s.out.limits = append(s.out.limits, s.limiter.slots())
}

func always[T any](v T) func(time.Duration, *rand.Rand) T {
	return func(time.Duration, *rand.Rand) T { return v }
}

func constant(rate float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return rate }
}

func none() func(time.Duration, *rand.Rand) time.Duration { return always(time.Duration(0)) }

const capacity = 100 // invocations of 10 ms a second on 1 vCPU

func burning(load float64) machine {
	return machine{
		quota: 1000, ceiling: 64, rate: constant(load * capacity), cost: always(10 * time.Millisecond), wait: none(),
		length: 24 * time.Second, from: 4 * time.Second,
	}
}

func TestGoodputStaysAtCapacityUnderOverload(t *testing.T) {
	t.Parallel()
	exponential := func(_ time.Duration, r *rand.Rand) time.Duration {
		return time.Duration(r.ExpFloat64() * float64(10*time.Millisecond))
	}
	for _, k := range []struct {
		name       string
		quota      agent.MilliCPU
		cost, wait func(time.Duration, *rand.Rand) time.Duration
		// least is the least part of capacity at 2 × and more.
		least float64
	}{
		{"10 ms of CPU", 1000, always(10 * time.Millisecond), none(), 0.98},
		{"a quarter of a vCPU", 250, always(10 * time.Millisecond), none(), 0.97},
		{"mixed costs", 1000, exponential, none(), 0.96},
		{"CPU, and waiting for others", 1000, always(10 * time.Millisecond), always(90 * time.Millisecond), 0.93},
	} {
		peak := capacity * float64(k.quota) / 1000
		var base time.Duration
		for _, load := range []float64{0.5, 0.9, 1, 2, 3, 5} {
			m := burning(0)
			m.quota, m.cost, m.wait, m.rate = k.quota, k.cost, k.wait, constant(load*peak)
			out := m.run()
			if load == 0.9 {
				base = out.p99()
			}
			if got := out.goodput() / peak; load >= 2 && got < k.least {
				t.Errorf("%s at %g ×: goodput is %.3f of capacity, want %.2f", k.name, load, got, k.least)
			}
			if load >= 1 && out.p99() > 2*base {
				t.Errorf("%s at %g ×: p99 is %v, at 0.9 × %v", k.name, load, out.p99(), base)
			}
			if load == 0.5 && out.refused > 0 {
				t.Errorf("%s at 0.5 ×: %d refused", k.name, out.refused)
			}
		}
	}
}

func TestInvariant3_WhatWaitsIsNotLimited(t *testing.T) {
	t.Parallel()
	m := burning(0)
	m.rate, m.cost, m.wait = constant(5*64/0.05), always(100*time.Microsecond), always(50*time.Millisecond)
	if out := m.run(); slices.Min(out.limits) < 64 || out.goodput() < 0.97*64/0.0502 {
		t.Errorf("limit fell to %d, goodput %.0f/s", slices.Min(out.limits), out.goodput())
	}
}

func TestAShortBurstIsNotRefused(t *testing.T) {
	t.Parallel()
	m := burning(0)
	m.from, m.length = 0, 12*time.Second
	m.rate = func(at time.Duration) float64 { // 48 or so, much faster than it can do them, every three seconds
		if at%(3*time.Second) < 150*time.Millisecond {
			return 48 / 0.15
		}
		return 20
	}
	if out := m.run(); out.refused > 0 || out.arrived < 150 {
		t.Errorf("%d of %d refused", out.refused, out.arrived)
	}
}

func TestTheLimitFollowsTheCost(t *testing.T) {
	t.Parallel()
	m := burning(2) // 200/s: two fifths of what it can do at 2 ms, four times at 20
	m.from, m.length = 0, 30*time.Second
	m.cost = func(at time.Duration, _ *rand.Rand) time.Duration {
		if at >= 10*time.Second && at < 20*time.Second {
			return 20 * time.Millisecond
		}
		return 2 * time.Millisecond
	}
	limits := m.run().limits
	if n := slices.Min(limits[:99]); n < 64 {
		t.Errorf("limit was %d before there was need", n)
	}
	if n := slices.Max(limits[140:195]); n > 8 {
		t.Errorf("limit is %d four seconds after the cost rose", n)
	}
	if n := limits[240]; n < 64 {
		t.Errorf("limit is %d four seconds after the cost fell", n)
	}
}

func TestTheLimitDoesNotFlap(t *testing.T) {
	t.Parallel()
	limits := burning(5).run().limits[60:]
	turns := 0
	for i := 2; i < len(limits); i++ {
		if (limits[i]-limits[i-1])*(limits[i-1]-limits[i-2]) < 0 {
			turns++
		}
	}
	if spread := slices.Max(limits) - slices.Min(limits); turns > 3 || spread > 2 {
		t.Errorf("%d turns, limits from %d to %d under a steady overload", turns, slices.Min(limits), slices.Max(limits))
	}
}
