package cgroup_test

import (
	"os"
	"testing"

	"github.com/hearth-compute/hearth/metrics/cgroup"
)

func TestQuickReadsOnlyTheCPUTimeOfWhoUsedNone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/v2/hearth/e-1")); err != nil {
		t.Fatal(err)
	}
	r, err := cgroup.Layout{Unified: dir}.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, dir, map[string]string{"cpu.stat": "usage_usec 1000\n", "memory.current": "10000000\n", "memory.stat": "inactive_file 0\n"})
	if got, err := r.Sample(); err != nil || got.Memory != 10_000_000 {
		t.Fatalf("got %+v, %v", got, err)
	}
	rewrite(t, dir, map[string]string{"memory.current": "20000000\n"})
	if got, err := r.Quick(); err != nil || got.Memory != 10_000_000 {
		t.Errorf("idle: got %+v, %v", got, err)
	}
	if got, err := r.Sample(); err != nil || got.Memory != 20_000_000 {
		t.Errorf("everything: got %+v, %v", got, err)
	}
	rewrite(t, dir, map[string]string{"cpu.stat": "usage_usec 1001\n", "memory.current": "30000000\n"})
	if got, err := r.Quick(); err != nil || got.Memory != 30_000_000 {
		t.Errorf("at work: got %+v, %v", got, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
