package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Result is what overload.json holds.
type Result struct {
	// AloneMS is how long an invocation takes alone, SLOMS the SLO that follows.
	AloneMS float64 `json:"alone_ms"`
	SLOMS   float64 `json:"slo_ms"`
	// Estimate is the throughput that rates are multiples of; Capacity is the best
	// goodput measured.
	Estimate float64 `json:"estimate_per_second"`
	Capacity float64 `json:"capacity_per_second"`
	// CPU has a phase for each load, Off the same with admission by CPU off.
	CPU []Phase `json:"cpu"`
	Off []Phase `json:"admission_off"`
	// Cost is the phase in which an invocation's cost changes.
	Cost           Phase `json:"cost"`
	Memory         Phase `json:"memory"`
	MemorySurvived bool  `json:"memory_survived"`
	Disk           Phase `json:"disk"`
	// DiskReplacedSeconds is how long it took to replace the full environment.
	DiskReplacedSeconds float64 `json:"disk_replaced_seconds"`
	Goals               []Goal  `json:"goals"`
}

// Goal is one thing the run should show.
type Goal struct {
	Name string `json:"name"`
	Got  string `json:"got"`
	Met  bool   `json:"met"`
}

func (r *Result) goal(name string, met bool, got string, args ...any) {
	r.Goals = append(r.Goals, Goal{Name: name, Met: met, Got: fmt.Sprintf(got, args...)})
}

// judge compares the phases with the goals.
func (r *Result) judge() {
	var base float64
	for _, p := range r.CPU {
		r.Capacity = max(r.Capacity, p.Goodput)
		if p.Load == 0.9 {
			base = p.P99
		}
	}
	for _, p := range r.CPU {
		if p.Load >= 3 {
			r.goal(fmt.Sprintf("goodput at %g × at least 95 %% of capacity", p.Load), p.Goodput >= 0.95*r.Capacity,
				"%.1f of %.1f/s: %.1f %%", p.Goodput, r.Capacity, 100*p.Goodput/r.Capacity)
		}
		if p.Load >= 1 {
			r.goal(fmt.Sprintf("p99 of admitted at %g × at most 2 × that at 0.9", p.Load), p.P99 <= 2*base, "%.1f ms against %.1f ms", p.P99, base)
		}
		if p.Load >= 2 {
			r.goal(fmt.Sprintf("recorded reason at %g × is cpu", p.Load), only(p.Refused, "cpu"), "%v", p.Refused)
		}
	}
	for _, p := range r.Off {
		if p.Load >= 3 {
			r.goal(fmt.Sprintf("goodput at %g × without admission below 70 %%", p.Load), p.Goodput < 0.7*r.Capacity,
				"%.1f %%", 100*p.Goodput/r.Capacity)
		}
	}
	r.judgeCost()
	r.goal("memory: no OOM kill", r.MemorySurvived && r.Memory.Failed == 0, "survived %v, %d failed %s", r.MemorySurvived, r.Memory.Failed, r.Memory.Failure)
	r.goal("memory: reason memory", commonest(r.Memory.Refused, "memory"), "%v", r.Memory.Refused)
	r.goal("disk: reason disk", only(r.Disk.Refused, "disk"), "%v", r.Disk.Refused)
	r.goal("disk: replaced", r.DiskReplacedSeconds > 0, "after %.1f s", r.DiskReplacedSeconds)
}

// judgeCost looks at the limit in the middle of each third.
func (r *Result) judgeCost() {
	n := len(r.Cost.Limits)
	if n < 6 {
		r.goal("limit moves with the cost", false, "%d samples", n)
		return
	}
	cheap, dear, again := r.Cost.Limits[n/4], r.Cost.Limits[2*n/3-1], r.Cost.Limits[n-1]
	r.goal("limit moves with the cost", dear < cheap/2 && again > 2*dear, "%d at 2 ms, %d at 20 ms, %d at 2 ms again", cheap, dear, again)
}

// only tells whether a reason was the only one, and there was one.
func only(refused map[string]int, reason string) bool {
	return len(refused) == 1 && refused[reason] > 0
}

// commonest tells whether more was refused for a reason than for any other.
func commonest(refused map[string]int, reason string) bool {
	for other, n := range refused {
		if other != reason && n >= refused[reason] {
			return false
		}
	}
	return refused[reason] > 0
}

func (r *Result) err() error {
	var errs []error
	for _, g := range r.Goals {
		state := "met    "
		if !g.Met {
			state = "NOT MET"
			errs = append(errs, errors.New("not met: "+g.Name))
		}
		fmt.Printf("%s  %-50s %s\n", state, g.Name, g.Got)
	}
	return errors.Join(errs...)
}

func (p *Phase) print() {
	var refused []string
	for _, reason := range slices.Sorted(maps.Keys(p.Refused)) {
		refused = append(refused, fmt.Sprintf("%s %d", reason, p.Refused[reason]))
	}
	limits := "-"
	if len(p.Limits) > 0 {
		limits = fmt.Sprintf("%d..%d", slices.Min(p.Limits), slices.Max(p.Limits))
	}
	fmt.Printf("%-18s offered %7.1f/s answered %7.1f/s goodput %7.1f/s p50 %7.1f ms p99 %7.1f ms late %5.1f ms limit %-7s refused: %s failed: %d %s\n",
		p.Name, p.Offered, p.Answered, p.Goodput, p.P50, p.P99, p.Late, limits, strings.Join(refused, ", "), p.Failed, p.Failure)
}

// write leaves the result and its plots in dir.
func (r *Result) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // nothing secret
		return err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "overload.json"), append(b, '\n'), 0o644); err != nil { //nolint:gosec // nothing secret
		return err
	}
	return r.plots(dir)
}
