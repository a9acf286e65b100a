package sampler

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/agent"
)

// fileSystem is asked again and again how full it is: it keeps its path as the
// kernel wants it, which unix.Statfs would allocate each time. An open file would
// do, too, but the file system could not be unmounted.
type fileSystem struct {
	path string
	name *byte
	stat unix.Statfs_t
}

// fill is how much of the file system at path is used, how much anyone but root may
// still write, and its size. All are 0 if it cannot be read.
func (f *fileSystem) fill(path string) (used, left, total agent.Bytes) {
	if path == "" {
		return 0, 0, 0
	}
	if f.name == nil || f.path != path {
		name, err := syscall.BytePtrFromString(path)
		if err != nil {
			return 0, 0, 0
		}
		f.path, f.name = path, name
	}
	_, _, failed := unix.Syscall(unix.SYS_STATFS,
		uintptr(unsafe.Pointer(f.name)), uintptr(unsafe.Pointer(&f.stat)), 0) //nolint:gosec // G103: as unix.Statfs does
	if failed != 0 {
		return 0, 0, 0
	}
	st, block := &f.stat, agent.Bytes(f.stat.Bsize)
	return agent.Bytes(st.Blocks-st.Bfree) * block, agent.Bytes(st.Bavail) * block, agent.Bytes(st.Blocks) * block //nolint:gosec // sizes of real disks
}
