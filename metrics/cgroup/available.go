package cgroup

import (
	"bytes"
	"os"
	"path"
	"strconv"
	"strings"
)

// Available is how much memory this process may use: the machine's, or the least
// limit of the cgroups it is in. What cannot be read does not limit; 0 means that
// nothing could be.
func Available() int64 {
	meminfo, _ := os.ReadFile("/proc/meminfo")
	membership, _ := os.ReadFile("/proc/self/cgroup")
	layout, err := Detect()
	if err != nil {
		return memoryOf(meminfo, nil, nil)
	}
	return memoryOf(meminfo, membership, func(path string) int64 {
		r, err := layout.Open(path)
		if err != nil {
			return 0 // not there, or the root, which has no limit
		}
		defer func() { _ = r.Close() }()
		sample, _ := r.Sample()
		return sample.MemoryLimit
	})
}

// memoryOf is the least of the total in meminfo and the limits above 0 of the
// cgroups in membership and those they are in.
func memoryOf(meminfo, membership []byte, limit func(path string) int64) int64 {
	least := total(meminfo)
	for line := range bytes.Lines(membership) {
		fields := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(fields) != 3 || fields[1] != "" && fields[1] != "memory" {
			continue
		}
		for p := "/" + fields[2]; p != ""; {
			if n := limit(path.Clean(p)); n > 0 && (least == 0 || n < least) {
				least = n
			}
			p = p[:strings.LastIndex(p, "/")]
		}
	}
	return least
}

func total(meminfo []byte) (bytes int64) {
	for line := range strings.Lines(string(meminfo)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemTotal:" {
			kibibytes, _ := strconv.ParseInt(fields[1], 10, 64)
			return kibibytes << 10
		}
	}
	return 0
}
