package containerd

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onThread runs f on an operating system thread whose network namespace f may
// change. The thread goes back to the namespace it came from; if it cannot, it
// is thrown away.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			origin, err := os.Open(threadNetNS())
			if err != nil {
				runtime.UnlockOSThread()
				return err
			}
			err = f()
			if back := unix.Setns(int(origin.Fd()), unix.CLONE_NEWNET); back == nil {
				runtime.UnlockOSThread()
			}
			_ = origin.Close()
			return err
		}()
	}()
	return <-done
}

// inNetNS runs f inside the network namespace at path.
func inNetNS(path string, f func() error) error {
	return onThread(func() error {
		target, err := os.Open(path) //nolint:gosec // G304: below our data directory
		if err != nil {
			return err
		}
		err = unix.Setns(int(target.Fd()), unix.CLONE_NEWNET)
		_ = target.Close()
		if err != nil {
			return fmt.Errorf("entering network namespace %s: %w", path, err)
		}
		return f()
	})
}

// makeNetNS makes a network namespace that lives as long as the bind mount at
// path, with lo up and IPv6 off on every interface still to come.
func makeNetNS(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600) //nolint:gosec // G304: below our data directory
	if err != nil {
		return err
	}
	_ = file.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		const noIPv6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
		if err := os.WriteFile(noIPv6, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("turning IPv6 off: %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("loopback interface: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("loopback interface: %w", err)
		}
		return unix.Mount(threadNetNS(), path, "", unix.MS_BIND, "")
	})
}

// removeNetNS deletes what makeNetNS made, as far as it exists.
func removeNetNS(path string) error {
	if err := unmount(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// unmount detaches all that is mounted at path.
func unmount(path string) error {
	for {
		switch err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
	}
}

func threadNetNS() string {
	return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
}
