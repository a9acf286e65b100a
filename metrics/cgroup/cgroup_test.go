package cgroup_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/metrics/cgroup"
)

func TestFindsTheLayoutOfEveryKindOfHost(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]cgroup.Layout{
		"hybrid": {
			Controllers: map[string]string{"cpu": "/sys/fs/cgroup/cpu", "cpuacct": "/sys/fs/cgroup/cpuacct", "memory": "/sys/fs/cgroup/memory"},
			Unified:     "/sys/fs/cgroup/unified",
		},
		"legacy": {Controllers: map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory",
		}},
		"unified": {Controllers: map[string]string{}, Unified: "/sys/fs/cgroup"},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(want, cgroup.ParseMountinfo(read(t, "mountinfo", file))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// layouts are those of the captured cgroups in testdata.
func layouts() map[string]cgroup.Layout {
	return map[string]cgroup.Layout{
		"v1": {
			Controllers: map[string]string{"cpu": "testdata/v1/cpu", "cpuacct": "testdata/v1/cpuacct", "memory": "testdata/v1/memory"},
			Unified:     "testdata/v2", // hybrid: there, but not for these controllers
		},
		"v2": {Unified: "testdata/v2"},
	}
}

func TestReadsBothVersions(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]cgroup.Sample{
		"v1": {CPU: 209768198, Throttled: 493890445, Memory: 10043392 - 8626176, MemoryLimit: 64 << 20},
		"v2": {
			CPU: 7297013 * time.Microsecond, Throttled: 4265447 * time.Microsecond, Memory: 21196800 - 20971520, MemoryLimit: 32 << 20, OOMKills: 1,
			Stalled: cgroup.Stalls{Memory: 1456644 * time.Microsecond},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := layouts()[name].Open("/hearth/e-1")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second read starts at the beginning again
				got, err := r.Sample()
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAQuickSampleLeavesWhatIsDearAsItWas(t *testing.T) {
	t.Parallel()
	dir, r := changed(t, map[string]string{"cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=50\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=30\n"})
	before, err := r.Sample()
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, dir, map[string]string{
		"cpu.stat": "usage_usec 8000000\nthrottled_usec 5000000\n", "memory.current": "30971520\n",
		"memory.stat": "inactive_file 0\n", "memory.max": "1\n", "memory.events": "oom_kill 9\n", "memory.pressure": "some total=9\n",
	})
	if before.Stalled.CPU != 30*time.Microsecond {
		t.Errorf("stalled %v, want what the line full says", before.Stalled.CPU)
	}
	want := before
	want.CPU, want.Throttled, want.Memory = 8*time.Second, 5*time.Second, 10_000_000
	got, err := r.Quick()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err = r.Sample(); err != nil || got.Memory != 30971520 || got.MemoryLimit != 1 || got.OOMKills != 9 || got.Stalled.Memory != 9*time.Microsecond {
		t.Errorf("then everything: %+v, %v", got, err)
	}
}

// changed is a cgroup of a unified host whose files were rewritten before it was
// opened.
func changed(t *testing.T, files map[string]string) (string, *cgroup.Reader) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/v2/hearth/e-1")); err != nil {
		t.Fatal(err)
	}
	rewrite(t, dir, files)
	r, err := cgroup.Layout{Unified: dir}.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return dir, r
}

func rewrite(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMaxIsNoLimit(t *testing.T) {
	t.Parallel()
	_, r := changed(t, map[string]string{"memory.max": "max\n"})
	if s, err := r.Sample(); err != nil || s.MemoryLimit != 0 || s.Memory == 0 {
		t.Errorf("got %+v, %v, want no limit", s, err)
	}
}

func TestSamplesWithoutAllocating(t *testing.T) {
	for name, l := range layouts() {
		r, err := l.Open("/hearth/e-1")
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := r.Sample(); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations a sample", name, n)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestACgroupThatIsNotThereIsNotFound(t *testing.T) {
	t.Parallel()
	for name, l := range layouts() {
		if _, err := l.Open("/hearth/e-2"); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v, want NotFound", name, err)
		}
	}
	if _, err := (cgroup.Layout{}).Open("/"); !errdefs.IsUnavailable(err) {
		t.Errorf("no hierarchy: %v, want Unavailable", err)
	}
}

func TestReadsThisHost(t *testing.T) {
	t.Parallel()
	l, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	r, err := cgroup.Open(ownCgroup(t, l))
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Sample()
	if err != nil {
		t.Fatal(err)
	}
	if s.CPU <= 0 || s.Memory <= 0 {
		t.Errorf("the cgroup of this process: %+v", s)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// ownCgroup is one that this process is in: with version 1 the root, which
// version 2 gives no memory files.
func ownCgroup(t testing.TB, l cgroup.Layout) string {
	t.Helper()
	if _, v1 := l.Controllers["memory"]; v1 {
		return "/"
	}
	content, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, path, _ := strings.Cut(strings.TrimSpace(string(content)), "0::")
	if _, err := os.Stat(filepath.Join(l.Unified, path, "memory.current")); err != nil {
		t.Skip("this process is in a cgroup without memory files")
	}
	return path
}

func TestParsesPressure(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		content string
		want    cgroup.Pressure
		bad     bool
	}{
		"captured": {content: string(read(t, "pressure", "memory")), want: captured()},
		"without full": {
			content: "some avg10=99.99 avg60=100.00 avg300=0.01 total=5\n",
			want:    cgroup.Pressure{Some: cgroup.Stall{Avg10: 99.99, Avg60: 100, Avg300: 0.01, Total: 5 * time.Microsecond}},
		},
		"of a newer kernel": {
			content: "some avg10=1.00 avg7=x total=1\nnext avg10=?\n",
			want:    cgroup.Pressure{Some: cgroup.Stall{Avg10: 1, Total: time.Microsecond}},
		},
		"a total beyond all time": {
			content: "some total=99999999999999999999\n",
			want:    cgroup.Pressure{Some: cgroup.Stall{Total: math.MaxInt64}},
		},
		"empty":         {bad: true},
		"no numbers":    {content: "some avg10=x", bad: true},
		"no total":      {content: "some total=", bad: true},
		"not a number":  {content: "some avg10=NaN", bad: true},
		"beyond 100":    {content: "some avg10=1e9", bad: true},
		"negative time": {content: "some total=-1", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := cgroup.ParsePressure([]byte(c.content))
			if c.bad != errdefs.IsInvalidArgument(err) || !c.bad && err != nil {
				t.Fatalf("error %v, bad %v", err, c.bad)
			}
			if diff := cmp.Diff(c.want, got); !c.bad && diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadsThePressureOfACgroup(t *testing.T) {
	t.Parallel()
	p, err := layouts()["v2"].Pressure("/hearth/e-1", cgroup.Memory)
	if err != nil || p.Some.Avg10 != 3.72 || p.Full.Total != 1456644*time.Microsecond {
		t.Errorf("got %+v, %v", p, err)
	}
	if _, err := layouts()["v2"].Pressure("/hearth/e-1", cgroup.IO); !errdefs.IsNotImplemented(err) {
		t.Errorf("a file that is missing: %v, want NotImplemented", err)
	}
	if _, err := layouts()["v2"].Pressure("/hearth/e-2", cgroup.IO); !errdefs.IsNotFound(err) {
		t.Errorf("a cgroup that is missing: %v, want NotFound", err)
	}
	if _, err := layouts()["v1"].Pressure("/hearth/e-1", cgroup.Memory); !errdefs.IsNotImplemented(err) {
		t.Errorf("version 1: %v, want NotImplemented", err)
	}
}

func TestReadsThePressureOfThisHost(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/pressure"); err != nil {
		t.Skip("this kernel has no pressure stall information")
	}
	for _, r := range []cgroup.Resource{cgroup.CPU, cgroup.Memory, cgroup.IO} {
		if _, err := cgroup.HostPressure(r); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
}

func FuzzParsePressure(f *testing.F) {
	f.Add(read(f, "pressure", "memory"))
	f.Add([]byte("some avg10=1.00 total=1\nfull"))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := cgroup.ParsePressure(content)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			return
		}
		for _, s := range []cgroup.Stall{p.Some, p.Full} {
			for _, x := range []float64{s.Avg10, s.Avg60, s.Avg300} {
				if math.IsNaN(x) || x < 0 || x > 100 {
					t.Errorf("%v is no percentage", x)
				}
			}
			if s.Total < 0 {
				t.Errorf("negative time %v", s.Total)
			}
		}
	})
}

func FuzzParseMountinfo(f *testing.F) {
	for _, name := range []string{"hybrid", "legacy", "unified"} {
		f.Add(read(f, "mountinfo", name))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		l := cgroup.ParseMountinfo(content)
		for c, mount := range l.Controllers {
			if mount == "" || strings.ContainsAny(mount, " \n") {
				t.Errorf("controller %s at %q", c, mount)
			}
		}
	})
}

// FuzzSample puts anything into the files of a cgroup: no panic, nothing
// negative.
func FuzzSample(f *testing.F) {
	f.Add([]byte("usage_usec 5\nthrottled_usec 1\n"), []byte("100\n"), []byte("anon 1\ninactive_file 7\n"))
	f.Add([]byte("usage_usec"), []byte("max"), []byte("inactive_file 99999999999999999999"))
	f.Fuzz(func(t *testing.T, stat, number, memory []byte) {
		dir := t.TempDir()
		for name, content := range map[string][]byte{
			"cpu.stat": stat, "memory.current": number, "memory.max": number, "memory.stat": memory, "memory.events": stat,
		} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r, err := cgroup.Layout{Unified: dir}.Open("/")
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Sample()
		if err != nil {
			t.Fatal(err)
		}
		if s.CPU < 0 || s.Throttled < 0 || s.Memory < 0 || s.MemoryLimit < 0 || s.OOMKills < 0 {
			t.Errorf("negative: %+v", s)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkThisHost reads the real files of the cgroup of this process.
func BenchmarkThisHost(b *testing.B) {
	l, err := cgroup.Detect()
	if err != nil {
		b.Fatal(err)
	}
	r, err := l.Open(ownCgroup(b, l))
	if err != nil {
		b.Fatal(err)
	}
	for name, read := range map[string]func() (cgroup.Sample, error){"quick": r.Quick, "whole": r.Sample} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSample(b *testing.B) {
	r, err := layouts()["v1"].Open("/hearth/e-1")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Sample(); err != nil {
			b.Fatal(err)
		}
	}
}

func read(t testing.TB, elem ...string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// captured is what testdata/pressure/memory says.
func captured() cgroup.Pressure {
	return cgroup.Pressure{
		Some: cgroup.Stall{Avg10: 0.00, Avg60: 0.00, Avg300: 0.00, Total: 4089 * time.Microsecond},
		Full: cgroup.Stall{Avg10: 0.00, Avg60: 0.00, Avg300: 0.00, Total: 1873 * time.Microsecond},
	}
}
