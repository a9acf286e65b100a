package arch

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"
)

// TestTheDashboardShowsMetricsThatExist: what it asks for is in docs/metrics.md,
// which another test holds to the code.
func TestTheDashboardShowsMetricsThatExist(t *testing.T) {
	t.Parallel()
	dashboard, err := os.ReadFile("../../../deploy/grafana/hearth.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(dashboard) {
		t.Error("the dashboard is not JSON")
	}
	page, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(hearth_[a-z_]+)`").FindAllSubmatch(page, -1) {
		documented[string(m[1])] = true
	}
	asked := regexp.MustCompile(`hearth_[a-z_]+`).FindAll(dashboard, -1)
	if len(asked) < 12 {
		t.Errorf("only %d metrics are shown", len(asked))
	}
	for _, name := range asked {
		if !documented[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(string(name), "")] {
			t.Errorf("the dashboard shows %s, which docs/metrics.md does not have", name)
		}
	}
}
