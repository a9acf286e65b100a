package pool_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
	"github.com/hearth-compute/hearth/agent/pool"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// observe has samples taken of an environment for so long.
func observe(api *runtimeapi.API, u admit.Usage, howLong time.Duration) {
	u.Elapsed = 100 * time.Millisecond
	for range howLong / u.Elapsed {
		time.Sleep(u.Elapsed)
		api.Observe(u)
	}
	synctest.Wait()
}

// refusedFor tells whether an error is a refusal for that reason.
func refusedFor(err error, reason agent.Reason) bool {
	r, ok := errors.AsType[*runtimeapi.RefusedError](err)
	return ok && r.Verdict.Reason == reason
}

func TestOneWhoseSlotsAreAllOverrunIsReplacedNewOneFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		a := assignment("e-1")
		a.MaxConcurrency = 1
		w.apply(set(1, a))
		old := w.serving("e-1")
		if out, err := invoke(old, "r", "1h"); err != nil || !strings.Contains(string(out.Payload), "timed out") {
			t.Fatalf("got %s, %v", out.Payload, err)
		}
		observe(old, admit.Usage{}, 500*time.Millisecond)
		if s := w.pool.Statuses()[0]; s.Heat.Overrun != 1 || s.Heat.InFlight != 1 || w.serving("e-1") != old {
			t.Fatalf("got %+v", s)
		}
		if _, err := invoke(old, "refused", ""); !refusedFor(err, agent.ReasonConcurrency) {
			t.Errorf("got %v", err)
		}
		observe(old, admit.Usage{}, 700*time.Millisecond)
		w.succeeds(old)
		if out, err := invoke(w.serving("e-1"), "next", ""); err != nil || out.FunctionError != "" {
			t.Errorf("got %s, %v", out.Payload, err)
		}
		time.Sleep(5 * time.Second) // its code would run for an hour
		synctest.Wait()
		if n := len(w.host.Sandboxes()); n != 1 {
			t.Errorf("%d sandboxes, want the new one", n)
		}
		want := agent.EnvironmentHeat{Limit: 1, Refusals: agent.Refusals{Concurrency: 1}}
		if d := cmp.Diff(want, w.pool.Statuses()[0].Heat); d != "" {
			t.Error(d)
		}
		w.apply(set(2))
		w.refusedByThoseGone(want.Refusals)
	})
}

// refusedByThoseGone fails the test unless refusals are still counted once there is
// no environment any more.
func (w *world) refusedByThoseGone(want agent.Refusals) {
	w.t.Helper()
	time.Sleep(time.Minute)
	synctest.Wait()
	if n, got := len(w.pool.Statuses()), w.pool.Refusals(); n != 0 || got != want {
		w.t.Errorf("with %d environments left: refusals %+v want %+v", n, got, want)
	}
}

// succeeds fails the test unless another than old serves e-1 a second later.
func (w *world) succeeds(old *runtimeapi.API) {
	w.t.Helper()
	time.Sleep(time.Second)
	synctest.Wait()
	if now := w.serving("e-1"); now == old || now == nil {
		w.t.Fatal("it still serves")
	}
}

func TestOneThatCannotCoolServesUntilItsSuccessorIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.apply(set(1, assignment("e-1")))
		old := w.serving("e-1")
		full := admit.Usage{Tmp: 500, TmpSize: 500 << 10}
		full.Tmp = full.TmpSize
		observe(old, full, 9*time.Second)
		if _, err := invoke(old, "refused", ""); !refusedFor(err, agent.ReasonDisk) {
			t.Errorf("got %v", err)
		}
		if w.serving("e-1") != old {
			t.Fatal("replaced too early")
		}
		for range 40 { // never without one that serves
			if observe(old, full, 100*time.Millisecond); w.serving("e-1") == nil {
				t.Fatal("nothing serves")
			}
			w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady})
		}
		if w.serving("e-1") == old {
			t.Fatal("not replaced")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := len(w.host.Sandboxes()); n != 1 {
			t.Errorf("%d sandboxes", n)
		}
	})
}

func TestDecideReplacesWhatIsWorn(t *testing.T) {
	t.Parallel()
	worn := pool.Incarnation{Sandbox: "a", Phase: pool.PhaseReady, Worn: "disk"}
	ending := pool.Incarnation{Sandbox: "a", Phase: pool.PhaseEnding, Worn: "disk"}
	starting := pool.Incarnation{Sandbox: "b", Phase: pool.PhaseStarting}
	ready := pool.Incarnation{Sandbox: "b", Phase: pool.PhaseReady}
	for _, c := range []struct {
		name string
		view pool.View
		want []string
	}{
		{"new one first", pool.View{Incarnations: []pool.Incarnation{worn}}, []string{"start e : replaces one that is worn: disk"}},
		{"until it is ready", pool.View{Incarnations: []pool.Incarnation{worn, starting}}, nil},
		{"then the old one goes", pool.View{Incarnations: []pool.Incarnation{worn, ready}}, []string{"retire e a: replaced"}},
		{
			"old one first without memory for two",
			pool.View{Crowded: true, Incarnations: []pool.Incarnation{worn}},
			[]string{"retire e a: worn, and the instance has no memory for two: disk"},
		},
		{"until nothing is left of it", pool.View{Crowded: true, Incarnations: []pool.Incarnation{ending}}, nil},
		{"draining is not replaced", pool.View{Draining: true, Incarnations: []pool.Incarnation{worn}}, nil},
	} {
		c.view.Environment, c.view.Wanted = "e", true
		actions, _ := pool.Decide([]pool.View{c.view}, time.Unix(1000, 0))
		var got []string
		for _, a := range actions {
			got = append(got, a.String())
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}
