package metrics

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// closeLimit is how long Close tries to send what is left.
const closeLimit = 5 * time.Second

var errSlowCollector = errors.New("the collector is slow")

// Traces makes spans and sends them to a collector. A nil Traces makes none: its
// methods cost nothing, and allocate nothing.
type Traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// TracesConfig says where spans go and which are made.
type TracesConfig struct {
	// Endpoint is as for [CheckOTLP].
	Endpoint string
	// Service, Version and Instance are who makes them.
	Service, Version, Instance string
	// Ratio is the share of traces that are recorded where nobody said so yet.
	// Where somebody did, a traceparent or an X-Amzn-Trace-Id, that counts.
	Ratio float64
	// Logger hears of a collector that does not take them. Required.
	Logger *slog.Logger
}

// NewTraces returns nil if there is no endpoint. It does not wait for the
// collector; spans are dropped while that does not take them, above 2,048.
func NewTraces(ctx context.Context, cfg TracesConfig) (*Traces, error) {
	if cfg.Endpoint == "" {
		return nil, nil //nolint:nilnil // a nil Traces is one that makes nothing
	}
	if err := CheckOTLP(cfg.Endpoint); err != nil {
		return nil, err
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(cfg.Endpoint), otlptracegrpc.WithDialOption(FindAgain()))
	if err != nil {
		return nil, fmt.Errorf("setting up traces: %w", err)
	}
	return newTraces(cfg, &quiet{SpanExporter: exporter, log: cfg.Logger}), nil
}

// FindAgain is how a collector is dialled: one that was away for hours is found
// within seconds of its return, where gRPC by itself takes up to two minutes.
func FindAgain() grpc.DialOption {
	again := backoff.DefaultConfig
	again.MaxDelay = collectorDelay
	return grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: collectorDelay})
}

const collectorDelay = 5 * time.Second

func newTraces(cfg TracesConfig, exporter sdktrace.SpanExporter) *Traces {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithIDGenerator(ids{}),
		sdktrace.WithSampler(sampler{ratio: sdktrace.TraceIDRatioBased(cfg.Ratio)}),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", cfg.Service), attribute.String("service.version", cfg.Version),
			attribute.String("service.instance.id", cfg.Instance))),
	)
	return &Traces{provider: provider, tracer: provider.Tracer("github.com/hearth-compute/hearth")}
}

// Close sends what was not sent yet.
func (t *Traces) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, closeLimit, errSlowCollector)
	defer cancel()
	return t.provider.Shutdown(ctx)
}

// From returns ctx as part of the trace its caller began: by the W3C traceparent
// or, when there is none, by the X-Amzn-Trace-Id. Both may be empty.
func (t *Traces) From(ctx context.Context, traceparent, traceID string) context.Context {
	if t == nil {
		return ctx
	}
	if traceparent != "" {
		in := propagation.TraceContext{}.Extract(ctx, carrier(traceparent))
		if trace.SpanContextFromContext(in).IsValid() {
			return in
		}
	}
	h := ParseTraceHeader(traceID)
	root, ok := h.traceID()
	if !ok {
		return ctx
	}
	ctx = context.WithValue(ctx, wishKey{}, wish{trace: root, sampled: h.Sampled})
	if parent, err := trace.SpanIDFromHex(h.Parent); err == nil {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: root, SpanID: parent}))
	}
	return ctx
}

// carrier is a traceparent header by itself.
type carrier string

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(key string) string {
	if key == "traceparent" {
		return string(c)
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (carrier) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (carrier) Keys() []string { return nil }

// Start begins a span beneath that of ctx.
func (t *Traces) Start(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{span: span}
}

// Span is one hop of a trace. The zero Span is none.
type Span struct{ span trace.Span }

// Recording tells whether anybody will see the span.
func (s Span) Recording() bool { return s.span != nil && s.span.IsRecording() }

// Set says something of it.
func (s Span) Set(key, value string) {
	if s.Recording() {
		s.span.SetAttributes(attribute.String(key, value))
	}
}

// Fail says that it failed.
func (s Span) Fail(message string) {
	if s.Recording() {
		s.span.SetStatus(codes.Error, message)
	}
}

// End ends it; err, unless nil, says that it failed.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil && s.span.IsRecording() {
		s.span.SetStatus(codes.Error, err.Error())
	}
	s.span.End()
}

// Header is the span as an X-Amzn-Trace-Id; the zero value for no span.
func (s Span) Header() TraceHeader {
	if s.span == nil {
		return TraceHeader{}
	}
	c := s.span.SpanContext()
	id := c.TraceID().String()
	h := TraceHeader{Root: "1-" + id[:8] + "-" + id[8:], Parent: c.SpanID().String(), Sampled: "0"}
	if c.IsSampled() {
		h.Sampled = "1"
	}
	return h
}

// Traceparent is the span of ctx as a W3C traceparent; empty when there is none.
func Traceparent(ctx context.Context) string {
	c := trace.SpanContextFromContext(ctx)
	if !c.IsValid() {
		return ""
	}
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String()
}

type wishKey struct{}

// wish is what an X-Amzn-Trace-Id asks for.
type wish struct {
	trace   trace.TraceID
	sampled string // "1", "0"; else nobody has decided
}

// ids makes ids that X-Ray understands: the first part of a trace id is the time.
type ids struct{}

// NewIDs implements trace.IDGenerator.
func (g ids) NewIDs(ctx context.Context) (id trace.TraceID, _ trace.SpanID) {
	if w, ok := ctx.Value(wishKey{}).(wish); ok {
		id = w.trace
	} else {
		_, _ = rand.Read(id[4:])                                      // never fails
		binary.BigEndian.PutUint32(id[:4], uint32(time.Now().Unix())) //nolint:gosec // until 2106
	}
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID implements trace.IDGenerator.
func (ids) NewSpanID(context.Context, trace.TraceID) (id trace.SpanID) {
	_, _ = rand.Read(id[:])
	return id
}

// sampler does what the parent did, or what the caller says, else it takes a
// share.
type sampler struct{ ratio sdktrace.Sampler }

// ShouldSample implements trace.Sampler.
func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	wish, asked := p.ParentContext.Value(wishKey{}).(wish)
	yes := parent.IsSampled()
	if asked && (!parent.IsValid() || parent.IsRemote()) {
		if wish.sampled != "0" && wish.sampled != "1" {
			return s.ratio.ShouldSample(p)
		}
		yes = wish.sampled == "1"
	} else if !parent.IsValid() {
		return s.ratio.ShouldSample(p)
	}
	decision := sdktrace.Drop
	if yes {
		decision = sdktrace.RecordAndSample
	}
	return sdktrace.SamplingResult{Decision: decision, Tracestate: parent.TraceState()}
}

// Description implements trace.Sampler.
func (s sampler) Description() string { return "ParentOrHeader{" + s.ratio.Description() + "}" }

// quiet keeps failures of the collector from being anybody's but the log's, which
// hears of the first and of the end.
type quiet struct {
	sdktrace.SpanExporter
	log    *slog.Logger
	failed atomic.Bool
}

// ExportSpans implements trace.SpanExporter.
func (q *quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := q.SpanExporter.ExportSpans(ctx, spans)
	if was := q.failed.Swap(err != nil); err != nil && !was {
		q.log.WarnContext(ctx, "the collector takes no spans", "err", err)
	} else if err == nil && was {
		q.log.InfoContext(ctx, "the collector takes spans again")
	}
	return nil
}
