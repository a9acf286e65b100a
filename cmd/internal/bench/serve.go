package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What is compared runs in processes of its own: this program again, with one of
// these as its first argument.
const (
	serveEcho  = "serve-echo"  // ADDRESS: answers every request with its body
	serveProxy = "serve-proxy" // ADDRESS TARGET: httputil.ReverseProxy
	inTask     = "in-task"     // DIRECTORY COMMAND…: runs it with the directory at /var/task
)

// serve is the main function of such a process.
func serve(args []string) error {
	switch {
	case len(args) == 2 && args[0] == serveEcho:
		return listen("bench-echo", args[1], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(w, r.Body) // a caller that left is no concern here
		}))
	case len(args) == 3 && args[0] == serveProxy:
		proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: args[2]})
		proxy.Transport = &http.Transport{MaxIdleConnsPerHost: maxConcurrency}
		return listen("bench-proxy", args[1], proxy)
	case len(args) > 2 && args[0] == inTask:
		if err := unix.Mount(args[1], "/var/task", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting /var/task: %w", err)
		}
		return syscall.Exec(args[2], args[2:], os.Environ()) //nolint:gosec // G204: the command line is this program's own
	}
	return fmt.Errorf("unknown command %q", args)
}

// listen serves under a name that cpuTimes can tell from other processes.
func listen(name, address string, handler http.Handler) error {
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0o600); err != nil {
		return err
	}
	return (&http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: time.Minute}).ListenAndServe()
}

// child is a process that is compared.
type child struct{ cmd *exec.Cmd }

// startChild starts a program, waits until it listens, and writes what it prints
// to a file in dir. With task, that directory is at its /var/task.
func startChild(ctx context.Context, dir, name, address, task string, env []string, args ...string) (*child, error) {
	log, err := os.Create(filepath.Join(dir, name+".log")) //nolint:gosec // G304: in a directory of our own
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has it now
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if task != "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		args = append([]string{self, inTask, task}, args...)
		attr.Unshareflags = syscall.CLONE_NEWNS
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // G204: programs the caller named
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, attr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	c := &child{cmd}
	err = eventually(ctx, name+" listens", func() (bool, error) {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		return true, conn.Close()
	})
	if err != nil {
		c.stop()
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w\n%s", err, text)
	}
	return c, nil
}

// stop ends the process and what it started.
func (c *child) stop() {
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	_ = c.cmd.Wait()
}

// freePort returns an address on loopback nobody listens on.
func freePort(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func portOf(address string) string {
	_, port, _ := strings.Cut(address, ":")
	return port
}

var errNoTask = errors.New("cannot make /var/task")

// ensureTask makes the directory that the runtime interface emulator wants its
// function in, and returns a function that removes it if it was not there.
func ensureTask() (remove func(), err error) {
	switch err := os.Mkdir("/var/task", 0o755); { //nolint:gosec // G301: as on AWS
	case err == nil:
		return func() { _ = os.Remove("/var/task") }, nil
	case errors.Is(err, os.ErrExist):
		return func() {}, nil
	default:
		return nil, fmt.Errorf("%w: %w", errNoTask, err)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
