// Package otlp ships what functions print to an OpenTelemetry collector.
//
// # Model
//
// Every sandbox is a resource of its own; all share one queue and one connection.
//
// # Invariants
//
//  1. Whoever prints never waits for the collector: what finds no room in the
//     queue, which is bounded in lines and in bytes, and what the collector does
//     not take, is dropped and counted.
//
// # Failure
//
// Nothing is kept for a collector that is away for longer than the queue lasts.
// The logs on the instance have it.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/log"
	sdk "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/hearth-compute/hearth/agent/logs"
	"github.com/hearth-compute/hearth/metrics"
)

const (
	// maxQueued and maxQueuedBytes bound what waits for the collector.
	maxQueued      = 8192
	maxQueuedBytes = 8 << 20
	// batch is how many lines are sent at once, and no more than requestBytes of
	// them: collectors take 4 MiB unless they are told otherwise.
	batch        = 512
	requestBytes = 2 << 20
	// sendEvery is how long lines wait for others to be sent with.
	sendEvery = time.Second
	// sendLimit bounds one attempt to send a batch, retries included.
	sendLimit = 10 * time.Second
	// closeLimit bounds sending the rest at the end.
	closeLimit = 3 * time.Second
	// complainEvery bounds how often trouble with the collector is logged.
	complainEvery = time.Minute
	// recordBytes is about what a record takes beside its text.
	recordBytes = 512
)

var errClosing = errors.New("the rest could not be shipped in time")

// Config is what a shipper needs.
type Config struct {
	// Endpoint is http://HOST:PORT, or https:// for TLS.
	Endpoint string
	// Region is where functions believe they run.
	Region string
	Log    *slog.Logger
}

// Shipper ships lines. Make it with New and run Run.
type Shipper struct {
	cfg       Config
	processor *sdk.BatchProcessor

	// queued lines take queuedBytes.
	queued, queuedBytes, shipped, dropped atomic.Int64
	complained                            time.Time // the processor's goroutine's
}

// New returns a shipper. Nothing is dialled before there is something to send.
// Errors: InvalidArgument.
func New(ctx context.Context, cfg Config) (*Shipper, error) {
	exporter, err := otlploggrpc.New(ctx,
		otlploggrpc.WithEndpointURL(cfg.Endpoint),
		otlploggrpc.WithDialOption(metrics.FindAgain()),
		otlploggrpc.WithTimeout(sendLimit),
		otlploggrpc.WithRetry(otlploggrpc.RetryConfig{
			Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: sendLimit / 2, MaxElapsedTime: sendLimit, //nolint:mnd // a half
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("shipping logs to %s: %w: %w", cfg.Endpoint, err, errdefs.ErrInvalidArgument)
	}
	s := &Shipper{cfg: cfg}
	s.processor = sdk.NewBatchProcessor(counting{exporter, s},
		sdk.WithMaxQueueSize(maxQueued+batch), // never full: what is queued is counted here
		sdk.WithExportMaxBatchSize(batch),
		sdk.WithExportInterval(sendEvery),
		sdk.WithExportTimeout(2*sendLimit),
	)
	return s, nil
}

// Run waits until ctx is cancelled and sends what is left.
func (s *Shipper) Run(ctx context.Context) error {
	<-ctx.Done()
	last, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), closeLimit, errClosing)
	defer cancel()
	if err := s.processor.Shutdown(last); err != nil {
		s.cfg.Log.WarnContext(ctx, "the last lines of functions could not be shipped", "err", err)
	}
	return nil
}

// Shipped is how many lines the collector took.
func (s *Shipper) Shipped() int64 { return s.shipped.Load() }

// Dropped is how many lines the collector did not get.
func (s *Shipper) Dropped() int64 { return s.dropped.Load() }

// Ship returns what takes the lines of a stream; see [logs.Config].
func (s *Shipper) Ship(o logs.Options) func(logs.Line) {
	logger := sdk.NewLoggerProvider(sdk.WithResource(s.resource(o)), sdk.WithProcessor(s.processor)).Logger("hearth-agent")
	ctx := context.Background() // a record has no trace
	return func(line logs.Line) {
		body := strings.ToValidUTF8(string(line.Text), "\uFFFD")
		if s.reserve(int64(len(body)) + recordBytes) {
			logger.Emit(ctx, record(line, body))
		}
	}
}

// resource describes the sandbox in OpenTelemetry's words.
func (s *Shipper) resource(o logs.Options) *resource.Resource {
	attributes := []attribute.KeyValue{
		attribute.String("service.name", o.Function),
		attribute.String("service.version", o.Version),
		attribute.String("service.instance.id", o.Sandbox),
		attribute.String("faas.name", o.Function),
		attribute.String("faas.version", o.Version),
		attribute.String("faas.instance", o.Sandbox),
		attribute.String("cloud.provider", "aws"),
		attribute.String("cloud.platform", "aws_lambda"),
		attribute.String("cloud.region", s.cfg.Region),
		attribute.String("hearth.environment", string(o.Environment)),
	}
	if o.FunctionARN != "" {
		attributes = append(attributes, attribute.String("cloud.resource_id", o.FunctionARN))
		if parts := strings.Split(o.FunctionARN, ":"); len(parts) > 4 {
			attributes = append(attributes, attribute.String("cloud.account.id", parts[4]))
		}
	}
	if o.Group != "" {
		attributes = append(attributes, attribute.StringSlice("aws.log.group.names", []string{o.Group}))
	}
	return resource.NewSchemaless(attributes...)
}

// reserve takes room for a record in the queue, or counts it as dropped.
func (s *Shipper) reserve(size int64) bool {
	if s.queued.Add(1) <= maxQueued {
		if s.queuedBytes.Add(size) <= maxQueuedBytes {
			return true
		}
		s.queuedBytes.Add(-size)
	}
	s.queued.Add(-1)
	s.dropped.Add(1)
	return false
}

// record is a line in OpenTelemetry's words.
func record(line logs.Line, body string) (r log.Record) {
	r.SetTimestamp(line.Time)
	r.SetObservedTimestamp(line.Time)
	r.SetBody(attribute.StringValue(body))
	if severity := severityOf(line.Level); severity != log.SeverityUndefined {
		r.SetSeverity(severity)
		r.SetSeverityText(line.Level)
	}
	if line.RequestID != "" {
		r.AddAttributes(attribute.String("faas.invocation_id", line.RequestID))
	}
	switch line.Source {
	case logs.Stdout:
		r.AddAttributes(attribute.String("log.iostream", "stdout"), attribute.String("hearth.log.source", "function"))
	case logs.Stderr:
		r.AddAttributes(attribute.String("log.iostream", "stderr"), attribute.String("hearth.log.source", "function"))
	case logs.Extension:
		r.AddAttributes(attribute.String("hearth.log.source", "extension"))
	case logs.Platform:
		r.AddAttributes(attribute.String("hearth.log.source", "platform"))
	}
	return r
}

func severityOf(level string) log.Severity {
	switch level {
	case "TRACE":
		return log.SeverityTrace
	case "DEBUG":
		return log.SeverityDebug
	case "INFO":
		return log.SeverityInfo
	case "WARN":
		return log.SeverityWarn
	case "ERROR":
		return log.SeverityError
	case "FATAL":
		return log.SeverityFatal
	}
	return log.SeverityUndefined
}

// counting is the exporter, counting what becomes of records.
type counting struct {
	sdk.Exporter

	shipper *Shipper
}

// Export implements sdk.Exporter. It sends what is too large for one request in
// several.
func (c counting) Export(ctx context.Context, records []sdk.Record) error {
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) {
			next := len(records[n].Body().AsString()) + recordBytes
			if n > 0 && size+next > requestBytes {
				break
			}
			n, size = n+1, size+next
		}
		c.export(ctx, records[:n], size)
		records = records[n:]
	}
	return nil // counted and logged here
}

func (c counting) export(ctx context.Context, records []sdk.Record, size int) {
	err := c.Exporter.Export(ctx, records)
	s := c.shipper
	s.queued.Add(-int64(len(records)))
	s.queuedBytes.Add(-int64(size))
	if err == nil {
		s.shipped.Add(int64(len(records)))
		return
	}
	s.dropped.Add(int64(len(records)))
	if now := time.Now(); now.Sub(s.complained) >= complainEvery {
		s.complained = now
		s.cfg.Log.WarnContext(ctx, "lines of functions cannot be shipped", "dropped", s.dropped.Load(), "err", err)
	}
}
