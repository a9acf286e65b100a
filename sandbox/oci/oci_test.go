package oci_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/oci"
)

var update = flag.Bool("update", false, "rewrite golden files")

func example() (sandbox.Spec, oci.Host) {
	spec := sandbox.Spec{
		ID:     "e-1",
		Image:  sandbox.Image{Ref: "builtin:static"},
		Args:   []string{"/var/task/bootstrap:/opt/bootstrap", "app.handler"},
		Env:    []string{"A=1", "EMPTY="},
		User:   sandbox.User{UID: 993, GID: 990},
		Mounts: []sandbox.Mount{{Source: "/data/code/abc", Target: "/var/task"}},
		Limits: sandbox.Limits{CPU: 1500, Memory: 512 << 20, Tmp: 64 << 20, PIDs: 1024, OpenFiles: 4096},
	}
	return spec, oci.Host{
		InitPath: "/usr/bin/hearth-init", NetNS: "/data/netns/e-1", TmpDir: "/data/tmp/e-1",
		HostsFile: "/data/hosts", ResolvConf: "/data/resolv.conf", CgroupsPath: "/hearth/i-1/e-1",
	}
}

func TestSpecMatchesTheGoldenFile(t *testing.T) {
	t.Parallel()
	s, h := example()
	spec, err := oci.Spec(s, h)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	golden := filepath.Join("testdata", "spec.golden.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("spec differs from %s (-want +got):\n%s", golden, diff)
	}
}

func TestInvariant1NoPrivilege(t *testing.T) {
	t.Parallel()
	s, h := example()
	spec, err := oci.Spec(s, h)
	if err != nil {
		t.Fatal(err)
	}
	p := spec.Process
	if p.User.UID != 993 || p.User.GID != 990 || len(p.User.AdditionalGids) != 0 {
		t.Errorf("user is %+v", p.User)
	}
	c := p.Capabilities
	for name, set := range map[string][]string{
		"bounding": c.Bounding, "effective": c.Effective, "inheritable": c.Inheritable,
		"permitted": c.Permitted, "ambient": c.Ambient,
	} {
		if len(set) != 0 {
			t.Errorf("%s capabilities are %v, want none", name, set)
		}
	}
	if !p.NoNewPrivileges {
		t.Error("no_new_privs is not set")
	}
}

func TestTheKernelPrefersNoSandboxToItsHost(t *testing.T) {
	t.Parallel()
	s, h := example()
	spec, err := oci.Spec(s, h)
	if err != nil {
		t.Fatal(err)
	}
	if adj := spec.Process.OOMScoreAdj; adj == nil || *adj != 0 {
		t.Errorf("oom_score_adj is %v, want 0: without one it is containerd's", adj)
	}
}

func TestInvariant2ReadOnlyButTmpAndShm(t *testing.T) {
	t.Parallel()
	s, h := example()
	spec, err := oci.Spec(s, h)
	if err != nil {
		t.Fatal(err)
	}
	if !spec.Root.Readonly {
		t.Error("root is writable")
	}
	writable := []string{"/proc", "/dev/shm", "/tmp"}
	for _, m := range spec.Mounts {
		if !slices.Contains(m.Options, "nosuid") {
			t.Errorf("mount %s allows setuid", m.Destination)
		}
		if ro := slices.Contains(m.Options, "ro"); ro == slices.Contains(writable, m.Destination) {
			t.Errorf("mount %s: read-only is %v", m.Destination, ro)
		}
	}
}

func TestTheSmallestQuotaIsTheKernels(t *testing.T) {
	t.Parallel()
	s, h := example()
	s.Limits.CPU = 10
	spec, err := oci.Spec(s, h)
	if err != nil {
		t.Fatal(err)
	}
	if got := *spec.Linux.Resources.CPU.Quota; got != 1000 {
		t.Errorf("quota is %d, want 1000 microseconds", got)
	}
}

func TestRefusesWhatCannotRun(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sandbox.Spec){
		"empty id":           func(s *sandbox.Spec) { s.ID = "" },
		"upper-case id":      func(s *sandbox.Spec) { s.ID = "E1" },
		"id with slash":      func(s *sandbox.Spec) { s.ID = "../a" },
		"leading hyphen":     func(s *sandbox.Spec) { s.ID = "-a" },
		"long id":            func(s *sandbox.Spec) { s.ID = sandbox.ID(make([]byte, 64)) },
		"no args":            func(s *sandbox.Spec) { s.Args = nil },
		"empty command":      func(s *sandbox.Spec) { s.Args = []string{""} },
		"root":               func(s *sandbox.Spec) { s.User.UID = 0 },
		"root group":         func(s *sandbox.Spec) { s.User.GID = 0 },
		"relative directory": func(s *sandbox.Spec) { s.WorkingDir = "var" },
		"cpu":                func(s *sandbox.Spec) { s.Limits.CPU = 9 },
		"memory":             func(s *sandbox.Spec) { s.Limits.Memory = 1 },
		"tmp":                func(s *sandbox.Spec) { s.Limits.Tmp = 1 },
		"pids":               func(s *sandbox.Spec) { s.Limits.PIDs = 0 },
		"open files":         func(s *sandbox.Spec) { s.Limits.OpenFiles = 0 },
		"relative mount":     func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "a", Target: "/b"}} },
		"mount on root":      func(s *sandbox.Spec) { s.Mounts = []sandbox.Mount{{Source: "/a", Target: "/."}} },
		"env without name":   func(s *sandbox.Spec) { s.Env = []string{"=x"} },
		"env without equals": func(s *sandbox.Spec) { s.Env = []string{"x"} },
		"env with NUL":       func(s *sandbox.Spec) { s.Env = []string{"x=\x00"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, h := example()
			change(&s)
			if _, err := oci.Spec(s, h); !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
}
