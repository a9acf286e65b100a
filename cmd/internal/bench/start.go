package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hearth-compute/hearth/cmd/internal/stack"
	"github.com/hearth-compute/hearth/controlplane"
)

const (
	// singles environments are started one after the other, then burst at once; the
	// last round goes on to fifty.
	singles = 12
	burst   = 15
	fifty   = 50
	// keptSpares is the agent's default.
	keptSpares = 4
)

// starts is what one agent took to start environments.
type starts struct {
	// Spares is how many networks and /tmp file systems the agent kept.
	Spares int `json:"spares"`
	// P50 and P90 are from the moment the set was sent until an environment was
	// ready, one at a time.
	P50Millis float64 `json:"p50Millis"`
	P90Millis float64 `json:"p90Millis"`
	// PerSecond is with 15 at once, until the last was ready.
	PerSecond float64 `json:"perSecond"`
}

// startFigures are the medians of the rounds.
type startFigures struct {
	With    starts `json:"withSpares"`
	Without starts `json:"withoutSpares"`
	// AgentMB is what the agent has in memory with fifty environments of 32 slots
	// that have been called.
	AgentMB float64 `json:"agentMB"`
}

// measureStarts starts environments of a static function in agents with and
// without spares, in turn.
func measureStarts(ctx context.Context, w io.Writer, rounds int) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	archive, err := stack.BuildFunction(ctx, "./cmd/internal/bench/noop")
	if err != nil {
		return err
	}
	var f startFigures
	all := map[int][]starts{}
	for round := range rounds {
		for _, spares := range []int{0, keptSpares} {
			var memory *float64
			if round == rounds-1 && spares > 0 {
				memory = &f.AgentMB
			}
			s, err := startsOf(ctx, archive, spares, memory)
			if err != nil {
				return fmt.Errorf("with %d spares: %w", spares, err)
			}
			all[spares] = append(all[spares], s)
			if _, err := fmt.Fprintf(w, "round %d: %d spares: p50 %.0f ms, p90 %.0f ms, %.1f/s\n", round+1, spares, s.P50Millis, s.P90Millis, s.PerSecond); err != nil {
				return err
			}
		}
	}
	f.With, f.Without = medianStarts(all[keptSpares]), medianStarts(all[0])
	return errors.Join(f.report(w), write("start", f))
}

// startsOf measures one agent, made for it, and its memory if that is asked for.
func startsOf(ctx context.Context, archive []byte, spares int, memory *float64) (s starts, err error) {
	dir, err := os.MkdirTemp("", "hearth-bench-")
	if err != nil {
		return s, err
	}
	b := newAgentBench(dir, slog.New(slog.DiscardHandler), "--spares", itoa(spares))
	defer func() { err = errors.Join(err, b.Close(), os.RemoveAll(dir)) }()
	if err := b.Open(ctx, archive); err != nil {
		return s, err
	}
	err = b.serving(ctx, slots, nil, func(ctx context.Context) (err error) {
		if s, err = b.start(ctx, spares); err != nil || memory == nil {
			return err
		}
		*memory, err = b.memory(ctx)
		return err
	})
	return s, err
}

// start starts environments one at a time, each when the spares are there, then
// many at once.
func (b *agentBench) start(ctx context.Context, spares int) (starts, error) {
	s := starts{Spares: spares}
	if _, err := b.startUpTo(ctx, 1); err != nil { // the first unpacks image and code
		return s, err
	}
	var took []time.Duration
	for i := range singles {
		if err := b.awaitSpares(ctx, spares); err != nil {
			return s, err
		}
		one, err := b.startUpTo(ctx, i+2)
		if err != nil {
			return s, err
		}
		took = append(took, one)
	}
	slices.Sort(took)
	s.P50Millis, s.P90Millis = inMicros(took[len(took)/2])/1000, inMicros(took[len(took)*9/10])/1000
	if err := b.awaitSpares(ctx, spares); err != nil {
		return s, err
	}
	many, err := b.startUpTo(ctx, 1+singles+burst)
	s.PerSecond = burst / many.Seconds()
	return s, err
}

// awaitSpares waits until the agent has its spares, and a moment in any case:
// the machine is to be as quiet with them as without.
func (b *agentBench) awaitSpares(ctx context.Context, n int) error {
	select {
	case <-time.After(700 * time.Millisecond):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return eventually(ctx, "there are spares", func() (bool, error) {
		ready, err := filepath.Glob(filepath.Join(b.Dir, "instances", "*", "agent", "*", "tmp", "spare_*.img"))
		return len(ready) >= n, err
	})
}

// startUpTo asks for n environments in all and returns when the last of them was
// ready, by the agent's clock, which is ours.
func (b *agentBench) startUpTo(ctx context.Context, n int) (time.Duration, error) {
	set := controlplane.DesiredSet{Epoch: 1, Generation: uint64(n) + 1} //nolint:gosec // G115: it is small
	for i := range n {
		set.Environments = append(set.Environments, b.placement(i, nil, slots))
	}
	began := time.Now()
	b.Server.Desire(instance, set)
	var last int64
	err := eventually(ctx, "the environments are ready", func() (ready bool, err error) {
		ready, last, err = b.ready(n)
		return ready, err
	})
	return time.UnixMilli(last).Sub(began), err
}

// ready says whether n environments are, and when the last became so.
func (b *agentBench) ready(n int) (all bool, last int64, err error) {
	heard := b.Server.Heard()
	if len(heard) != 1 || len(heard[0].Environments) != n {
		return false, 0, nil
	}
	for _, e := range heard[0].Environments {
		if e.State == controlplane.EnvironmentFailed {
			return false, 0, fmt.Errorf("environment failed: %s: %s", e.ReasonCode, e.Reason)
		}
		if e.State != controlplane.EnvironmentReady {
			return false, 0, nil
		}
		last = max(last, e.SinceUnixMilli)
	}
	return true, last, nil
}

// memory fills the agent with environments, calls them and tells its size in MB.
func (b *agentBench) memory(ctx context.Context) (float64, error) {
	if _, err := b.startUpTo(ctx, fifty); err != nil {
		return 0, err
	}
	var next int
	load(ctx, 1, 2*time.Second, func(ctx context.Context) error {
		next++
		return b.call(ctx, next%fifty)
	})
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range commands {
		command, err := os.ReadFile(file) //nolint:gosec // G304: a file of /proc
		if err != nil || !bytes.Contains(command, []byte(b.Dir)) || !bytes.Contains(command, []byte("hearth-agent")) {
			continue
		}
		return resident(filepath.Join(filepath.Dir(file), "status"))
	}
	return 0, errors.New("the agent does not run")
}

// resident reads what a process has in memory, in MB.
func resident(status string) (float64, error) {
	text, err := os.ReadFile(status) //nolint:gosec // G304: a file of /proc
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("%s has no VmRSS", status)
	}
	kib, err := strconv.ParseFloat(fields[0], 64)
	return kib * 1024 / 1e6, err
}

func medianStarts(rounds []starts) starts {
	middle := func(of func(starts) float64) float64 {
		sorted := slices.SortedFunc(slices.Values(rounds), func(a, b starts) int { return cmp.Compare(of(a), of(b)) })
		return of(sorted[len(sorted)/2])
	}
	return starts{
		Spares:    rounds[0].Spares,
		P50Millis: middle(func(s starts) float64 { return s.P50Millis }),
		P90Millis: middle(func(s starts) float64 { return s.P90Millis }),
		PerSecond: middle(func(s starts) float64 { return s.PerSecond }),
	}
}

// report prints each goal with what was reached.
func (f startFigures) report(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\nwith spares p50 %.0f p90 %.0f ms, without p50 %.0f p90 %.0f ms: %.2f×\n\n",
		f.With.P50Millis, f.With.P90Millis, f.Without.P50Millis, f.Without.P90Millis, f.With.P50Millis/f.Without.P50Millis)
	for _, g := range []struct {
		what       string
		got, bound float64
		atLeast    bool
		unit       string
	}{
		{"start to ready with spares, p50", f.With.P50Millis, 80, false, " ms"},
		{"start to ready without, p50", f.Without.P50Millis, 160, false, " ms"},
		{"starts in parallel, with spares", f.With.PerSecond, 15, true, "/s"},
		{"starts in parallel, without", f.Without.PerSecond, 15, true, "/s"},
		{"agent with 50 environments of 32 slots", f.AgentMB, 100, false, " MB"},
	} {
		verdict, bound := "MISSED ", "at most"
		if g.atLeast {
			bound = "at least"
		}
		if g.got == g.bound || g.got > g.bound == g.atLeast {
			verdict = "reached"
		}
		fmt.Fprintf(&b, "%s %-40s %.1f%s (%s %.0f)\n", verdict, g.what, g.got, g.unit, bound, g.bound)
	}
	b.WriteString("OPEN    start from created and not started tasks: there are none\n")
	_, err := io.WriteString(w, b.String())
	return err
}
