//go:build node

package containerd_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/containerd"
)

func TestAllSandboxesTogetherAreLimited(t *testing.T) {
	cfg := config(t)
	out := &printed{lines: map[sandbox.ID][]string{}}
	cfg.Output, cfg.CgroupLimits = out.record, containerd.CgroupLimits{CPU: 1500, Memory: 40 << 20}
	w := world{open(t, cfg), cfg, out}
	if _, err := w.Pull(t.Context(), static); err != nil {
		t.Fatal(err)
	}
	w.run(t, "greedy", "allocate", strconv.Itoa(48<<20)) // of 64 MiB of its own
	await(t, "the end", func() bool { return stopped(t, w.Driver, "greedy") })
	if exit := status(t, w.Driver, "greedy").Exit; exit.Code != 137 || !exit.OOMKilled {
		t.Errorf("48 MiB where all have 40: %+v", exit)
	}
	if got := cpuQuota(t, cfg.CgroupParent); got != "150000" {
		t.Errorf("the quota of all together is %s microseconds, want 150000", got)
	}
	big := spec(t, "big", "exit", "0")
	big.Limits.CPU = 1501
	if _, err := w.Create(t.Context(), big); !errdefs.IsInvalidArgument(err) {
		t.Errorf("more cpu than all together: %v, want InvalidArgument", err)
	}
}

// cpuQuota reads the quota of a cgroup from either version.
func cpuQuota(t *testing.T, cgroup string) string {
	t.Helper()
	for _, file := range []string{"cpu/%/cpu.cfs_quota_us", "cpu,cpuacct/%/cpu.cfs_quota_us", "%/cpu.max"} {
		content, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", strings.Replace(file, "%", cgroup, 1)))
		if err == nil {
			return strings.Fields(string(content))[0]
		}
	}
	t.Fatalf("no quota of %s", cgroup)
	return ""
}
