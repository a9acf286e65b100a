package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// events writes what go test -json prints, one line "action test [output]" each.
func events(pkg string, lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		action, rest, _ := strings.Cut(line, " ")
		test, output, _ := strings.Cut(rest, " ")
		b.WriteString(`{"Action":"` + action + `","Package":"` + module + pkg + `"`)
		if test != "" && test != "-" {
			b.WriteString(`,"Test":"` + test + `"`)
		}
		if output != "" {
			b.WriteString(`,"Output":"` + strings.ReplaceAll(output, "\t", `\t`) + `\n"`)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func reportOn(t *testing.T, input, allowed string) (string, error) {
	t.Helper()
	list := filepath.Join(t.TempDir(), "allowed")
	if err := os.WriteFile(list, []byte(allowed), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err := run(strings.NewReader(input), &out, list)
	return out.String(), err
}

func TestAGoodRunShowsClosingLinesAndTotalOnly(t *testing.T) {
	out, err := reportOn(t, events("metrics",
		"run TestA", "output TestA === RUN   TestA", "output TestA chatter", "pass TestA",
		"output - PASS", "output - ok  \tmetrics\t0.1s", "pass -",
	), "")
	if err != nil {
		t.Fatal(err)
	}
	want := "ok  \tmetrics\t0.1s\n\n0 skipped\n1 passed, 0 failed, 0 skipped\n"
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
}

func TestAFailureIsShownWithItsOutputAndNamed(t *testing.T) {
	out, err := reportOn(t, events("agent",
		"output TestBad bad_test.go:7: got 1, want 2", "output TestGood quiet", "pass TestGood",
		"fail TestBad", "fail -",
	), "")
	if err == nil || !strings.Contains(err.Error(), "tests failed") {
		t.Errorf("err = %v, want one saying that tests failed", err)
	}
	for _, want := range []string{"bad_test.go:7: got 1, want 2\n", "failed:\n  agent TestBad\n", "\n1 passed, 1 failed, 0 skipped\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("report lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "quiet") {
		t.Errorf("report shows the output of a test that passed:\n%s", out)
	}
}

func TestASkipNotOnTheListFailsTheRun(t *testing.T) {
	input := events("sandbox/containerd",
		"output TestNode node_test.go:9: needs root", "output TestNode --- SKIP: TestNode (0.00s)", "skip TestNode",
		"pass TestOther", "pass -",
	)
	out, err := reportOn(t, input, "")
	if err == nil || !strings.Contains(err.Error(), "1 tests were skipped") {
		t.Errorf("err = %v, want one about the skipped test", err)
	}
	if want := "1 skipped\n  sandbox/containerd TestNode: node_test.go:9: needs root [not on the list"; !strings.Contains(out, want) {
		t.Errorf("report lacks %q:\n%s", want, out)
	}

	out, err = reportOn(t, input, "# comment\n\nsandbox/containerd TestNode only on cgroup v2 hosts\n")
	if err != nil {
		t.Errorf("with the skip on the list: %v\n%s", err, out)
	}
	if !strings.HasSuffix(out, "\n1 passed, 0 failed, 1 skipped\n") {
		t.Errorf("report does not end with the total:\n%s", out)
	}
}

func TestASkippedTestThatRanInAnotherRunCountsAsRun(t *testing.T) {
	input := events("sandbox/oci", "output TestRoot needs root", "skip TestRoot", "pass -") +
		events("sandbox/oci", "pass TestRoot", "pass -")
	out, err := reportOn(t, input, "")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.HasSuffix(out, "\n1 passed, 0 failed, 0 skipped\n") {
		t.Errorf("report:\n%s", out)
	}
}

func TestAFailureInOneRunIsNotForgivenByAnother(t *testing.T) {
	input := events("agent", "fail TestA", "fail -") + events("agent", "pass TestA", "pass -")
	if out, err := reportOn(t, input, ""); err == nil {
		t.Errorf("no error:\n%s", out)
	}
}

func TestABrokenBuildFailsTheRunWithTheCompilersWords(t *testing.T) {
	input := `{"ImportPath":"x [x.test]","Action":"build-output","Output":"x.go:3: undefined: y\n"}
{"ImportPath":"x [x.test]","Action":"build-fail"}
{"Action":"fail","Package":"` + module + `x","FailedBuild":"x [x.test]"}
` + events("agent", "pass TestA", "pass -")
	out, err := reportOn(t, input, "")
	if err == nil || !strings.Contains(err.Error(), "packages failed: x") {
		t.Errorf("err = %v, want one naming the package", err)
	}
	if !strings.Contains(out, "x.go:3: undefined: y\n") {
		t.Errorf("report lacks the compiler's output:\n%s", out)
	}
}

func TestATestCutOffByACrashCountsAsFailed(t *testing.T) {
	out, err := reportOn(t, events("agent", "output TestA starting", "output - panic: oh", "fail -"), "")
	if err == nil {
		t.Error("no error")
	}
	for _, want := range []string{"panic: oh\n", "starting\n", "0 passed, 1 failed, 0 skipped\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("report lacks %q:\n%s", want, out)
		}
	}
}

func TestARunWithoutTestsIsNoGoodRun(t *testing.T) {
	out, err := reportOn(t, "go: command failed\n", "")
	if err == nil || !strings.Contains(err.Error(), "no test ran") {
		t.Errorf("err = %v, want no test ran", err)
	}
	if !strings.HasPrefix(out, "go: command failed\n") {
		t.Errorf("lines that are no events are not passed on:\n%s", out)
	}
}

func TestAListWithoutReasonsIsRefused(t *testing.T) {
	for _, list := range []string{"agent TestA", "agent", "agent TestA why\nagent TestA again"} {
		if _, err := parseAllowed(list); err == nil {
			t.Errorf("parseAllowed(%q) succeeded", list)
		}
	}
}
