package metrics

import "github.com/prometheus/client_golang/prometheus"

// Desc describes a metric that is made when it is asked for.
type Desc struct{ desc *prometheus.Desc }

// NewDesc describes a metric by its name, as it is exported.
func NewDesc(name, help string, labels ...string) Desc {
	return Desc{desc: prometheus.NewDesc(name, help, labels, nil)}
}

// Scrape takes the values of metrics that are made when they are asked for. What
// one scrape is not given it does not show: values of what is gone go, too.
type Scrape struct{ to chan<- prometheus.Metric }

// Counter adds a value that only grows.
func (s Scrape) Counter(d Desc, value float64, labels ...string) {
	s.to <- prometheus.MustNewConstMetric(d.desc, prometheus.CounterValue, value, labels...)
}

// Gauge adds a value.
func (s Scrape) Gauge(d Desc, value float64, labels ...string) {
	s.to <- prometheus.MustNewConstMetric(d.desc, prometheus.GaugeValue, value, labels...)
}

// Histogram adds how many values there were, their sum, and how many were at most
// each bound.
func (s Scrape) Histogram(d Desc, count uint64, sum float64, atMost map[float64]uint64, labels ...string) {
	s.to <- prometheus.MustNewConstHistogram(d.desc, count, sum, atMost, labels...)
}

// OnScrape has fill called for every scrape. No two of the values it gives may
// have the same name and labels, or the scrape fails.
func (r *Registry) OnScrape(fill func(Scrape)) error {
	return r.prom.Register(collector(fill))
}

// collector is unchecked: it describes nothing beforehand.
type collector func(Scrape)

// Describe implements prometheus.Collector.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) { c(Scrape{to: to}) }
