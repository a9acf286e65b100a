package leftovers

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFindsCgroupsOfBothVersions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ files, dirs, want []string }{
		"version 1": {
			dirs: []string{"cpu,cpuacct/ours/a", "memory/ours", "pids/theirs"},
			want: []string{"cpu,cpuacct/ours", "cpu,cpuacct/ours/a", "memory/ours"},
		},
		"version 2 has files at its root": {
			files: []string{"cgroup.controllers", "cgroup.procs"},
			dirs:  []string{"ours/a", "system.slice/theirs"},
			want:  []string{"ours", "ours/a"},
		},
		"nothing": {files: []string{"cgroup.controllers"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mount := t.TempDir()
			for _, dir := range c.dirs {
				if err := os.MkdirAll(filepath.Join(mount, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range c.files {
				if err := os.WriteFile(filepath.Join(mount, file), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			var want []string
			for _, dir := range c.want {
				want = append(want, "cgroup "+filepath.Join(mount, dir))
			}
			got, err := Scope{Cgroups: []string{"/ours"}}.cgroups(mount)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
