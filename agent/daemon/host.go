package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What lies in the data directory.
const (
	dirIdentity = "identity"
	dirCode     = "code"
	dirDriver   = "containerd"
	dirLogs     = "logs"
	fileLock    = "lock"
)

// Destroy removes everything an agent with this configuration ever made on this
// host: sandboxes, networks, cgroups and files, its identity included. No agent
// may run on the data directory or anything else that is this agent's alone.
// Idempotent. Errors: FailedPrecondition.
func (a *Agent) Destroy(ctx context.Context) (err error) {
	if _, err := os.Stat(a.cfg.DataDir); err == nil {
		unlock, err := lockDir(a.cfg.DataDir)
		if err != nil {
			return err
		}
		defer func() { _ = unlock() }()
	}
	release, err := a.claim(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := errors.Join(a.driver.Destroy(ctx), a.driver.Close()); err != nil {
		return fmt.Errorf("destroying the agent in %s: %w", a.cfg.DataDir, err)
	}
	var errs []error
	for _, name := range []string{dirDriver, dirCode, dirLogs, dirIdentity, fileLock} {
		errs = append(errs, os.RemoveAll(filepath.Join(a.cfg.DataDir, name)))
	}
	// The directory itself goes only if nobody else keeps anything there.
	if err := os.Remove(a.cfg.DataDir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lockDir makes sure that one agent at a time uses a data directory.
func lockDir(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // functions read their code below it
		return nil, fmt.Errorf("--data-dir: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	f, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the configured directory
	if err != nil {
		return nil, fmt.Errorf("--data-dir: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another agent runs on %s: %w", dir, errdefs.ErrFailedPrecondition), f.Close())
	}
	return f.Close, nil
}

// bootID changes with every boot; empty if the kernel does not say.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
