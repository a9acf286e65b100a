package logs_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/hearth-compute/hearth/agent/logs"
)

// lines are what functions print.
func lines() map[string][]byte {
	return map[string][]byte{
		"text": []byte("2026-11-23T21:02:13.123Z\t" + requestA + "\tINFO\tprocessed order 4711 in 12 ms"),
		"json": []byte(`{"timestamp":"2026-11-23T21:02:13.123Z","level":"INFO","message":"processed an order","order":4711,"tookMs":12,"requestId":"` + requestA + `"}`),
	}
}

func BenchmarkLine(b *testing.B) {
	for name, line := range lines() {
		b.Run(name, func(b *testing.B) {
			s, err := logs.New(logs.Config{Dir: b.TempDir(), PerEnvironment: 16 << 20, Total: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancelCause(b.Context())
			var running sync.WaitGroup
			running.Go(func() { _ = s.Run(ctx) })
			st := s.Open(logs.Options{Tags: logs.Tags{Function: "f", Environment: "e-a"}, Level: "INFO"})
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				st.Line(logs.Stdout, line)
			}
			cancel(errors.New("stopped"))
			running.Wait()
		})
	}
}

func TestALineCostsNoAllocation(t *testing.T) {
	for name, line := range lines() {
		s, err := logs.New(config(t)) // nobody writes: the buffer is full in the end
		if err != nil {
			t.Fatal(err)
		}
		st := stream(s, "f", "e-a")
		for range 10_000 {
			st.Line(logs.Stdout, line)
		}
		if n := testing.AllocsPerRun(100, func() { st.Line(logs.Stdout, line) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkPlatform(b *testing.B) {
	s, err := logs.New(logs.Config{Dir: b.TempDir(), PerEnvironment: 16 << 20, Total: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(b.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	st := s.Open(logs.Options{Tags: logs.Tags{Function: "f", Environment: "e-a"}})
	report := []byte(`{"time":"2026-11-23T21:02:13.123Z","type":"platform.report","record":{"requestId":"` + requestA + `","status":"success","metrics":{"durationMs":1.234}}}`)
	b.ReportAllocs()
	for b.Loop() {
		st.Platform(requestA, report, true)
	}
	cancel(errors.New("stopped"))
	running.Wait()
}
