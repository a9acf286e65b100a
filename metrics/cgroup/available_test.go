package cgroup

import "testing"

func TestMemoryIsTheMachinesOrTheLeastLimitOfItsCgroups(t *testing.T) {
	t.Parallel()
	const meminfo = "MemFree:  1 kB\nMemTotal:       8388608 kB\nSwapTotal: 5 kB\n"
	for name, c := range map[string]struct {
		meminfo, membership string
		limits              map[string]int64
		want                int64
	}{
		"no limit":             {meminfo, "0::/system.slice/hearth.service\n", nil, 8 << 30},
		"its own, version 2":   {meminfo, "0::/system.slice/hearth.service\n", map[string]int64{"/system.slice/hearth.service": 1 << 30}, 1 << 30},
		"one it is in":         {meminfo, "0::/a/b\n", map[string]int64{"/a/b": 2 << 30, "/a": 1 << 30}, 1 << 30},
		"a container's root":   {meminfo, "0::/\n", map[string]int64{"/": 3 << 30}, 3 << 30},
		"version 1":            {meminfo, "7:cpu,cpuacct:/x\n4:memory:/docker/1\n", map[string]int64{"/x": 1, "/docker/1": 1 << 29}, 1 << 29},
		"more than there is":   {meminfo, "0::/a\n", map[string]int64{"/a": 64 << 30}, 8 << 30},
		"nothing can be read":  {"", "", nil, 0},
		"no total, only limit": {"", "0::/a\n", map[string]int64{"/a": 5}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := memoryOf([]byte(c.meminfo), []byte(c.membership), func(path string) int64 { return c.limits[path] })
			if got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestSomeMemoryIsAvailable(t *testing.T) {
	t.Parallel()
	if n := Available(); n < 64<<20 {
		t.Errorf("%d bytes", n)
	}
}
