package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// module is what package paths are shown without.
const module = "github.com/hearth-compute/hearth/"

// event is one line of "go test -json"; go doc test2json says what it means.
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string
	Elapsed                                                float64
}

// testID names a test or subtest.
type testID struct{ pkg, test string }

func (id testID) String() string { return id.pkg + " " + id.test }

func (id testID) compare(o testID) int {
	return cmp.Or(cmp.Compare(id.pkg, o.pkg), cmp.Compare(id.test, o.test))
}

// outcome is how a test ended, the best of the runs for a skip, the worst
// otherwise.
type outcome int

const (
	skipped outcome = iota
	passed
	failed
)

// report gathers events and prints along.
type report struct {
	w        io.Writer
	outcomes map[testID]outcome
	output   map[testID][]string // of tests that have not ended
	reasons  map[testID]string   // of skips
	build    map[string][]string // compiler output by import path
	broken   []string            // packages that failed, in order
	writing  error               // the first failure to write to w
}

func newReport(w io.Writer) *report {
	return &report{
		w:        w,
		outcomes: map[testID]outcome{},
		output:   map[testID][]string{},
		reasons:  map[testID]string{},
		build:    map[string][]string{},
	}
}

func (r *report) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(r.w, format, args...); err != nil && r.writing == nil {
		r.writing = fmt.Errorf("writing the report: %w", err)
	}
}

// read consumes all events. Lines that are not events are printed as they are.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if strings.HasPrefix(line, "{") {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil && e.Action != "" {
				r.add(&e)
				line = ""
			}
		}
		if line != "" {
			r.printf("%s", line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading test events: %w", err)
		}
	}
}

func (r *report) add(e *event) {
	id := testID{pkg: strings.TrimPrefix(e.Package, module), test: e.Test}
	switch e.Action {
	case "build-output":
		r.build[e.ImportPath] = append(r.build[e.ImportPath], e.Output)
	case "output":
		r.print(id, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(id, e)
		} else {
			r.endTest(id, e.Action)
		}
	}
}

// print keeps what a test prints until it is known to have failed. What a
// package prints itself is its closing line, or a crash: shown at once.
func (r *report) print(id testID, text string) {
	if id.test != "" {
		r.output[id] = append(r.output[id], text)
		return
	}
	switch text {
	case "PASS\n", "FAIL\n":
	default:
		r.printf("%s", text)
	}
}

func (r *report) endTest(id testID, action string) {
	before, again := r.outcomes[id]
	now := map[string]outcome{"skip": skipped, "pass": passed, "fail": failed}[action]
	if !again || now > before {
		r.outcomes[id] = now
	}
	switch now {
	case failed:
		r.printf("%s", strings.Join(r.output[id], ""))
	case skipped:
		r.reasons[id] = skipReason(r.output[id])
	case passed:
	}
	delete(r.output, id)
}

// endPackage counts a package that failed, even when no test of it did, and
// shows what tests that never ended had printed.
func (r *report) endPackage(id testID, e *event) {
	if e.Action != "fail" {
		return
	}
	r.broken = append(r.broken, id.pkg)
	r.printf("%s", strings.Join(r.build[e.FailedBuild], ""))
	delete(r.build, e.FailedBuild)
	ids := slices.SortedFunc(maps.Keys(r.output), testID.compare)
	for _, open := range ids {
		if open.pkg == id.pkg {
			r.outcomes[open] = failed
			r.printf("%s", strings.Join(r.output[open], ""))
			delete(r.output, open)
		}
	}
}

// skipReason finds the words of t.Skip in what a test printed: the last line
// that is not the framework's.
func skipReason(output []string) string {
	for _, line := range slices.Backward(strings.Split(strings.Join(output, ""), "\n")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "---") || strings.HasPrefix(line, "===") {
			continue
		}
		return line
	}
	return "(no reason)"
}

// ended returns the tests with that outcome, ordered.
func (r *report) ended(o outcome) []testID {
	var ids []testID
	for id, got := range r.outcomes {
		if got == o {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, testID.compare)
	return ids
}

// finish prints the summary; the error is why the run is not good.
func (r *report) finish(allowed allowList) error {
	pass, fail, skip := r.ended(passed), r.ended(failed), r.ended(skipped)
	var faults []error
	if len(fail) > 0 {
		r.printf("\nfailed:\n")
		for _, id := range fail {
			r.printf("  %s\n", id)
		}
		faults = append(faults, errors.New("tests failed"))
	}
	if len(r.broken) > 0 && len(fail) == 0 {
		faults = append(faults, fmt.Errorf("packages failed: %s", strings.Join(r.broken, ", ")))
	}
	if len(pass)+len(fail) == 0 {
		faults = append(faults, errors.New("no test ran"))
	}
	if err := r.printSkips(skip, allowed); err != nil {
		faults = append(faults, err)
	}
	r.printf("%d passed, %d failed, %d skipped\n", len(pass), len(fail), len(skip))
	return errors.Join(append(faults, r.writing)...)
}

func (r *report) printSkips(skip []testID, allowed allowList) error {
	r.printf("\n%d skipped\n", len(skip))
	unlisted := 0
	for _, id := range skip {
		mark := ""
		if _, ok := allowed[id]; !ok {
			mark = " [not on the list of allowed skips]"
			unlisted++
		}
		r.printf("  %s: %s%s\n", id, r.reasons[id], mark)
	}
	for _, id := range allowed.stale(skip) {
		r.printf("  (%s is allowed to be skipped, and was not)\n", id)
	}
	if unlisted > 0 {
		return fmt.Errorf("%d tests were skipped that are not on the list of allowed skips", unlisted)
	}
	return nil
}
