package router_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
)

// world is a random run: callers come and leave, environments come, go, refuse
// and end invokes, tables are swapped.
type world struct {
	t       *testing.T
	rng     *rand.Rand
	agents  *agents
	router  *router.Router
	wait    time.Duration
	envs    int
	wg      sync.WaitGroup
	mu      sync.Mutex
	pending int // callers that have no answer
	leave   []context.CancelCauseFunc
}

func (w *world) swap() {
	var envs []controlplane.EnvironmentID
	for i := range w.envs {
		envs = append(envs, controlplane.EnvironmentID("e-"+strconv.Itoa(i)))
	}
	w.router.Swap(onDemandTable(false, roomy(w.agents.slots, envs...)))
}

func (w *world) call(id string) {
	ctx, leave := context.WithCancelCause(w.t.Context())
	w.leave = append(w.leave, leave)
	w.mu.Lock()
	w.pending++
	w.mu.Unlock()
	w.wg.Go(func() {
		begin := time.Now()
		_, err := w.router.Invoke(ctx, request(id))
		took := time.Since(begin)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pending--
		w.judge(id, err, took)
	})
}

// judge checks what an invoke came to.
func (w *world) judge(id string, err error, took time.Duration) {
	w.agents.mu.Lock()
	defer w.agents.mu.Unlock()
	ran := w.agents.ran[id]
	if ran > 1 || err == nil && ran != 1 {
		w.t.Errorf("%s ran %d times: %v", id, ran, err)
	}
	if throttled, ok := errors.AsType[*controlplane.ThrottledError](err); ok {
		if ran != 0 || throttled.Reason == "" || took > w.wait+11*time.Millisecond {
			w.t.Errorf("%s ran %d times and was throttled after %v: %v", id, ran, took, err)
		}
		return
	}
	if _, lost := errors.AsType[*controlplane.LostError](err); err != nil && !lost && !errors.Is(err, errLeft) {
		w.t.Errorf("%s: %v", id, err)
	}
}

var errLeft = errors.New("left")

// step does one thing that b tells.
func (w *world) step(i int, b byte) {
	switch b % 8 {
	case 0, 1, 2:
		for j := range 1 + int(b)/64 {
			w.call(strconv.Itoa(i) + "-" + strconv.Itoa(j))
		}
	case 3, 4:
		time.Sleep(time.Duration(b) * time.Millisecond / 8)
	case 5:
		w.envs = int(b/8) % 4
		w.swap()
	case 6:
		if n := len(w.leave); n > 0 {
			w.leave[int(b/8)%n](errLeft)
		}
	case 7:
		time.Sleep(time.Millisecond)
	}
	synctest.Wait()
	w.agents.mu.Lock()
	defer w.agents.mu.Unlock()
	for e, n := range w.agents.running {
		if n > w.agents.slots {
			w.t.Errorf("%s runs %d at once", e, n)
		}
	}
}

// run runs the world that seed and script make, and checks it.
func run(t *testing.T, seed uint64, script []byte, refusals bool) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var mu sync.Mutex
		number := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return rng.IntN(n)
		}
		w := &world{t: t, rng: rng, wait: 100 * time.Millisecond, envs: 2}
		w.agents = newAgents(t, 1+number(3), func() time.Duration { return time.Duration(1+number(40)) * time.Millisecond })
		if refusals {
			w.agents.refuses = func(controlplane.EnvironmentID) *router.RefusedError {
				reasons := []router.RefusalReason{router.RefusedCPU, router.RefusedMemory, router.RefusedDraining, router.RefusedUnreachable}
				if n := number(20); n < len(reasons) {
					return &router.RefusedError{Reason: reasons[n]}
				}
				return nil
			}
		}
		w.router = newWaiting(t, w.agents, w.wait, roomy(w.agents.slots, "e-0", "e-1"))
		for i, b := range script {
			w.step(i, b)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		w.mu.Lock()
		if w.pending != 0 {
			t.Errorf("%d invokes have no answer", w.pending)
		}
		w.mu.Unlock()
		for _, leave := range w.leave {
			leave(errLeft)
		}
		w.wg.Wait()
	})
}

// FuzzNothingIsLostRunTwiceOrHeldForLong is invariants 1 and 4, and that nobody
// waits for a wake-up that does not come.
func FuzzNothingIsLostRunTwiceOrHeldForLong(f *testing.F) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 2))
		script := make([]byte, 60)
		for i := range script {
			script[i] = byte(rng.IntN(256))
		}
		f.Add(seed, script, seed%2 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, script []byte, refusals bool) {
		run(t, seed, script[:min(len(script), 200)], refusals)
	})
}

// TestInvariant3_NobodyWaitsWhileThereIsRoom looks at random moments. Only the
// ends of invokes make room here: nothing is left to the queue's clock.
func TestInvariant3_NobodyWaitsWhileThereIsRoom(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			const slots, callers = 4, 9
			var mu sync.Mutex
			a := newAgents(t, slots, func() time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(1+rng.IntN(5_000_000)) * time.Nanosecond
			})
			r := newWaiting(t, a, 100*time.Millisecond, roomy(slots, "e-1"))
			stop := time.Now().Add(100 * time.Millisecond)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for time.Now().Before(stop) {
						if err := invoke(t, r, "1"); err != nil {
							t.Error(err)
						}
					}
				})
			}
			for time.Now().Before(stop.Add(-time.Millisecond)) {
				time.Sleep(137 * time.Microsecond)
				synctest.Wait()
				a.mu.Lock()
				if n := a.running["e-1"]; n != slots {
					t.Errorf("%d of %d slots are used by %d callers", n, slots, callers)
				}
				a.mu.Unlock()
			}
			wg.Wait()
		})
	}
}
