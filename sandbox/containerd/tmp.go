package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/sandbox"
)

// minSpace is what must be free for a sandbox to be created: what makeTmp and
// the network write, and something for those that run.
const minSpace = 16 << 20

// checkSpace refuses early, with a reason for people, what would fail half-way.
func (c Config) checkSpace() error {
	free, err := c.freeSpace()
	if err != nil {
		return err
	}
	if free < minSpace {
		return fmt.Errorf("the disk is full: %d bytes are free below %s, a sandbox needs %d: %w", free, c.DataDir, minSpace, errdefs.ErrResourceExhausted)
	}
	return nil
}

// freeSpace is what is free on disk for sandboxes.
func (c Config) freeSpace() (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.DataDir, &fs); err != nil {
		return 0, err
	}
	return fs.Bavail * uint64(fs.Bsize), nil //nolint:gosec // G115: a block is not negative
}

// makeTmp makes the file system on /tmp: ext4 without a journal in a sparse file
// of exactly size bytes, mounted by a loop device that goes with the mount.
func (d *Driver) makeTmp(ctx context.Context, id sandbox.ID, size sandbox.Bytes) error {
	image, dir := d.cfg.tmpImage(id), d.cfg.tmpDir(id)
	if err := sparse(image, int64(size)); err != nil {
		return classifyDisk(err)
	}
	mkfs := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", //nolint:gosec // G204: our own path
		"-b", "4096", "-I", "256", "-i", "16384", "-E", "nodiscard,lazy_itable_init=1", image)
	mkfs.Env = []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin"}
	if mkfs.Err != nil {
		mkfs.Path, mkfs.Err = "/usr/sbin/mkfs.ext4", nil // not in a daemon's PATH
	}
	if out, err := mkfs.CombinedOutput(); err != nil {
		return classifyDisk(fmt.Errorf("mkfs.ext4 %s: %w: %s", image, err, out))
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return classifyDisk(err)
	}
	m := mount.Mount{Type: "ext4", Source: image, Options: []string{"loop", "nosuid", "nodev", "noatime", "discard", "noinit_itable"}}
	if err := m.Mount(dir); err != nil {
		return fmt.Errorf("mounting %s: %w", image, err)
	}
	if err := os.Remove(filepath.Join(dir, "lost+found")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Chmod(dir, 0o777|os.ModeSticky)
}

func sparse(file string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // G304: below our data directory
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func classifyDisk(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w", errdefs.ErrResourceExhausted, err)
	}
	return err
}

// removeTmp undoes makeTmp, however far it came.
func (d *Driver) removeTmp(id sandbox.ID) error {
	dir := d.cfg.tmpDir(id)
	if err := unmount(dir); err != nil {
		return err
	}
	var errs []error
	for _, file := range []string{dir, d.cfg.tmpImage(id)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
