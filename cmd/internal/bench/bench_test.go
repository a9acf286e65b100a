package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLoadCallsFromManyAtOnceUntilTheTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		res := load(t.Context(), 4, time.Second, func(context.Context) error {
			time.Sleep(100 * time.Millisecond)
			if calls.Add(1)%11 == 0 {
				return errors.New("every eleventh fails")
			}
			return nil
		})
		// A call that begins at the very end still counts: 4 callers, 11 calls each.
		if got := int64(len(res.latencies) + res.errs); got != calls.Load() || got != 44 || res.errs != 4 {
			t.Errorf("%d calls, %d results, %d of them errors; want 44, 44, 4", calls.Load(), got, res.errs)
		}
		if res.firstErr == nil || res.percentile(50) != 100*time.Millisecond || res.took != 1100*time.Millisecond {
			t.Errorf("first error %v, p50 %s, took %s", res.firstErr, res.percentile(50), res.took)
		}
	})
}

func TestALineTellsLatencyThroughputAndCPUPerInvoke(t *testing.T) {
	res := result{took: 2 * time.Second}
	for i := 1; i <= 100; i++ {
		res.latencies = append(res.latencies, time.Duration(i)*time.Millisecond)
	}
	line := res.line(16, times{"hearth-agent": 100 * time.Millisecond})
	want := []string{"16", "50", "50000", "µs", "90000", "µs", "99000", "µs", "0", "0", "µs", "1000", "µs", "0", "µs", "0", "µs"}
	if diff := cmp.Diff(want, strings.Fields(line)); diff != "" {
		t.Error(diff)
	}
}

func TestReadsCPUTimesByProcessName(t *testing.T) {
	proc := t.TempDir()
	for pid, line := range map[string]string{
		"1":  "1 (systemd) S 0 1 1 0 -1 4194560 1 1 1 1 900 900 0 0 20 0",
		"20": "20 (hearth-agent) S 1 1 1 0 -1 4194560 1 1 1 1 150 50 0 0 20 0",
		"21": "21 (hearth-agent) S 1 1 1 0 -1 4194560 1 1 1 1 1 0 0 0 20 0",
		"22": "22 (we (i) rd) S 1 1 1 0 -1 4194560 1 1 1 1 1 0 0 0 20 0",
	} {
		if err := os.MkdirAll(filepath.Join(proc, pid), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "stat"), []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := cpuTimes(proc)
	if err != nil {
		t.Fatal(err)
	}
	want := times{"hearth-control": 0, "hearth-agent": 2010 * time.Millisecond, "bootstrap": 0, "bench": 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	used := got.since(times{"hearth-agent": time.Second, "bench": time.Second})
	if used["hearth-agent"] != 1010*time.Millisecond || used["bench"] != 0 {
		t.Errorf("used %v", used)
	}
}

func TestOddStatLinesAreErrors(t *testing.T) {
	for _, line := range []string{"", "1 systemd S", "1 (systemd) S 0 1", "1 (x) S 1 1 1 0 -1 4194560 1 1 1 1 many 50 0"} {
		if _, _, err := parseStat(line); err == nil {
			t.Errorf("parseStat(%q) succeeded", line)
		}
	}
}

func TestEventuallyGivesUpAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := eventually(t.Context(), "pigs fly", func() (bool, error) { return false, nil })
		if !errors.Is(err, errTooLong) || time.Since(began) != time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestRefusesConcurrenciesItCannotMeasure(t *testing.T) {
	for _, list := range []string{"", "0", "65", "1,x"} {
		if err := run(t.Context(), io.Discard, time.Second, list, ""); err == nil || !strings.Contains(err.Error(), "concurrency") {
			t.Errorf("concurrency %q: %v", list, err)
		}
	}
}
