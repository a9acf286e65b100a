package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/sandbox"
)

func TestLinesDoNotDependOnHowTheyArrive(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", sandbox.MaxLine)
	text := "a\n\nb\r\n" + long + "\n" + long + "yz\nlast"
	want := []string{"a", "", "b", long, long, "yz", "last"}
	for _, size := range []int{1, 7, 4096, len(text)} {
		var got []string
		l := &lines{deliver: func(line []byte) { got = append(got, string(line)) }}
		for chunk := range slices.Chunk([]byte(text), size) {
			if n, err := l.Write(chunk); n != len(chunk) || err != nil {
				t.Fatalf("Write returned %d, %v", n, err)
			}
		}
		l.flush()
		if !slices.Equal(got, want) {
			t.Errorf("in pieces of %d: got %d lines, want %d", size, len(got), len(want))
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\r\n\nc"), 3)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		if size < 1 || len(text) == 0 {
			return
		}
		var got strings.Builder
		l := &lines{deliver: func(line []byte) {
			if len(line) > sandbox.MaxLine || strings.ContainsRune(string(line), '\n') {
				t.Errorf("no line: %.40q", line)
			}
			got.Write(line)
		}}
		for chunk := range slices.Chunk(text, size) {
			_, _ = l.Write(chunk)
		}
		l.flush()
		plain := strings.NewReplacer("\n", "", "\r", "")
		if plain.Replace(got.String()) != plain.Replace(string(text)) {
			t.Error("text was lost or made up")
		}
	})
}

func TestResolversOnlyTheHostReachesAreLeftOut(t *testing.T) {
	t.Parallel()
	got, ok := reachable("search example.org\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\noptions edns0\n")
	if want := "search example.org\nnameserver 10.0.0.2\noptions edns0\n"; got != want || !ok {
		t.Errorf("got %q %v, want %q", got, ok, want)
	}
	if _, ok := reachable("nameserver 127.0.0.53\n"); ok {
		t.Error("a file without a resolver we can reach is taken")
	}
}

func TestFindsTheHierarchyOfAController(t *testing.T) {
	t.Parallel()
	const hybrid = `31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
36 33 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
35 31 0:32 /docker/1 /elsewhere rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	hs := parseHierarchies([]byte(hybrid))
	for controller, want := range map[string]string{
		"cpu": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory", "pids": "/sys/fs/cgroup/unified",
	} {
		if got, ok := with(hs, controller); !ok || got.mount != want {
			t.Errorf("%s is at %q, want %s", controller, got.mount, want)
		}
	}
	if got, ok := with(nil, "cpu"); ok {
		t.Errorf("found %+v in nothing", got)
	}
}

func TestTheParentGoesOnlyWhenNobodyElseHasCgroupsBelowIt(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ make, want []string }{
		"only ours":          {[]string{"a/b/sandbox-1/deep", "a/b/sandbox-2"}, nil},
		"others below it":    {[]string{"a/b/sandbox-1", "a/b/i-1/sandbox-1"}, []string{"a", "a/b", "a/b/i-1", "a/b/i-1/sandbox-1"}},
		"others beside it":   {[]string{"a/b/sandbox-1", "a/c"}, []string{"a", "a/c"}},
		"there is no parent": {[]string{"a/c"}, []string{"a", "a/c"}},
	} {
		mount := t.TempDir()
		for _, dir := range tc.make {
			if err := os.MkdirAll(filepath.Join(mount, dir), 0o750); err != nil {
				t.Fatal(err)
			}
		}
		if err := removeParent(mount, "/a/b"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var left []string
		if err := filepath.WalkDir(mount, func(path string, _ os.DirEntry, err error) error {
			if rel, _ := filepath.Rel(mount, path); rel != "." {
				left = append(left, rel)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tc.want, left); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestLimitsOfBothVersions(t *testing.T) {
	t.Parallel()
	limits := CgroupLimits{CPU: 1500, Memory: 8 << 30}
	got := map[string][]setting{
		"v1 cpu": limits.cpuFiles(false), "v2 cpu": limits.cpuFiles(true),
		"v1 memory": limits.memoryFiles(false), "v2 memory": limits.memoryFiles(true),
		"v1 no cpu": CgroupLimits{}.cpuFiles(false), "v2 no cpu": CgroupLimits{}.cpuFiles(true),
		"v1 no memory": CgroupLimits{}.memoryFiles(false), "v2 no memory": CgroupLimits{}.memoryFiles(true),
	}
	want := map[string][]setting{
		"v1 cpu":       {{file: "cpu.cfs_period_us", value: "100000"}, {file: "cpu.cfs_quota_us", value: "150000"}},
		"v1 no cpu":    {{file: "cpu.cfs_period_us", value: "100000"}, {file: "cpu.cfs_quota_us", value: "-1"}},
		"v2 cpu":       {{file: "cpu.max", value: "150000 100000"}},
		"v2 no cpu":    {{file: "cpu.max", value: "max 100000"}},
		"v2 memory":    {{file: "memory.max", value: "8589934592"}, {file: "memory.swap.max", value: "0", optional: true}},
		"v2 no memory": {{file: "memory.max", value: "max"}, {file: "memory.swap.max", value: "max", optional: true}},
		"v1 memory": {
			{file: "memory.memsw.limit_in_bytes", value: "-1", optional: true},
			{file: "memory.limit_in_bytes", value: "8589934592"},
			{file: "memory.memsw.limit_in_bytes", value: "8589934592", optional: true},
		},
		"v1 no memory": {
			{file: "memory.memsw.limit_in_bytes", value: "-1", optional: true},
			{file: "memory.limit_in_bytes", value: "-1"},
		},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(setting{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReadsCountersOfTheKernel(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]int64{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n": 3, "oom 5\noom_kill 2\noom_group_kill 1\n": 2, "": 0, "oom_kill x": 0,
	} {
		if got := counter([]byte(content), "oom_kill"); got != want {
			t.Errorf("%q: got %d, want %d", content, got, want)
		}
	}
}

func TestEveryErrorHasAClass(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err error
		is  func(error) bool
	}{
		"of containerd's client": {fmt.Errorf("x: %w", errdefs.ErrNotFound), errdefs.IsNotFound},
		"over gRPC":              {status.Error(codes.AlreadyExists, "x"), errdefs.IsAlreadyExists},
		"connection":             {status.Error(codes.Unavailable, "x"), errdefs.IsUnavailable},
		"unknown over gRPC":      {status.Error(codes.Unknown, "x"), errdefs.IsUnavailable},
		"of the host":            {errors.New("x"), errdefs.IsUnavailable},
		"cancelled":              {context.Canceled, errdefs.IsCanceled},
	} {
		if got := classify(c.err); !c.is(got) {
			t.Errorf("%s: %v has another class", name, got)
		}
	}
	if unlessNotFound(status.Error(codes.NotFound, "x")) != nil || unlessNotFound(nil) != nil {
		t.Error("NotFound is an error to those who delete")
	}
}

func TestALockIsForOneSandboxAndCanBeWaitedForInVain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := keyed{held: map[sandbox.ID]*slot{}}
		unlock, err := k.lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if other, err := k.lock(t.Context(), "b"); err != nil {
			t.Errorf("another sandbox: %v", err)
		} else {
			other()
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		if _, err := k.lock(ctx, "a"); err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("waiting in vain: %v", err)
		}
		got := make(chan struct{})
		go func() {
			defer close(got)
			if next, err := k.lock(t.Context(), "a"); err != nil {
				t.Error(err)
			} else {
				next()
			}
		}()
		synctest.Wait()
		select {
		case <-got:
			t.Error("two had the lock")
		default:
		}
		unlock()
		<-got
		if len(k.held) != 0 {
			t.Errorf("%d locks are kept for nobody", len(k.held))
		}
	})
}
