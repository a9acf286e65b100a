package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// goal is a bound on a figure of Hearth against one of something else.
type goal struct {
	what string
	// of and against are targets; than is what is compared.
	of, against string
	than        func(of, against figures) float64
	// bound is what it is to be at least (atLeast) or at most.
	bound   float64
	atLeast bool
	unit    string
}

func throughput(of, against figures) float64 { return of.PerSecond / against.PerSecond }

// cpu is what the agent takes per invoke, against what stands in its place.
func cpu(of, against figures) float64 { return of.CPUMicros["hearth-agent"] / server(against) }

// server is the CPU of the process that is compared: neither function nor echo.
func server(f figures) float64 {
	for name, used := range f.CPUMicros {
		if name != "bootstrap" && name != "bench-echo" {
			return used
		}
	}
	return 0
}

func addedP50(of, against figures) float64 {
	return (of.SteadyP50Micros - against.SteadyP50Micros) / 1000
}

func addedP99(of, against figures) float64 {
	return (of.SteadyP99Micros - against.SteadyP99Micros) / 1000
}

func slotsUsed(of, _ figures) float64 { return of.PerSecond * waitTime.Seconds() / slots }
func failures(of, _ figures) float64  { return float64(of.Errors) }

func goals() []goal {
	return []goal{
		{"agent alone, throughput", "agent A", "RIE A", throughput, 1.35, true, "×"},
		{"agent alone, throughput", "agent K", "RIE K", throughput, 1.6, true, "×"},
		{"agent alone, CPU per invoke", "agent A", "RIE A", cpu, 0.75, false, "×"},
		{"agent alone, CPU per invoke", "agent K", "RIE K", cpu, 0.55, false, "×"},
		{"agent alone, CPU per invoke", "agent A", "reverse proxy", cpu, 2.0, false, "×"},
		{"agent alone, CPU per invoke", "agent K", "reverse proxy", cpu, 1.3, false, "×"},
		{"agent alone at 1,000/s, p50 added", "agent A", "echo", addedP50, 0.40, false, " ms"},
		{"agent alone at 1,000/s, p99 added", "agent A", "echo", addedP99, 1.2, false, " ms"},
		{"full path, throughput", "full A", "RIE A", throughput, 1.0, true, "×"},
		{"full path, throughput", "full K", "RIE K", throughput, 1.2, true, "×"},
		{"full path at 1,000/s, p50 added", "full A", "echo", addedP50, 0.65, false, " ms"},
		{"full path at 1,000/s, p99 added", "full A", "echo", addedP99, 1.8, false, " ms"},
		{"48 callers on 32 slots of 50 ms", waiting, waiting, slotsUsed, 0.98, true, " of 32 / 50 ms"},
		{"48 callers on 32 slots, errors", waiting, waiting, failures, 0, false, ""},
	}
}

// report prints every figure, then each goal with what was reached.
func report(w io.Writer, all []figures) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-14s %9s %9s %9s %12s %12s %7s  CPU per call, µs\n", "", "calls/s", "p50 µs", "p99 µs", "1000/s p50", "1000/s p99", "errors")
	by := map[string]figures{}
	for _, f := range all {
		by[f.Name] = f
		fmt.Fprintf(&b, "%-14s %9.0f %9.0f %9.0f %12.0f %12.0f %7d ", f.Name, f.PerSecond, f.P50Micros, f.P99Micros, f.SteadyP50Micros, f.SteadyP99Micros, f.Errors)
		for _, name := range slices.Sorted(maps.Keys(f.CPUMicros)) {
			fmt.Fprintf(&b, " %s %.0f", name, f.CPUMicros[name])
		}
		fmt.Fprintln(&b, " ", f.FirstError)
	}
	b.WriteString("\n")
	for _, g := range goals() {
		of, ok := by[g.of]
		against, both := by[g.against]
		if !ok || !both {
			fmt.Fprintf(&b, "OPEN    %-36s %s against %s: not measured\n", g.what, g.of, g.against)
			continue
		}
		got, verdict, bound := g.than(of, against), "MISSED ", "at most"
		if g.atLeast {
			bound = "at least"
		}
		if got == g.bound || got > g.bound == g.atLeast {
			verdict = "reached"
		}
		fmt.Fprintf(&b, "%s %-36s %s against %s: %.2f%s (%s %.2f)\n", verdict, g.what, g.of, g.against, got, g.unit, bound, g.bound)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
