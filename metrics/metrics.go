// Package metrics sets up OpenTelemetry for a daemon and names what it
// measures: hearth_<tree>_<what>_<unit>, with the unit and "_total" added by
// the exporter.
package metrics

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
)

// Registry is one daemon's metrics.
type Registry struct {
	prom     *prometheus.Registry
	provider *sdk.MeterProvider
	handler  http.Handler
}

// New returns an empty registry that also has the Go runtime's and the
// process's own metrics.
func New() (*Registry, error) {
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	exporter, err := otelprom.New(otelprom.WithRegisterer(reg), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		return nil, err
	}
	return &Registry{
		prom:     reg,
		provider: sdk.NewMeterProvider(sdk.WithReader(exporter)),
		handler:  promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
	}, nil
}

// Meter returns the meter of one package, by its import path below the module.
func (r *Registry) Meter(name string) metric.Meter { return r.provider.Meter(name) }

// Handler answers scrapes in the Prometheus text format.
func (r *Registry) Handler() http.Handler { return r.handler }

// Close releases what the registry holds.
func (r *Registry) Close(ctx context.Context) error { return r.provider.Shutdown(ctx) }
