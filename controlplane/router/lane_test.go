package router_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
)

// agents are environments that run what they are handed, up to their slots, and
// refuse the rest. They live in a bubble.
type agents struct {
	t       *testing.T
	slots   int
	silent  bool                                                    // says nothing of its load
	handler func() time.Duration                                    // of one invoke
	refuses func(e controlplane.EnvironmentID) *router.RefusedError // nil: nothing but what is above slots

	mu      sync.Mutex
	running map[controlplane.EnvironmentID]int
	ran     map[string]int // by request
	order   []string       // of the requests that ran
	refused int
}

func newAgents(t *testing.T, slots int, handler func() time.Duration) *agents {
	return &agents{t: t, slots: slots, handler: handler, running: map[controlplane.EnvironmentID]int{}, ran: map[string]int{}}
}

func (a *agents) admit(to router.Endpoint, req controlplane.InvokeRequest) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var refusal *router.RefusedError
	if a.refuses != nil {
		refusal = a.refuses(to.Environment)
	}
	if refusal == nil && a.running[to.Environment] >= a.slots {
		refusal = &router.RefusedError{Reason: router.RefusedConcurrency}
	}
	a.say(to)
	if refusal != nil {
		a.refused++
		return refusal
	}
	a.running[to.Environment]++
	a.ran[req.RequestID]++
	a.order = append(a.order, req.RequestID)
	return nil
}

func (a *agents) say(to router.Endpoint) {
	if !a.silent {
		to.Observe(router.Load{InFlight: a.running[to.Environment], Limit: a.slots})
	}
}

func (a *agents) Call(ctx context.Context, to router.Endpoint, req controlplane.InvokeRequest, _ time.Duration) (controlplane.InvokeResult, error) {
	if err := a.admit(to, req); err != nil {
		return controlplane.InvokeResult{}, err
	}
	select {
	case <-time.After(a.handler()):
	case <-ctx.Done():
		return controlplane.InvokeResult{}, &controlplane.LostError{Environment: to.Environment, Err: context.Cause(ctx)}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running[to.Environment]--
	a.say(to)
	return controlplane.InvokeResult{}, nil
}

func newWaiting(t *testing.T, c router.Caller, wait time.Duration, v *router.Version) *router.Router {
	t.Helper()
	m, err := router.NewMetrics(noop.NewMeterProvider().Meter(""))
	if err != nil {
		t.Fatal(err)
	}
	r := router.New(c, m, wait)
	r.Swap(onDemandTable(false, v))
	return r
}

// roomy has environments that take so many invokes each.
func roomy(slots int, envs ...controlplane.EnvironmentID) *router.Version {
	v := active(envs...)
	v.Timeout = time.Minute
	for i := range v.Endpoints {
		v.Endpoints[i].Limit = slots
	}
	return v
}

func request(id string) controlplane.InvokeRequest {
	return controlplane.InvokeRequest{Function: "f", Qualifier: "1", RequestID: id}
}

// TestMoreCallersThanSlotsWaitForThem is the goal of the bounded wait: half as
// many callers more than slots cost no error, no throttle and no throughput.
func TestMoreCallersThanSlotsWaitForThem(t *testing.T) {
	t.Parallel()
	for name, envs := range map[string][]controlplane.EnvironmentID{"one environment": {"e-1"}, "four": {"e-1", "e-2", "e-3", "e-4"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const handler, callers, slots = 50 * time.Millisecond, 48, 32
				a := newAgents(t, slots/len(envs), func() time.Duration { return handler })
				r := newWaiting(t, a, 100*time.Millisecond, roomy(slots/len(envs), envs...))
				begin := time.Now()
				var done atomic.Int64
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						time.Sleep(rand.N(handler)) // or all slots are free at once
						for time.Since(begin) < 10*time.Second {
							if _, err := r.Invoke(t.Context(), request("")); err != nil {
								t.Error(err)
								return
							}
							done.Add(1)
						}
					})
				}
				wg.Wait()
				rate := float64(done.Load()) / time.Since(begin).Seconds()
				if best := slots / handler.Seconds(); rate < 0.98*best {
					t.Errorf("%.0f invokes a second, want at least 0.98 of %.0f", rate, best)
				}
				if a.refused != 0 {
					t.Errorf("%d invokes were offered to environments in vain", a.refused)
				}
			})
		})
	}
}

func TestWithoutAWaitInvokesAreThrottledAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAgents(t, 1, func() time.Duration { return time.Second })
		r := newWaiting(t, a, 0, roomy(1, "e-1"))
		var wg sync.WaitGroup
		wg.Go(func() { _ = invoke(t, r, "1") })
		synctest.Wait()
		begin := time.Now()
		throttled, ok := errors.AsType[*controlplane.ThrottledError](invoke(t, r, "1"))
		if !ok || throttled.Reason != controlplane.ThrottleConcurrency || throttled.NoneReady || time.Since(begin) != 0 {
			t.Errorf("%v after %v", throttled, time.Since(begin))
		}
		wg.Wait()
	})
}

// TestInvariant4_AStandingQueueIsCut offers five times what can be done, for
// long. A burst waits for the whole limit, a standing queue for half of it.
func TestInvariant4_AStandingQueueIsCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit, handler, slots = 100 * time.Millisecond, 10 * time.Millisecond, 2
		a := newAgents(t, slots, func() time.Duration { return handler })
		r := newWaiting(t, a, limit, roomy(slots, "e-1"))
		begin := time.Now()
		var mu sync.Mutex
		var burst, standing time.Duration // the longest an invoke was waited for
		served := 0
		var wg sync.WaitGroup
		for range 5000 { // 1,000 a second, where 200 can be served
			time.Sleep(time.Millisecond)
			wg.Go(func() {
				came := time.Now()
				err := invoke(t, r, "1")
				took := time.Since(came)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					served++
				} else if want := (&controlplane.ThrottledError{Reason: controlplane.ThrottleConcurrency, RetryAfter: time.Second}); !cmp.Equal(err, error(want)) {
					t.Error(cmp.Diff(err, error(want)))
				}
				if came.Sub(begin) < limit {
					burst = max(burst, took)
				}
				if came.Sub(begin) > time.Second {
					standing = max(standing, took)
				}
			})
		}
		wg.Wait()
		const slack = 20 * time.Millisecond // the handler, and a tick
		if burst < limit*8/10 || burst > limit+slack {
			t.Errorf("the burst was held for up to %v, want about %v", burst, limit)
		}
		if standing < limit/4 || standing > limit/2+slack {
			t.Errorf("the standing queue was held for up to %v, want about %v", standing, limit/2)
		}
		if best := 5 * slots * int(time.Second/handler); served < best*98/100 {
			t.Errorf("%d were served, want at least 0.98 of %d", served, best)
		}
	})
}

// TestTheReasonOfThoseThatWereOfferedToNobody is that of the environments.
func TestTheReasonOfThoseThatWereOfferedToNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAgents(t, 1, func() time.Duration { return time.Second })
		a.refuses = func(controlplane.EnvironmentID) *router.RefusedError {
			return &router.RefusedError{Reason: router.RefusedMemory, RetryAfter: 3 * time.Second}
		}
		r := newWaiting(t, a, 100*time.Millisecond, roomy(8, "e-1"))
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				begin := time.Now()
				throttled, ok := errors.AsType[*controlplane.ThrottledError](invoke(t, r, "1"))
				if took := time.Since(begin); !ok || throttled.Reason != controlplane.ThrottleMemory || took < 50*time.Millisecond || took > 110*time.Millisecond {
					t.Errorf("%v after %v, want a throttle for memory after the wait", throttled, took)
				}
			})
		}
		wg.Wait()
		if a.refused > 32 { // the first 20 find nobody waiting, then one a tick is tried
			t.Errorf("the environment was asked %d times in 100 ms", a.refused)
		}
	})
}

// TestALoadThatIsSaidIsBelievedForAWhile: what other routers do is seen.
func TestALoadThatIsSaidIsBelievedForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		calls := map[controlplane.EnvironmentID]int{}
		r := newWaiting(t, caller(func(to router.Endpoint) {
			mu.Lock()
			defer mu.Unlock()
			calls[to.Environment]++
			if to.Environment == "busy" {
				to.Observe(router.Load{InFlight: 7, Limit: 8})
			} else {
				to.Observe(router.Load{InFlight: 1, Limit: 8})
			}
		}), 0, roomy(8, "busy", "idle"))
		for range 100 {
			_ = invoke(t, r, "1")
		}
		if calls["busy"] > 2 || calls["busy"]+calls["idle"] != 100 {
			t.Errorf("calls %v, want one of the busy one to learn that it is", calls)
		}
		time.Sleep(time.Second)
		_, _ = invoke(t, r, "1"), invoke(t, r, "1")
		if calls["busy"] > 4 {
			t.Errorf("calls %v", calls)
		}
		before := calls["busy"]
		for range 4 {
			time.Sleep(time.Second) // what was said is old: it is their turns
			_ = invoke(t, r, "1")
		}
		if calls["busy"] == before {
			t.Error("an environment that was busy once is never asked again")
		}
	})
}

// caller is a Caller that answers at once.
type caller func(to router.Endpoint)

func (c caller) Call(_ context.Context, to router.Endpoint, _ controlplane.InvokeRequest, _ time.Duration) (controlplane.InvokeResult, error) {
	c(to)
	return controlplane.InvokeResult{}, nil
}

func TestWhoWaitsIsServedInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := newAgents(t, 1, func() time.Duration { return time.Millisecond })
		r := newWaiting(t, a, 100*time.Millisecond, roomy(1, "e-1"))
		var wg sync.WaitGroup
		want := []string{}
		for i := range 40 {
			id := string(rune('A' + i))
			want = append(want, id)
			wg.Go(func() {
				if _, err := r.Invoke(t.Context(), request(id)); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		for i := range want {
			if a.order[i] != want[i] {
				t.Fatalf("served in the order %q", a.order)
			}
		}
	})
}

// TestNewcomersDoNotOvertake: room that nobody is woken for is for those that
// wait already.
func TestNewcomersDoNotOvertake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		a := newAgents(t, 1, func() time.Duration { return 5 * time.Millisecond })
		a.refuses = func(controlplane.EnvironmentID) *router.RefusedError {
			if time.Since(begin) < 12*time.Millisecond {
				return &router.RefusedError{Reason: router.RefusedCPU}
			}
			return nil
		}
		r := newWaiting(t, a, 100*time.Millisecond, roomy(1, "e-1"))
		var wg sync.WaitGroup
		for _, id := range []string{"first", "second"} {
			wg.Go(func() {
				if _, err := r.Invoke(t.Context(), request(id)); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(15 * time.Millisecond) // between two looks
		}
		wg.Wait()
		if a.order[0] != "first" {
			t.Errorf("served in the order %q", a.order)
		}
	})
}
