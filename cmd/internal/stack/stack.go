// Package stack runs "hearth up" on this machine for programs that show or
// measure it from outside, the way a user would: through the Lambda API and the
// hearth command. It expects the binaries in bin below the working directory.
package stack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	asRoot      = "deploy/scripts/as-root"
	hearth      = "bin/hearth"
	readyLimit  = time.Minute
	stopLimit   = 90 * time.Second
	defaultHost = "127.0.0.1"
)

// Stack is a running "hearth up" with a data directory of its own.
type Stack struct {
	// Lambda, Agents, Operator and Metrics are its listen addresses: the default
	// ones where they were free.
	Lambda, Agents, Operator, Metrics string

	dir    string // holds data and the log
	cmd    *exec.Cmd
	exited chan struct{} // closed when the command has ended
	exit   error         // how it ended; valid once exited is closed
}

// Start runs "hearth up" with further arguments and waits until it is ready. It
// gets a session of its own, so that an interrupt at the terminal reaches only
// the caller, who then stops it in order. provided.al2023 runs on the built-in
// image.
func Start(ctx context.Context, args ...string) (*Stack, error) {
	ports, err := choosePorts()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hearth-demo-")
	if err != nil {
		return nil, err
	}
	s := &Stack{dir: dir, Lambda: ports[0], Agents: ports[1], Operator: ports[2], Metrics: ports[3], exited: make(chan struct{})}
	// Ask for the password now, at the terminal, if one is needed.
	auth := exec.CommandContext(ctx, asRoot, "true")
	auth.Stdin, auth.Stdout, auth.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := auth.Run(); err != nil {
		return nil, errors.Join(fmt.Errorf("becoming root: %w", err), os.Remove(dir))
	}
	if err := s.launch(ctx, args); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, errors.Join(s.Explain(err), s.Stop())
	}
	return s, nil
}

func (s *Stack) launch(ctx context.Context, args []string) error {
	log, err := os.Create(s.LogFile())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has it now
	// The context must not kill it: it is stopped in order, by Stop.
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), asRoot, append([]string{ //nolint:gosec // G204: the arguments are ours
		hearth, "up",
		"--data-dir", filepath.Join(s.dir, "data"),
		"--listen", s.Lambda, "--agent-listen", s.Agents,
		"--operator-listen", s.Operator, "--metrics-listen", s.Metrics,
		"--runtime-image", "provided.al2023=builtin:static",
	}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("starting hearth up: %w", err)
	}
	go func() {
		s.exit = s.cmd.Wait()
		close(s.exited)
	}()
	return nil
}

// LogFile is where "hearth up" writes its log.
func (s *Stack) LogFile() string { return filepath.Join(s.dir, "hearth-up.log") }

// choosePorts returns the default listen addresses, or free ones if something
// listens there.
func choosePorts() ([]string, error) {
	addresses := make([]string, 0, 4)
	for _, port := range []int{9000, 9100, 9101, 9190} {
		address, err := freeAddress(port)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

func freeAddress(port int) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(defaultHost, strconv.Itoa(port))) //nolint:noctx // closed on the next line
	if err != nil && port != 0 {
		return freeAddress(0)
	}
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

func (s *Stack) waitReady(ctx context.Context) error {
	deadline := time.Now().Add(readyLimit)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.ready(ctx) {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("hearth up ended by itself: %w", cmp.Or(s.exit, errors.New("without an error")))
		case <-ctx.Done():
			return context.Cause(ctx)
		case now := <-tick.C:
			if now.After(deadline) {
				return fmt.Errorf("hearth up is not ready after %s", readyLimit)
			}
		}
	}
}

func (s *Stack) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Metrics+"/readyz", http.NoBody)
	if err != nil {
		return false
	}
	resp, err := (&http.Client{Timeout: time.Second}).Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// Stop asks "hearth up" to take everything down and waits for it.
func (s *Stack) Stop() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), stopLimit, errors.New("hearth up does not stop"))
	defer cancel()
	select {
	case <-s.exited:
	default:
		kill := exec.CommandContext(ctx, asRoot, "kill", "-TERM", strconv.Itoa(s.cmd.Process.Pid)) //nolint:gosec // G204: the arguments are ours
		if out, err := kill.CombinedOutput(); err != nil {
			return fmt.Errorf("stopping hearth up: %w: %s", err, out)
		}
		select {
		case <-s.exited:
			if s.exit != nil {
				return fmt.Errorf("hearth up ended badly: %w; its log is %s", s.exit, s.LogFile())
			}
		case <-ctx.Done():
			return fmt.Errorf("%w; its log is %s", context.Cause(ctx), s.LogFile())
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("hearth up left something behind: %w", err)
	}
	return nil
}

// Explain adds the end of the log to an error, unless the error is that somebody
// had enough.
func (s *Stack) Explain(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	text, rerr := os.ReadFile(s.LogFile())
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("%w\nthe end of the log of hearth up:\n  %s", err, strings.Join(lines[max(0, len(lines)-20):], "\n  "))
}

// Hearth runs a hearth command against this stack.
func (s *Stack) Hearth(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, hearth, append(args, "--control", s.Operator)...) //nolint:gosec // G204: the arguments are ours
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("hearth %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return out, err
}

// PID is the process to send SIGTERM to, as root, to stop everything.
func (s *Stack) PID() int { return s.cmd.Process.Pid }

// Environment says where an environment runs.
type Environment struct {
	ID       string `json:"id"`
	Instance string `json:"instance"`
	Zone     string `json:"zone"`
}

// Environments asks "hearth ps" which environments there are.
func (s *Stack) Environments(ctx context.Context) ([]Environment, error) {
	out, err := s.Hearth(ctx, "ps", "-o", "json")
	if err != nil {
		return nil, err
	}
	var placed []Environment
	if err := json.Unmarshal(out, &placed); err != nil {
		return nil, fmt.Errorf("reading what hearth ps -o json says: %w", err)
	}
	return placed, nil
}
