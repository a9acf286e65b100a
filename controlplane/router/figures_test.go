package router_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/metrics"
)

// scrape returns what r exports, by metric with its labels.
func scrape(t *testing.T, r *router.Router) map[string]string {
	t.Helper()
	reg, err := metrics.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := reg.OnScrape(r.Scrape); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	reg.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatal(w.Body)
	}
	values := map[string]string{}
	for line := range strings.Lines(w.Body.String()) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok {
			values[name+"}"] = value
		}
	}
	return values
}

// next answers one invoke as the test says.
type next struct {
	took time.Duration
	res  controlplane.InvokeResult
	err  error
}

func (n *next) Call(context.Context, router.Endpoint, controlplane.InvokeRequest, time.Duration) (controlplane.InvokeResult, error) {
	time.Sleep(n.took)
	return n.res, n.err
}

func TestEveryInvokeIsCountedOnceWithItsVersion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &next{}
		v := roomy(8, "e-1")
		v.Provider = "p"
		r := newWaiting(t, n, 0, v)
		for _, x := range []next{
			{},
			{took: 30 * time.Millisecond},
			{took: time.Hour},
			{res: controlplane.InvokeResult{FunctionError: "Unhandled"}},
			{err: &controlplane.LostError{Err: errors.New("reset")}},
			{err: refuse(router.RefusedConcurrency)},
			{err: refuse(router.RefusedMemory)},
			{err: refuse(router.RefusedMemory)},
			{err: refuse(router.RefusedDisk)},
			{err: refuse(router.RefusedCPU)},
			{err: refuse(router.RefusedUnreachable)},
		} {
			*n = x
			_ = invoke(t, r, "1")
			time.Sleep(2 * time.Second) // what it was refused for is forgotten
		}
		_, _ = r.Invoke(t.Context(), controlplane.InvokeRequest{Function: "f", Qualifier: "1", DryRun: true})
		none := 0
		table := onDemandTable(false, v)
		table.Functions["f"].Reserved = &none
		r.Swap(table)
		_ = invoke(t, r, "1") // a throttle by what is reserved
		got := scrape(t, r)
		for name, want := range map[string]string{
			`invocations_total{function="f",provider="p",version="1"}`:                    "5",
			`errors_total{function="f",provider="p",version="1"}`:                         "1",
			`throttles_total{function="f",provider="p",reason="concurrency",version="1"}`: "3",
			`throttles_total{function="f",provider="p",reason="cpu",version="1"}`:         "1",
			`throttles_total{function="f",provider="p",reason="memory",version="1"}`:      "2",
			`throttles_total{function="f",provider="p",reason="disk",version="1"}`:        "1",
			`duration_seconds_count{function="f",provider="p",version="1"}`:               "5",
			`duration_seconds_sum{function="f",provider="p",version="1"}`:                 "3600.03",
			`duration_seconds_bucket{function="f",provider="p",version="1",le="0.001"}`:   "3",
			`duration_seconds_bucket{function="f",provider="p",version="1",le="0.05"}`:    "4",
			`duration_seconds_bucket{function="f",provider="p",version="1",le="900"}`:     "4",
			`duration_seconds_bucket{function="f",provider="p",version="1",le="+Inf"}`:    "5",
			`waiting{function="f",provider="p",version="1"}`:                              "0",
		} {
			if got["hearth_function_"+name] != want {
				t.Errorf("%s is %q, want %s", name, got["hearth_function_"+name], want)
			}
		}
		r.Swap(&router.Table{})
		for name := range scrape(t, r) {
			if strings.Contains(name, `function="f"`) {
				t.Errorf("of a version that is gone: %s", name)
			}
		}
	})
}
