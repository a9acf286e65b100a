package router_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
)

// script is a Caller that answers from a table and remembers whom it called.
type script struct {
	mu     sync.Mutex
	calls  []controlplane.EnvironmentID
	answer func(e controlplane.EnvironmentID) error
}

func (s *script) Call(_ context.Context, to router.Endpoint, _ controlplane.InvokeRequest, _ time.Duration) (controlplane.InvokeResult, error) {
	s.mu.Lock()
	s.calls = append(s.calls, to.Environment)
	s.mu.Unlock()
	if err := s.answer(to.Environment); err != nil {
		return controlplane.InvokeResult{}, err
	}
	return controlplane.InvokeResult{Payload: []byte(to.Environment)}, nil
}

func newRouter(t *testing.T, c router.Caller, versions map[controlplane.Qualifier]*router.Version) *router.Router {
	t.Helper()
	m, err := router.NewMetrics(noop.NewMeterProvider().Meter(""))
	if err != nil {
		t.Fatal(err)
	}
	r := router.New(c, m, 0)
	r.Swap(&router.Table{Functions: map[controlplane.FunctionName]*router.Function{
		"f": {ARN: "arn:f", Versions: versions},
	}})
	return r
}

func active(envs ...controlplane.EnvironmentID) *router.Version {
	v := &router.Version{ARN: "arn:f:1", Qualifier: "1", State: controlplane.VersionActive, Timeout: time.Second}
	for _, e := range envs {
		v.Endpoints = append(v.Endpoints, router.Endpoint{Environment: e, Instance: "i-1", Limit: 1})
	}
	return v
}

func refuse(r router.RefusalReason) error { return &router.RefusedError{Reason: r} }

func TestResolvesAsAWSDoes(t *testing.T) {
	t.Parallel()
	published := func() map[controlplane.Qualifier]*router.Version {
		v := active("e-1")
		v.Qualifier = controlplane.LatestPublished
		pending := active()
		pending.Qualifier, pending.State = "2", controlplane.VersionPending
		return map[controlplane.Qualifier]*router.Version{controlplane.LatestPublished: v, "1": active("e-1"), "2": pending}
	}
	var (
		notFound  *controlplane.FunctionNotFoundError
		none      *controlplane.NoPublishedVersionError
		latest    *controlplane.LatestNotInvocableError
		wrong     *controlplane.VersionStateError
		unversion = func() map[controlplane.Qualifier]*router.Version {
			return map[controlplane.Qualifier]*router.Version{"1": active("e-1")}
		}
	)
	for _, c := range []struct {
		name     string
		versions map[controlplane.Qualifier]*router.Version
		function controlplane.FunctionName
		q        controlplane.Qualifier
		want     controlplane.Qualifier
		err      any
	}{
		{"unqualified", published(), "f", "", controlplane.LatestPublished, nil},
		{"published by name", published(), "f", controlplane.LatestPublished, controlplane.LatestPublished, nil},
		{"number", published(), "f", "1", "1", nil},
		{"unknown function", published(), "g", "", "", &notFound},
		{"unknown version", published(), "f", "9", "", &notFound},
		{"latest although published", published(), "f", controlplane.Latest, "", &latest},
		{"unqualified, nothing published", unversion(), "f", "", "", &none},
		{"latest, nothing published", unversion(), "f", controlplane.Latest, "", &none},
		{"pending", published(), "f", "2", "", &wrong},
	} {
		t.Run(c.name, func(t *testing.T) { // in turn: they share the error targets
			r := newRouter(t, &script{answer: func(controlplane.EnvironmentID) error { return nil }}, c.versions)
			res, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: c.function, Qualifier: c.q, DryRun: true})
			if c.err == nil {
				if err != nil || res.Executed != c.want || res.Payload != nil {
					t.Fatalf("got %+v, %v; want version %s and nothing run", res, err, c.want)
				}
				return
			}
			if !errors.As(err, c.err) {
				t.Fatalf("got %v want %T", err, c.err)
			}
		})
	}
}

func TestAnOnDemandFunctionRunsLatest(t *testing.T) {
	t.Parallel()
	r := newRouter(t, &script{answer: func(controlplane.EnvironmentID) error { return nil }}, nil)
	latest := active("e-1")
	latest.Qualifier = controlplane.Latest
	r.Swap(&router.Table{Functions: map[controlplane.FunctionName]*router.Function{"f": {
		OnDemand: true, Versions: map[controlplane.Qualifier]*router.Version{controlplane.Latest: latest, "1": active("e-2")},
		Aliases: map[controlplane.Qualifier]router.Alias{"dev": {Version: controlplane.Latest}},
	}}})
	for q, want := range map[controlplane.Qualifier]controlplane.Qualifier{
		"": controlplane.Latest, controlplane.Latest: controlplane.Latest, "dev": controlplane.Latest, "1": "1",
	} {
		res, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: q})
		if err != nil || res.Executed != want {
			t.Errorf("qualifier %q: executed %s, %v; want %s", q, res.Executed, err, want)
		}
	}
}

func TestAnAliasSharesInvokesByWeight(t *testing.T) {
	t.Parallel()
	r := newRouter(t, &script{answer: func(controlplane.EnvironmentID) error { return nil }}, nil)
	two := active("e-2")
	two.Qualifier = "2"
	for weight, want := range map[float64]float64{0: 0, 0.25: 0.25, 1: 1} {
		r.Swap(&router.Table{Functions: map[controlplane.FunctionName]*router.Function{"f": {
			Versions: map[controlplane.Qualifier]*router.Version{"1": active("e-1"), "2": two},
			Aliases:  map[controlplane.Qualifier]router.Alias{"live": {Version: "1", Additional: "2", Weight: weight}},
		}}})
		const n = 4000
		additional := 0
		for range n {
			res, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "live", DryRun: true})
			if err != nil {
				t.Fatal(err)
			}
			if res.Executed == "2" {
				additional++
			}
		}
		// 0.06 is nine standard deviations of 4000 draws.
		if got := float64(additional) / n; got < want-0.06 || got > want+0.06 || (weight != 0.25 && got != want) {
			t.Errorf("weight %v: version 2 got a share of %v", weight, got)
		}
	}
}

func TestReservedConcurrencyRefusesWhatIsAbove(t *testing.T) {
	t.Parallel()
	release, inside := make(chan struct{}), make(chan struct{})
	r := newRouter(t, &script{answer: func(controlplane.EnvironmentID) error {
		inside <- struct{}{}
		<-release
		return nil
	}}, nil)
	swap := func(reserved *int) {
		v := active("e-1")
		v.Qualifier, v.Endpoints[0].Limit = "1", 8
		r.Swap(&router.Table{Functions: map[controlplane.FunctionName]*router.Function{"f": {
			Reserved: reserved, Versions: map[controlplane.Qualifier]*router.Version{"1": v},
		}}})
	}
	invoke := func() error {
		_, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1"})
		return err
	}
	two, none := 2, 0
	swap(&two)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := invoke(); err != nil {
				t.Error(err)
			}
		})
		<-inside
	}
	swap(&two) // a new table does not forget what runs
	var throttled *controlplane.ThrottledError
	if err := invoke(); !errors.As(err, &throttled) || throttled.Reason != controlplane.ThrottleReserved {
		t.Errorf("a third invoke: %v, want a throttle for the reserved concurrency", err)
	}
	close(release)
	wg.Wait()
	wg.Go(func() { <-inside })
	if err := invoke(); err != nil {
		t.Errorf("after the others ended: %v", err)
	}
	wg.Wait()
	swap(&none)
	if err := invoke(); !errors.As(err, &throttled) {
		t.Errorf("with none reserved: %v, want a throttle", err)
	}
}

func TestTriesARefusalElsewhere(t *testing.T) {
	t.Parallel()
	s := &script{answer: func(e controlplane.EnvironmentID) error {
		if e != "e-3" {
			return refuse(router.RefusedConcurrency)
		}
		return nil
	}}
	r := newRouter(t, s, map[controlplane.Qualifier]*router.Version{"1": active("e-1", "e-2", "e-3")})
	for range 20 {
		res, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1"})
		if err != nil || string(res.Payload) != "e-3" {
			t.Fatalf("got %q, %v; want the answer of e-3", res.Payload, err)
		}
	}
}

// TestTriesSuccessorsOfThoseThatRefuse: environments are told to end when the
// table has had their successors for a moment, and an invoke may still be on its
// way to them.
func TestTriesSuccessorsOfThoseThatRefuse(t *testing.T) {
	t.Parallel()
	s := &script{}
	r := newRouter(t, s, map[controlplane.Qualifier]*router.Version{"1": active("old-1", "old-2")})
	swapped := sync.OnceFunc(func() {
		r.Swap(&router.Table{Functions: map[controlplane.FunctionName]*router.Function{
			"f": {ARN: "arn:f", Versions: map[controlplane.Qualifier]*router.Version{"1": active("new")}},
		}})
	})
	s.answer = func(e controlplane.EnvironmentID) error {
		if e == "new" {
			return nil
		}
		swapped()
		return refuse(router.RefusedDraining)
	}
	res, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1"})
	if err != nil || string(res.Payload) != "new" {
		t.Errorf("got %q, %v; want the answer of the successor", res.Payload, err)
	}
}

func TestInvariant1_ALostInvokeIsNeverTriedElsewhere(t *testing.T) {
	t.Parallel()
	s := &script{answer: func(e controlplane.EnvironmentID) error {
		return &controlplane.LostError{Environment: e, Err: errors.New("connection reset")}
	}}
	r := newRouter(t, s, map[controlplane.Qualifier]*router.Version{"1": active("e-1", "e-2", "e-3")})
	_, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1"})
	var lost *controlplane.LostError
	if !errors.As(err, &lost) || len(s.calls) != 1 {
		t.Fatalf("got %v after %d calls; want a LostError after 1", err, len(s.calls))
	}
}

func TestInvariant2_AThrottleCarriesTheCommonestReason(t *testing.T) {
	t.Parallel()
	const (
		slots, cpu, memory, disk = router.RefusedConcurrency, router.RefusedCPU, router.RefusedMemory, router.RefusedDisk
		going, soon, cut         = router.RefusedDraining, router.RefusedNotReady, router.RefusedUnreachable
	)
	for _, c := range []struct {
		name string
		by   []router.RefusalReason
		want controlplane.ThrottleReason
		none bool
	}{
		{"no environment", nil, controlplane.ThrottleConcurrency, true},
		{"none alive", []router.RefusalReason{cut, going, soon, soon}, controlplane.ThrottleConcurrency, true},
		{"slots", []router.RefusalReason{slots, soon, soon}, controlplane.ThrottleConcurrency, false},
		{"cpu", []router.RefusalReason{cpu}, controlplane.ThrottleCPU, false},
		{"disk", []router.RefusalReason{disk, going, cut}, controlplane.ThrottleDisk, false},
		{"the commonest", []router.RefusalReason{memory, slots, slots}, controlplane.ThrottleConcurrency, false},
		{"cpu rather than slots", []router.RefusalReason{slots, cpu}, controlplane.ThrottleCPU, false},
		{"disk rather than cpu", []router.RefusalReason{slots, disk, cpu}, controlplane.ThrottleDisk, false},
		{"memory rather than all", []router.RefusalReason{disk, memory, cpu}, controlplane.ThrottleMemory, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			by := map[controlplane.EnvironmentID]router.RefusalReason{}
			var envs []controlplane.EnvironmentID
			for i, reason := range c.by {
				envs = append(envs, controlplane.EnvironmentID("e-"+strconv.Itoa(i)))
				by[envs[i]] = reason
			}
			s := &script{answer: func(e controlplane.EnvironmentID) error { return refuse(by[e]) }}
			r := newRouter(t, s, map[controlplane.Qualifier]*router.Version{"1": active(envs...)})
			_, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1"})
			var throttled *controlplane.ThrottledError
			if !errors.As(err, &throttled) || throttled.Reason != c.want || throttled.NoneReady != c.none || throttled.RetryAfter <= 0 {
				t.Fatalf("got %v; want throttled for %s with a RetryAfter", err, c.want)
			}
			slices.Sort(s.calls)
			if !slices.Equal(s.calls, envs) {
				t.Errorf("asked %v, want each of %v once", s.calls, envs)
			}
		})
	}
}

// TestThreeRefusalsAreEnough: those that are short of something end the search,
// those that cannot be asked do not.
func TestThreeRefusalsAreEnough(t *testing.T) {
	t.Parallel()
	envs := []controlplane.EnvironmentID{"a-0", "a-1", "a-2", "a-3", "a-4", "b-0", "b-1", "b-2", "b-3", "b-4"}
	for range 50 {
		s := &script{answer: func(e controlplane.EnvironmentID) error {
			if e[0] == 'a' {
				return refuse(router.RefusedDraining)
			}
			return refuse(router.RefusedCPU)
		}}
		r := newRouter(t, s, map[controlplane.Qualifier]*router.Version{"1": active(envs...)})
		_, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1"})
		hot, seen := 0, map[controlplane.EnvironmentID]bool{}
		for _, e := range s.calls {
			if e[0] == 'b' {
				hot++
			}
			if seen[e] {
				t.Errorf("%s was asked twice", e)
			}
			seen[e] = true
		}
		if _, ok := errors.AsType[*controlplane.ThrottledError](err); !ok || hot != 3 {
			t.Fatalf("%v after %d refusals in %v, want a throttle after 3", err, hot, s.calls)
		}
	}
}

// TestSpreadsConcurrentInvokes holds 30 invokes open on 3 environments and
// finds about 10 on each: the better of two is not always the best.
func TestSpreadsConcurrentInvokes(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	arrived := make(chan struct{}, 30) // one token an invoke
	s := &script{answer: func(controlplane.EnvironmentID) error {
		arrived <- struct{}{}
		<-hold
		return nil
	}}
	v := active("e-1", "e-2", "e-3")
	for i := range v.Endpoints {
		v.Endpoints[i].Limit = 16
	}
	r := newRouter(t, s, map[controlplane.Qualifier]*router.Version{"1": v})
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if _, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1"}); err != nil {
				t.Error(err)
			}
		})
		<-arrived // one after the other, so that each sees the ones before
	}
	close(hold)
	wg.Wait()
	per := map[controlplane.EnvironmentID]int{}
	for _, e := range s.calls {
		per[e]++
	}
	for _, e := range []controlplane.EnvironmentID{"e-1", "e-2", "e-3"} {
		if per[e] < 8 || per[e] > 12 {
			t.Errorf("%s got %d of 30, want about 10", e, per[e])
		}
	}
}

// TestLoadSurvivesATableSwap: what runs on an environment still counts after
// the table was rebuilt.
func TestLoadSurvivesATableSwap(t *testing.T) {
	t.Parallel()
	hold, arrived := make(chan struct{}), make(chan controlplane.EnvironmentID)
	s := &script{answer: func(e controlplane.EnvironmentID) error {
		arrived <- e
		<-hold
		return nil
	}}
	r := newRouter(t, s, map[controlplane.Qualifier]*router.Version{"1": active("e-1", "e-2")})
	var wg sync.WaitGroup
	invoke := func() controlplane.EnvironmentID {
		wg.Go(func() {
			if _, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1"}); err != nil {
				t.Error(err)
			}
		})
		return <-arrived
	}
	first := invoke()
	swap := func(envs ...controlplane.EnvironmentID) {
		r.Swap(&router.Table{Functions: map[controlplane.FunctionName]*router.Function{
			"f": {ARN: "arn:f", Versions: map[controlplane.Qualifier]*router.Version{"1": active(envs...)}},
		}})
	}
	swap()        // its agent was away for a moment
	for range 5 { // whatever the turn, the loaded one is avoided
		swap("e-1", "e-2")
	}
	if second := invoke(); second == first {
		t.Errorf("both invokes went to %s", first)
	}
	close(hold)
	wg.Wait()
}

// The loop swaps tables once a second: callers that come less often must take
// turns all the same.
func TestTurnsSurviveATableSwap(t *testing.T) {
	t.Parallel()
	s := &script{answer: func(controlplane.EnvironmentID) error { return nil }}
	versions := func() map[controlplane.Qualifier]*router.Version {
		return map[controlplane.Qualifier]*router.Version{"1": active("e-1", "e-2", "e-3")}
	}
	r := newRouter(t, s, versions())
	called := map[controlplane.EnvironmentID]int{}
	for range 6 {
		if _, err := r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1"}); err != nil {
			t.Fatal(err)
		}
		r.Swap(&router.Table{Functions: map[controlplane.FunctionName]*router.Function{"f": {Versions: versions()}}})
	}
	for _, e := range s.calls {
		called[e]++
	}
	if called["e-1"] != 2 || called["e-2"] != 2 || called["e-3"] != 2 {
		t.Errorf("calls %v, want two of each", called)
	}
}

func TestInvokeAllocatesLittle(t *testing.T) {
	s := &script{answer: func(controlplane.EnvironmentID) error { return nil }}
	s.calls = make([]controlplane.EnvironmentID, 0, 1<<16)
	r := newRouter(t, s, map[controlplane.Qualifier]*router.Version{"1": active("e-1", "e-2", "e-3")})
	ctx := t.Context()
	const ceiling = 9 // the context with its timer, the answer, the metric
	got := testing.AllocsPerRun(1000, func() {
		if _, err := r.Invoke(ctx, controlplane.InvokeRequest{Function: "f", Qualifier: "1"}); err != nil {
			t.Fatal(err)
		}
	})
	if got > ceiling {
		t.Errorf("%.0f allocations an invoke, want at most %d", got, ceiling)
	}
}
