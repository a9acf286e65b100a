package logs_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hearth-compute/hearth/agent/logs"
	"github.com/hearth-compute/hearth/metrics"
)

// shipped is a collector that took three lines of seven.
type shipped struct{}

func (shipped) Shipped() int64 { return 3 }

func (shipped) Dropped() int64 { return 4 }

func TestMetricsCountWhatBecameOfLines(t *testing.T) {
	t.Parallel()
	registry, err := metrics.New()
	if err != nil {
		t.Fatal(err)
	}
	s, stop := open(t, config(t))
	stream(s, "f", "e-a").Line(logs.Stdout, []byte("x"))
	stop()
	if err := logs.Observe(registry.Meter("agent/logs"), s, shipped{}); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	registry.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		"hearth_agent_log_lines_total 1\n", `hearth_agent_log_lines_lost_total{reason="memory"} 0`, `hearth_agent_log_lines_lost_total{reason="disk"} 0`,
		`hearth_agent_log_lines_lost_total{reason="collector"} 4`, "hearth_agent_log_lines_shipped_total 3\n", "hearth_agent_log_bytes 4096\n",
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
}
