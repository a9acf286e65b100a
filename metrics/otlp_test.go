package metrics_test

import (
	"testing"

	"github.com/hearth-compute/hearth/metrics"
)

func TestACollectorIsAHostAndAPort(t *testing.T) {
	t.Parallel()
	for endpoint, good := range map[string]bool{
		"": true, "http://127.0.0.1:4317": true, "https://otel.example:4317/": true, "http://[::1]:4317": true,
		"127.0.0.1:4317": false, "http://host": false, "grpc://host:4317": false, "http://host:4317/v1/traces": false,
		"http://user@host:4317": false, "http://:4317": false, "http://host:4317?x=y": false, "%": false,
	} {
		if err := metrics.CheckOTLP(endpoint); (err == nil) != good {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}
