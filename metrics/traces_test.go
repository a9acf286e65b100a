package metrics

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func TestNoTracesCostNothing(t *testing.T) {
	var none *Traces
	ctx := t.Context()
	failed := errors.New("failed")
	got := testing.AllocsPerRun(100, func() {
		in := none.From(ctx, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Root=1-5e1b4151-c3f1a2b3c4d5e6f708192a3b")
		in, span := none.Start(in, "x", trace.SpanKindServer)
		span.Set("a", "b")
		span.Fail("x")
		if span.Header().String() != "" || Traceparent(in) != "" || span.Recording() {
			t.Error("there is a span")
		}
		span.End(failed)
	})
	if got != 0 {
		t.Errorf("%.0f allocations", got)
	}
	if err := none.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestWhatIsRecordedIsWhatCallersAskFor(t *testing.T) {
	t.Parallel()
	const xray, w3c = "Root=1-5e1b4151-c3f1a2b3c4d5e6f708192a3b", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
	for _, c := range []struct {
		name, traceparent, traceID string
		ratio                      float64
		recorded                   bool
		trace                      string
	}{
		{"nobody asks", "", "", 0, false, ""},
		{"all are wanted", "", "", 1, true, ""},
		{"W3C, yes", w3c + "1", "", 0, true, "0af7651916cd43dd8448eb211c80319c"},
		{"W3C, no", w3c + "0", "", 1, false, "0af7651916cd43dd8448eb211c80319c"},
		{"W3C comes first", w3c + "0", xray + ";Sampled=1", 1, false, "0af7651916cd43dd8448eb211c80319c"},
		{"no W3C", "nonsense", xray + ";Sampled=1", 0, true, "5e1b4151c3f1a2b3c4d5e6f708192a3b"},
		{"X-Ray, yes", "", xray + ";Parent=53995c3f42cd8ad8;Sampled=1", 0, true, "5e1b4151c3f1a2b3c4d5e6f708192a3b"},
		{"X-Ray, no", "", xray + ";Parent=53995c3f42cd8ad8;Sampled=0", 1, false, "5e1b4151c3f1a2b3c4d5e6f708192a3b"},
		{"X-Ray without a parent", "", xray + ";Sampled=1", 0, true, "5e1b4151c3f1a2b3c4d5e6f708192a3b"},
		{"X-Ray asks", "", xray + ";Parent=53995c3f42cd8ad8;Sampled=?", 1, true, "5e1b4151c3f1a2b3c4d5e6f708192a3b"},
		{"X-Ray says nothing", "", xray, 0, false, "5e1b4151c3f1a2b3c4d5e6f708192a3b"},
		{"no X-Ray", "", "Root=1-zzzzzzzz-c3f1a2b3c4d5e6f708192a3b;Sampled=1", 0, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			exporter := tracetest.NewInMemoryExporter()
			traces := newTraces(TracesConfig{Ratio: c.ratio}, exporter)
			ctx, outer := traces.Start(traces.From(t.Context(), c.traceparent, c.traceID), "outer", trace.SpanKindServer)
			_, inner := traces.Start(ctx, "inner", trace.SpanKindClient)
			inner.End(errors.New("failed"))
			outer.End(nil)
			if err := traces.provider.ForceFlush(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := exporter.GetSpans()
			if recorded := len(got) == 2; recorded != c.recorded || !recorded && len(got) != 0 {
				t.Fatalf("%d spans were recorded, want them to be: %v", len(got), c.recorded)
			}
			if id := trace.SpanContextFromContext(ctx).TraceID().String(); c.trace != "" && id != c.trace {
				t.Errorf("the trace is %s", id)
			}
			if parent := Traceparent(ctx); !strings.HasPrefix(parent, "00-"+c.trace) || strings.HasSuffix(parent, "-01") != c.recorded {
				t.Errorf("what is sent on is %s", parent)
			}
		})
	}
}

func TestTheTraceHeaderSurvives(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":           "",
		"Sampled=1":  "",
		"Root=1-a-b": "Root=1-a-b",
		"Parent=c; Root=1-a-b;Lineage=x:1|y:2;Sampled=0;Self=q=": "Root=1-a-b;Parent=c;Sampled=0;Lineage=x:1|y:2;Self=q=",
	} {
		if got := ParseTraceHeader(in).String(); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	a, b := TraceHeader{}.Segment(), TraceHeader{}.Segment()
	if _, ok := a.traceID(); !ok || a.Root == b.Root || a.Parent == b.Parent || len(a.Parent) != 16 {
		t.Errorf("new traces are %+v and %+v", a, b)
	}
}

// TestACollectorThatIsAwayCostsOnlyItsSpans says so once.
func TestACollectorThatIsAwayCostsOnlyItsSpans(t *testing.T) {
	t.Parallel()
	var log lines
	down := true
	q := &quiet{SpanExporter: exporterFunc(func() error {
		if down {
			return errors.New("refused")
		}
		return nil
	}), log: log.logger()}
	for range 3 {
		if err := q.ExportSpans(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	down = false
	for range 3 {
		_ = q.ExportSpans(t.Context(), nil)
	}
	if got := log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "takes no spans") || !strings.Contains(got, "again") {
		t.Errorf("logged %q", got)
	}
}

type exporterFunc func() error

func (f exporterFunc) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return f() }
func (exporterFunc) Shutdown(context.Context) error                               { return nil }

// lines is a log.
type lines struct{ bytes.Buffer }

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
