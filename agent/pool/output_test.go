package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/logs"
	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
	"github.com/hearth-compute/hearth/sandbox"
)

const requestID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"

// quietOutput keeps nothing.
func quietOutput() *Output { return NewOutput(slog.New(slog.DiscardHandler)) }

// stored returns an output that keeps lines, and a function that ends that and
// returns them.
func stored(t *testing.T) (o *Output, kept func() []string) {
	t.Helper()
	store, err := logs.New(logs.Config{
		Dir: t.TempDir(), PerEnvironment: logs.LeastPerEnvironment, Total: logs.LeastTotal, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	o = NewOutput(slog.New(slog.DiscardHandler))
	o.Keep(store)
	return o, func() (lines []string) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("stopped"))
		if err := store.Run(ctx); err != nil {
			t.Fatal(err)
		}
		r, err := store.Read(logs.Query{Tail: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for {
			b, err := r.Next(t.Context())
			if errors.Is(err, io.EOF) {
				return lines
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range b.Lines {
				lines = append(lines, fmt.Sprintf("%s %s %s %c %s %s", l.Function, l.Version, l.Environment, l.Source, l.RequestID, l.Text))
			}
		}
	}
}

func TestWhatSandboxesPrintIsKeptWithItsTags(t *testing.T) {
	t.Parallel()
	o, kept := stored(t)
	one := agent.Assignment{Environment: "e-1", FunctionName: "f", Version: "7", MaxConcurrency: 1}
	many := agent.Assignment{
		Environment: "e-2", FunctionName: "g", Version: "$LATEST", MaxConcurrency: 9,
		Logging: agent.Logging{Format: "JSON", ApplicationLevel: "WARN"},
	}
	o.Line("s-1", sandbox.Stdout, []byte("before it is known"))
	first, second := o.follow("s-1", one), o.follow("s-2", many)
	o.Line("s-3", sandbox.Stdout, []byte("never known"))
	first.Began(requestID)
	tail := first.Tail(requestID)
	o.Line("s-1", sandbox.Stderr, []byte("mine"))
	o.Line("s-2", sandbox.Stdout, []byte("whose?"))
	o.Line("s-2", sandbox.Stdout, []byte(`{"level":"info"}`))
	o.ExtensionLine("s-2", "x", []byte("starting"))
	o.get("s-1").platform(telemetry.Event{Type: "platform.report", RequestID: requestID, Text: []byte("report")})
	first.Ended(requestID)
	second.Tail("x").Drop()
	if got := string(tail.Finish(t.Context())); got != "mine\nreport\n" {
		t.Errorf("tail: got %q", got)
	}
	o.forget("s-1")
	o.forget("s-2")
	want := []string{
		"f 7 e-1 o  before it is known", "f 7 e-1 e " + requestID + " mine", "g $LATEST e-2 o  whose?", "g $LATEST e-2 x  starting",
		"f 7 e-1 p " + requestID + " report",
	}
	if d := cmp.Diff(want, kept()); d != "" {
		t.Error(d)
	}
}

func TestLittleIsKeptOfSandboxesNobodyKnows(t *testing.T) {
	t.Parallel()
	o, kept := stored(t)
	line := bytes.Repeat([]byte{'x'}, 1000)
	for range 1000 {
		o.Line("s-1", sandbox.Stdout, line)
	}
	if o.earlySize > earlyBytes {
		t.Errorf("%d bytes wait", o.earlySize)
	}
	o.follow("s-1", agent.Assignment{Environment: "e-1"})
	o.Line("s-2", sandbox.Stdout, line)
	o.Settle()
	o.Line("s-3", sandbox.Stdout, line)
	if len(o.early) != 0 {
		t.Errorf("%d sandboxes are waited for", len(o.early))
	}
	if n := len(kept()); n != earlyBytes/1001 {
		t.Errorf("%d lines are kept", n)
	}
}

func TestSubscribersGetWhatIsPrinted(t *testing.T) {
	t.Parallel()
	o := NewOutput(slog.New(slog.DiscardHandler))
	o.follow("s", agent.Assignment{Environment: "e"})
	hub := telemetry.New(telemetry.Config{
		Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody") }, Log: slog.New(slog.DiscardHandler),
	})
	o.Line("s", sandbox.Stdout, []byte("nobody listens yet"))
	o.subscribers("s", hub)
	if o.get("s").hub.Load() != hub {
		t.Error("the hub is not told")
	}
	o.subscribers("unknown", hub)
}
