package daemon

import (
	"context"
	"fmt"

	"github.com/hearth-compute/hearth/metrics"
)

// assembleTraces makes what makes spans. Which are recorded the control service
// decides.
func (a *Agent) assembleTraces(ctx context.Context) (err error) {
	a.traces, err = metrics.NewTraces(ctx, metrics.TracesConfig{
		Endpoint: a.cfg.OTLPEndpoint, Service: "hearth-agent", Version: a.cfg.Version, Instance: a.cfg.Hostname, Logger: a.cfg.Log,
	})
	if err != nil {
		return fmt.Errorf("--otlp-endpoint: %w", err)
	}
	return nil
}
