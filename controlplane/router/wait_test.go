package router_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
)

// one is an agent whose environments run one invoke at a time, for a second
// each, and refuse a second one.
type one struct {
	busy    atomic.Bool
	refused atomic.Int64
}

func (o *one) Call(ctx context.Context, _ router.Endpoint, _ controlplane.InvokeRequest, _ time.Duration) (controlplane.InvokeResult, error) {
	if !o.busy.CompareAndSwap(false, true) {
		o.refused.Add(1)
		return controlplane.InvokeResult{}, &router.RefusedError{Reason: router.RefusedConcurrency}
	}
	defer o.busy.Store(false)
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	return controlplane.InvokeResult{}, nil
}

// onDemandTable has the function f, on demand or not, with the versions.
func onDemandTable(onDemand bool, versions ...*router.Version) *router.Table {
	f := &router.Function{OnDemand: onDemand, Versions: map[controlplane.Qualifier]*router.Version{}}
	for _, v := range versions {
		f.Versions[v.Qualifier] = v
	}
	return &router.Table{Functions: map[controlplane.FunctionName]*router.Function{"f": f}}
}

func versionIn(q controlplane.Qualifier, state controlplane.VersionState) *router.Version {
	v := active("e-1")
	v.Qualifier, v.State = q, state
	return v
}

func invoke(t *testing.T, r *router.Router, q controlplane.Qualifier) error {
	_, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: q})
	return err
}

func TestInvokesOfAnOnDemandFunctionWaitForASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		agent := &one{}
		r := newRouter(t, agent, nil)
		r.Swap(onDemandTable(true, versionIn(controlplane.Latest, controlplane.VersionActive)))
		begin := time.Now()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if err := invoke(t, r, ""); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("5 invokes of a second each took %v, want them one after the other without gaps", took)
		}
		if n := agent.refused.Load(); n > 5 {
			t.Errorf("the agent was asked %d times in vain", n)
		}
		r.Swap(onDemandTable(false, versionIn("1", controlplane.VersionActive)))
		wg.Go(func() { _ = invoke(t, r, "1") })
		synctest.Wait()
		var throttled *controlplane.ThrottledError
		if err := invoke(t, r, "1"); !errors.As(err, &throttled) {
			t.Errorf("a function on a capacity provider: %v, want a throttle at once", err)
		}
		wg.Wait()
	})
}

func TestWaitingIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		agent := &one{}
		agent.busy.Store(true) // for ever
		r := newRouter(t, agent, nil)
		r.Swap(onDemandTable(true, versionIn(controlplane.Latest, controlplane.VersionActive)))
		var throttled *controlplane.ThrottledError
		begin := time.Now()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				var throttled *controlplane.ThrottledError
				if err := invoke(t, r, ""); !errors.As(err, &throttled) || time.Since(begin) < time.Minute {
					t.Errorf("after %v: %v, want a throttle after a minute", time.Since(begin), err)
				}
			})
		}
		synctest.Wait()
		if err := invoke(t, r, ""); !errors.As(err, &throttled) || time.Since(begin) != 0 {
			t.Errorf("one too many: %v after %v, want a throttle at once", err, time.Since(begin))
		}
		wg.Wait()
		if took := time.Since(begin); took > 62*time.Second {
			t.Errorf("the last gave up after %v", took)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		left := errors.New("left")
		wg.Go(func() {
			_, err := r.Invoke(ctx, controlplane.InvokeRequest{Function: "f"})
			if !errors.Is(err, left) {
				t.Errorf("a caller that left: %v", err)
			}
		})
		synctest.Wait()
		cancel(left)
		wg.Wait()
	})
}

func TestAPublishedOnDemandVersionIsWaitedForAndLatestIsNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, &one{}, nil)
		pending := onDemandTable(true, versionIn(controlplane.Latest, controlplane.VersionPending), versionIn("1", controlplane.VersionPending))
		r.Swap(pending)
		var state *controlplane.VersionStateError
		if err := invoke(t, r, ""); !errors.As(err, &state) {
			t.Errorf("$LATEST: %v, want its state", err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := invoke(t, r, "1"); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(10 * time.Second)
		r.Swap(onDemandTable(true, versionIn("1", controlplane.VersionActive)))
		wg.Wait()
		failed := versionIn("1", controlplane.VersionPending)
		r.Swap(onDemandTable(true, failed))
		wg.Go(func() {
			if err := invoke(t, r, "1"); !errors.As(err, &state) || state.State != controlplane.VersionFailed {
				t.Errorf("a version that failed: %v", err)
			}
		})
		time.Sleep(time.Second)
		r.Swap(onDemandTable(true, versionIn("1", controlplane.VersionFailed)))
		wg.Wait()
	})
}
