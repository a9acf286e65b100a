package main

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

// stack is a running "hearth up".
type stack struct {
	dir                              string // holds data and the log
	lambda, agents, operator, metric string // listen addresses
	cmd                              *exec.Cmd
	exited                           chan struct{} // closed when the command has ended
	exit                             error         // how it ended; valid once exited is closed
}

// startStack runs "hearth up" and waits until it is ready. It gets a session of
// its own, so that an interrupt at the terminal reaches only the demo, which
// then stops it in order.
func startStack(ctx context.Context) (*stack, error) {
	ports, err := choosePorts()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hearth-demo-")
	if err != nil {
		return nil, err
	}
	s := &stack{dir: dir, lambda: ports[0], agents: ports[1], operator: ports[2], metric: ports[3], exited: make(chan struct{})}
	// Ask for the password now, at the terminal, if one is needed.
	auth := exec.CommandContext(ctx, asRoot, "true")
	auth.Stdin, auth.Stdout, auth.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := auth.Run(); err != nil {
		return nil, errors.Join(fmt.Errorf("becoming root: %w", err), os.Remove(dir))
	}
	if err := s.launch(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, errors.Join(s.explain(err), s.stop())
	}
	return s, nil
}

func (s *stack) launch(ctx context.Context) error {
	log, err := os.Create(s.logFile())
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has it now
	// The context must not kill it: it is stopped in order, by stop.
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), asRoot, hearth, "up", //nolint:gosec // G204: the arguments are ours
		"--data-dir", filepath.Join(s.dir, "data"),
		"--listen", s.lambda, "--agent-listen", s.agents,
		"--operator-listen", s.operator, "--metrics-listen", s.metric,
		"--runtime-image", "provided.al2023=builtin:static")
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

func (s *stack) logFile() string { return filepath.Join(s.dir, "hearth-up.log") }

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

func (s *stack) waitReady(ctx context.Context) error {
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

func (s *stack) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metric+"/readyz", http.NoBody)
	if err != nil {
		return false
	}
	resp, err := (&http.Client{Timeout: time.Second}).Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// stop asks "hearth up" to take everything down and waits for it.
func (s *stack) stop() error {
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
				return fmt.Errorf("hearth up ended badly: %w; its log is %s", s.exit, s.logFile())
			}
		case <-ctx.Done():
			return fmt.Errorf("%w; its log is %s", context.Cause(ctx), s.logFile())
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("hearth up left something behind: %w", err)
	}
	return nil
}

// explain adds the end of the log to an error.
func (s *stack) explain(err error) error {
	text, rerr := os.ReadFile(s.logFile())
	if rerr != nil {
		return errors.Join(err, rerr)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("%w\nthe end of the log of hearth up:\n  %s", err, strings.Join(lines[max(0, len(lines)-20):], "\n  "))
}

// ask runs a hearth command against this stack.
func (s *stack) ask(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, hearth, append(args, "--control", s.operator)...) //nolint:gosec // G204: the arguments are ours
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, fmt.Errorf("hearth %s: %w: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return out, err
}

// placement says where an environment runs.
type placement struct {
	ID       string `json:"id"`
	Instance string `json:"instance"`
	Zone     string `json:"zone"`
}

func (s *stack) environments(ctx context.Context) ([]placement, error) {
	out, err := s.ask(ctx, "ps", "-o", "json")
	if err != nil {
		return nil, err
	}
	var placed []placement
	if err := json.Unmarshal(out, &placed); err != nil {
		return nil, fmt.Errorf("reading what hearth ps -o json says: %w", err)
	}
	return placed, nil
}

// pictureAfter waits and then returns what the operator's commands show.
func (s *stack) pictureAfter(ctx context.Context, wait time.Duration) string {
	select {
	case <-ctx.Done():
		return ""
	case <-time.After(wait):
	}
	var b strings.Builder
	for _, command := range []string{"instances", "ps"} {
		out, err := s.ask(ctx, command)
		if err != nil {
			out = []byte(err.Error() + "\n")
		}
		fmt.Fprintf(&b, "$ hearth %s\n%s\n", command, out)
	}
	return b.String()
}

// sayNext prints what to try with a stack that was left running.
func (s *stack) sayNext() {
	fmt.Printf(`
It is still running. Try:

  export AWS_ENDPOINT_URL_LAMBDA=http://%s AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
  export HEARTH_CONTROL=%s
  echo '{"name": "Ada"}' | aws lambda invoke --function-name hello-go --qualifier 1 --payload fileb:///dev/stdin /dev/stdout
  aws lambda get-function-scaling-config --function-name hello-go --qualifier 1
  ./bin/hearth ps
  ./bin/hearth instances -o json
  curl http://%s/metrics
  tail -f %s

When you have seen enough:

  sudo kill %d    # takes everything down, containers included
`, s.lambda, s.operator, s.metric, s.logFile(), s.cmd.Process.Pid)
}
