// Package up runs a whole Hearth on this machine, for trying it out: it starts
// hearth-control, starts it again when it dies, and takes everything down when
// it is told to stop.
//
// # Failure
//
// When this process is killed, hearth-control and the agents run on. The next
// one for the same data directory ends that hearth-control, starts its own,
// which takes the agents back, and leaves nothing behind when it stops.
//
// # Shutdown
//
// The first signal stops hearth-control, then every instance, then removes the
// data. The second is answered with a message. The third gives up; what is left
// is for the next run.
package up

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/controlplane/fleet/local/process"
)

// Config is what Run needs to know.
type Config struct {
	// ControlPath is the hearth-control binary.
	ControlPath string
	// Args are its flags, except those that Run adds.
	Args []string
	// Environ is its environment.
	Environ []string
	// DataDir is its data directory, absolute.
	DataDir string
	// Addresses are its listeners.
	Addresses Addresses
	// Provider is the default capacity provider.
	Provider Provider
	// Region is used in the example that is printed.
	Region string
	// KeepData leaves the store and the code archives in place at the end.
	KeepData bool
	// Instances are what is taken down at the end.
	Instances Instances
	// Signals ask to stop.
	Signals <-chan os.Signal
	// Stdout gets the banner and hearth-control's output, Stderr messages and
	// hearth-control's log.
	Stdout, Stderr *os.File
	// StopTimeout is how long hearth-control has from SIGTERM to SIGKILL.
	// Default: 30 s, a little more than it gives its own callers.
	StopTimeout time.Duration
	// TakeDownTimeout bounds how long instances may take. Default: 3 min.
	TakeDownTimeout time.Duration
}

// Addresses are the listeners of hearth-control, HOST:PORT.
type Addresses struct{ Lambda, Agents, Operators, Metrics string }

// Instances are the machines of the local fleet.
type Instances interface {
	// TerminateAll terminates all of them and returns when nothing is left.
	TerminateAll(ctx context.Context) error
}

var (
	errAsked   = errors.New("asked to stop")
	errGivenUp = errors.New("given up at the third signal")
	errTooSlow = errors.New("it takes too long")
)

const (
	lookInterval = 100 * time.Millisecond
	minBackoff   = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
	stableAfter  = 10 * time.Second
)

// Run works until a signal or the end of ctx, and returns when everything is
// taken down. Errors: FailedPrecondition when another one uses the same data
// directory, when that holds a store that is meant to last, or when an address
// is taken; Unavailable when something is left.
func Run(ctx context.Context, cfg Config) error {
	cfg.StopTimeout = cmp.Or(cfg.StopTimeout, 30*time.Second)
	cfg.TakeDownTimeout = cmp.Or(cfg.TakeDownTimeout, 3*time.Minute)
	u := &runner{cfg: cfg}
	if !cfg.KeepData {
		if err := disposable(cfg.DataDir); err != nil {
			return err
		}
	}
	unlock, err := lockDir(cfg.DataDir, cfg.KeepData)
	if err != nil {
		return err
	}
	defer unlock()

	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	takingDown, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer giveUp(nil)
	var watching sync.WaitGroup
	done := make(chan struct{})
	watching.Go(func() { u.watchSignals(done, stop, giveUp) })
	defer watching.Wait()
	defer close(done)

	if err := u.stopLeftover(takingDown); err != nil {
		return err
	}
	if err := cfg.Addresses.free(running); err != nil {
		return err
	}
	u.supervise(running, takingDown)
	return u.takeDown(takingDown)
}

// runner is one Run.
type runner struct {
	cfg       Config
	presented bool
}

func (u *runner) say(format string, args ...any) {
	_, _ = fmt.Fprintf(u.cfg.Stderr, "hearth up: "+format+"\n", args...)
}

// watchSignals turns signals into the ends of contexts.
func (u *runner) watchSignals(done <-chan struct{}, stop, giveUp context.CancelCauseFunc) {
	for n := 1; ; n++ {
		select {
		case <-done:
			return
		case <-u.cfg.Signals:
		}
		switch n {
		case 1:
			u.say("stopping: hearth-control first, then every instance")
			stop(errAsked)
		case 2:
			u.say("still taking everything down; once more gives up and leaves the rest running")
		default:
			u.say("giving up; start hearth up with the same --data-dir again to finish")
			giveUp(errGivenUp)
		}
	}
}

func (u *runner) pidFile() string { return filepath.Join(u.cfg.DataDir, pidFileName) }

// identity begins the command line of our hearth-control.
func (u *runner) identity() []string { return []string{"--data-dir", u.cfg.DataDir} }

// stopLeftover ends the hearth-control of a run that was killed.
func (u *runner) stopLeftover(ctx context.Context) error {
	old := process.Recall(u.pidFile(), u.identity()...)
	if old == nil {
		return nil
	}
	u.say("an earlier run was killed; ending its hearth-control (process %d), its instances are taken back", old.PID)
	return u.stopControl(ctx, old)
}

// supervise keeps hearth-control running until ctx ends, and then stops it.
func (u *runner) supervise(ctx, takingDown context.Context) {
	wait := time.Duration(0)
	for ctx.Err() == nil {
		begun := time.Now()
		control, err := u.startControl()
		if err != nil {
			u.say("%v", err)
		} else if u.watch(ctx, control) {
			if err := u.stopControl(takingDown, control); err != nil {
				u.say("%v", err)
			}
			return
		}
		if time.Since(begun) > stableAfter {
			wait = 0
		}
		wait = min(max(minBackoff, 2*wait), maxBackoff)
		if err == nil {
			u.say("hearth-control ended by itself (%s); starting it again in %s", control.Outcome(), wait)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// startControl starts hearth-control in a session of its own: a Ctrl-C at the
// terminal is for us alone.
func (u *runner) startControl() (*process.Process, error) {
	cmd := &exec.Cmd{
		Path: u.cfg.ControlPath,
		Args: slices.Concat([]string{u.cfg.ControlPath}, u.identity(),
			[]string{"--fleet", "local", "--default-capacity-provider", u.cfg.Provider.Name}, u.cfg.Args),
		Env:    u.cfg.Environ,
		Stdout: u.cfg.Stdout,
		Stderr: u.cfg.Stderr,
	}
	p, err := process.Start(cmd)
	if err != nil {
		return nil, err
	}
	if err := p.Note(u.pidFile()); err != nil {
		u.say("%v", err) // it runs; only a kill of this process would now leave it
	}
	return p, nil
}

// watch returns true when ctx ends, false when hearth-control has. It presents
// Hearth once it is ready for the first time.
func (u *runner) watch(ctx context.Context, control *process.Process) bool {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for control.Alive() {
		if !u.presented && u.cfg.Addresses.ready(ctx) && control.Alive() {
			u.presented = true
			if err := u.cfg.Provider.create(ctx, u.cfg.Addresses.Lambda); err != nil {
				u.say("%v", err)
			}
			u.present(u.cfg.Stdout)
		}
		select {
		case <-ctx.Done():
			return true
		case <-tick.C:
		}
	}
	return false
}

// stopControl asks hearth-control to end and ends it when it does not, or when
// ctx ends.
func (u *runner) stopControl(ctx context.Context, control *process.Process) error {
	control.Signal(unix.SIGTERM)
	limit, cancel := context.WithTimeoutCause(ctx, u.cfg.StopTimeout, errTooSlow)
	defer cancel()
	if !awaitEnd(limit, control) {
		u.say("hearth-control does not stop (%v), killing it", context.Cause(limit))
		control.KillSession()
		rest, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), 5*time.Second, errTooSlow)
		defer cancel()
		if !awaitEnd(rest, control) {
			return fmt.Errorf("killing hearth-control (process %d): %w: %w", control.PID, context.Cause(rest), errdefs.ErrUnavailable)
		}
	}
	_ = os.Remove(u.pidFile())
	return nil
}

// awaitEnd reports whether p ended before ctx did.
func awaitEnd(ctx context.Context, p *process.Process) bool {
	tick := time.NewTicker(lookInterval / 4)
	defer tick.Stop()
	for p.Alive() {
		select {
		case <-ctx.Done():
			return !p.Alive()
		case <-tick.C:
		}
	}
	return true
}

// takeDown terminates every instance and removes the data.
func (u *runner) takeDown(ctx context.Context) error {
	limit, cancel := context.WithTimeoutCause(ctx, u.cfg.TakeDownTimeout, errTooSlow)
	defer cancel()
	err := context.Cause(limit)
	if err == nil {
		err = u.cfg.Instances.TerminateAll(limit)
	}
	if err != nil {
		return fmt.Errorf("not everything was taken down, start hearth up with the same --data-dir again to finish: %w", err)
	}
	if err := removeData(u.cfg.DataDir, u.cfg.KeepData); err != nil {
		return err
	}
	if u.cfg.KeepData {
		u.say("every instance is gone; functions and their code are kept in %s", u.cfg.DataDir)
	} else {
		u.say("everything is gone")
	}
	return nil
}

// present says what there is, once.
func (u *runner) present(w io.Writer) {
	a := u.cfg.Addresses
	fate := "when it stops, everything goes, functions included"
	if u.cfg.KeepData {
		fate = "when it stops, instances go and functions stay in the data directory"
	}
	who := "export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any"
	if file := u.cfg.Provider.AccessKeysFile; file != "" {
		who = "export AWS_SHARED_CREDENTIALS_FILE=" + file + " AWS_PROFILE=…"
	}
	_, _ = fmt.Fprintf(w, `
Hearth is running. This is for trying it out: %s.

  Lambda API    http://%s
  operators     %s (hearth ps, hearth instances)
  metrics       http://%s/metrics
  data          %s

Try:

  %s
  aws --endpoint-url http://%s --region %s lambda list-functions

Ctrl-C or SIGTERM takes everything down.

`, fate, reachable(a.Lambda), reachable(a.Operators), reachable(a.Metrics), u.cfg.DataDir, who, reachable(a.Lambda), u.cfg.Region)
}

// reachable is an address one can connect to from here, even if it listens on
// every address.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}
