// Package daemon wires hearth-agent: it makes the parts from a Config, runs
// them until it is told to stop, and lets what runs finish.
//
// # Shutdown
//
// When its context ends, Run announces that the agent is stopping, refuses new
// invokes, waits for those that run, and only then ends the loops. Sandboxes
// stay: the next process adopts them.
package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/code"
	"github.com/hearth-compute/hearth/agent/credentials"
	"github.com/hearth-compute/hearth/agent/invoke"
	"github.com/hearth-compute/hearth/agent/pool"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/agent/sampler"
	"github.com/hearth-compute/hearth/agent/session"
	"github.com/hearth-compute/hearth/metrics"
	"github.com/hearth-compute/hearth/metrics/cgroup"
	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/containerd"
)

var (
	errDrainTooSlow = errors.New("drain timeout has passed")
	errStopped      = errors.New("agent is stopped")
)

// lastAnswers is how long a control service may take to read what it asked for.
const lastAnswers = 5 * time.Second

// Events, and as much again their large answers, may take one part in
// payloadShare of the machine's memory, and no less than leastPayloads.
const (
	payloadShare  = 8
	leastPayloads = 32 << 20
)

// retryOpen is how long to wait before asking containerd again at start.
const retryOpen = time.Second

// Driver is a sandbox.Runtime with a life of its own; containerd.Driver is one.
type Driver interface {
	sandbox.Runtime
	// Open prepares the host. Errors: Unavailable; call again then.
	Open(ctx context.Context) error
	// Away says why nothing new can be started, nil if it can: containerd does
	// not answer. What runs goes on.
	Away() error
	// Close lets go of the sandboxes, which run on.
	Close() error
	// Destroy removes everything the driver ever made.
	Destroy(ctx context.Context) error
}

// Parts are what tests put in place of the real world.
type Parts struct {
	// Driver makes the sandbox driver, which prints to output.
	Driver func(output sandbox.Output) (Driver, error)
	// Dial opens connections to control services; nil means TCP.
	Dial session.Dialer
	// Claim keeps other agents away from what the driver works on until release
	// is called; nil means that there is nothing to share. Errors:
	// FailedPrecondition.
	Claim func(ctx context.Context) (release func() error, err error)
}

// Agent is one agent. Make it with New.
type Agent struct {
	traces *metrics.Traces // nil when there is no collector

	cfg     Config
	dial    session.Dialer
	claim   func(context.Context) (release func() error, err error)
	driver  Driver
	output  *pool.Output
	metrics *instruments

	stopping atomic.Bool

	// The parts, made by assemble.
	table   *invoke.Table
	roles   *credentials.Keeper
	invoke  *invoke.Server
	server  *grpc.Server
	client  *session.Client
	session *session.Session
	pool    *pool.Pool
	sampler *sampler.Sampler
	printed printed
	live    []pool.Live
}

// New returns an agent on containerd. Nothing is dialled or started before Run,
// which alone needs to know the control services and the zone.
// Errors: InvalidArgument.
func New(cfg Config) (*Agent, error) {
	return NewWith(cfg, Parts{Claim: cfg.claimHost, Driver: func(output sandbox.Output) (Driver, error) {
		d := containerd.Config{
			Address:      cfg.ContainerdAddress,
			Namespace:    cfg.ContainerdNamespace,
			DataDir:      filepath.Join(cfg.DataDir, dirDriver),
			InitPath:     cfg.InitPath,
			Subnet:       cfg.Subnet,
			DenyCIDRs:    cfg.DenyCIDRs,
			NftTable:     cfg.NftTable,
			CgroupParent: cfg.CgroupParent,
			Spares:       cfg.Spares,
			Output:       output,
			Logger:       cfg.Log,
		}
		if cfg.LimitParent {
			d.CgroupLimits = containerd.CgroupLimits{
				CPU: sandbox.MilliCPU(cfg.Allocatable.CPU), Memory: sandbox.Bytes(cfg.Allocatable.Memory),
			}
		}
		return containerd.New(d)
	}})
}

// NewWith is New with parts replaced.
func NewWith(cfg Config, parts Parts) (*Agent, error) {
	if err := asFault(cfg.validateMachine()); err != nil {
		return nil, err
	}
	machine, err := sampler.Size()
	if err != nil {
		return nil, err
	}
	cfg.Allocatable = allocatable(cfg.Allocatable, machine)
	a := &Agent{cfg: cfg, dial: parts.Dial, claim: parts.Claim, output: pool.NewOutput(cfg.Log)}
	if a.claim == nil {
		a.claim = func(context.Context) (func() error, error) { return func() error { return nil }, nil }
	}
	if a.metrics, err = newInstruments(); err != nil {
		return nil, err
	}
	a.driver, err = parts.Driver(a.output.Line)
	return a, err
}

// Run works until ctx ends, then drains and stops. It returns an error when
// the agent cannot go on: its identity or token is refused, its data directory
// or another part of the host is another agent's (FailedPrecondition) or
// unreadable, or the drain took too long.
func (a *Agent) Run(ctx context.Context) (err error) {
	if err := a.cfg.Validate(); err != nil {
		return err
	}
	unlock, err := lockDir(a.cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	release, err := a.claim(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	defer func() { err = errors.Join(err, a.driver.Close()) }()
	if err := a.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := a.assemble(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.traces.Close(context.WithoutCancel(ctx))) }()
	listeners, err := a.listen(ctx)
	if err != nil {
		return err
	}
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx)) // a signal starts the drain,
	defer stop(errStopped)
	g, gctx := errgroup.WithContext(work) // it does not stop the loops
	for _, loop := range slices.Concat([]func(context.Context) error{a.pool.Run, a.sampler.Run, a.follow}, a.printed.loops(), listeners) {
		g.Go(func() error { return loop(gctx) })
	}
	a.cfg.Log.InfoContext(ctx, "agent runs", "version", a.cfg.Version, "control", strings.Join(a.cfg.Controls, ","),
		"allocatable_milli_cpu", int64(a.cfg.Allocatable.CPU), "allocatable_memory_bytes", int64(a.cfg.Allocatable.Memory))
	var drained error
	select {
	case <-gctx.Done(): // a loop failed: no drain
	case <-ctx.Done(): // asked to stop
		dctx, cancel := context.WithTimeoutCause(gctx, a.cfg.DrainTimeout, errDrainTooSlow)
		drained = a.drain(dctx)
		cancel()
	}
	stop(errStopped)
	err = errors.Join(g.Wait(), drained)
	a.server.Stop()
	return err
}

// follow runs the session once it is known what the instance already runs.
func (a *Agent) follow(ctx context.Context) error {
	select {
	case <-a.pool.Adopted():
		a.output.Settle()
		return a.session.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// drain lets what runs finish.
func (a *Agent) drain(ctx context.Context) error {
	a.cfg.Log.InfoContext(ctx, "agent stops: finishing what runs", "in_flight", a.invoke.InFlight())
	a.stopping.Store(true)
	a.session.Nudge()
	if err := a.invoke.Drain(ctx); err != nil {
		return err
	}
	// The last answers are on their way: the server closes its connections once
	// they are out.
	a.printed.server.Stop()
	last := time.AfterFunc(lastAnswers, a.server.Stop)
	defer last.Stop()
	a.server.GracefulStop()
	return nil
}

// open prepares the host, waiting for containerd if need be.
func (a *Agent) open(ctx context.Context) error {
	for {
		err := a.driver.Open(ctx)
		if err == nil || !errdefs.IsUnavailable(err) {
			return err
		}
		a.cfg.Log.WarnContext(ctx, "containerd is not available", "err", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retryOpen):
		}
	}
}

// assemble makes the parts and connects them.
func (a *Agent) assemble(ctx context.Context) error {
	if err := a.assembleLogs(ctx); err != nil {
		return err
	}
	if err := a.assembleTraces(ctx); err != nil {
		return err
	}
	a.table = &invoke.Table{}
	a.roles = credentials.New()
	payloads := max(leastPayloads, cgroup.Available()/payloadShare)
	a.invoke = invoke.New(a.table, payloads, a.cfg.Log)
	a.invoke.Trace(a.traces)
	a.server = a.dataServer()
	a.client = session.NewClient(session.ClientConfig{
		Controls: a.cfg.Controls,
		Dir:      filepath.Join(a.cfg.DataDir, dirIdentity),
		Token:    a.token,
		Dial:     a.dial,
		Log:      a.cfg.Log,
	})
	cache, err := code.New(code.Config{
		Dir:     filepath.Join(a.cfg.DataDir, dirCode),
		Budget:  a.cfg.CodeCache,
		Fetcher: a.client,
		BootID:  bootID(),
	})
	if err != nil {
		return err
	}
	a.session = session.New(session.Config{
		Client: a.client,
		Node:   a,
		Registration: session.Registration{
			Version:          a.cfg.Version,
			ProcessID:        rand.Text(),
			Allocatable:      a.cfg.Allocatable,
			Architecture:     architecture(),
			Zone:             a.cfg.Zone,
			CapacityProvider: a.cfg.CapacityProvider,
			Hostname:         a.cfg.Hostname,
		},
		Data:            a.server,
		DataConnections: a.cfg.DataConnections,
		Log:             a.cfg.Log,
	})
	a.pool = pool.New(pool.Config{
		Runtime: a.driver,
		Code:    cache,
		Output:  a.output,
		Encode:  session.EncodeAssignment,
		Decode:  session.DecodeAssignment,
		Publish: a.publish,
		Changed: a.session.Nudge,
		Traces:  a.traces,
		Answers: semaphore.NewWeighted(payloads),
		Region:  a.cfg.Region,

		Unlimited: a.cfg.FixedLimits, StreamRate: a.cfg.StreamRate,
		Crowded: func() bool { return a.sampler.HostFull() },
		Roles:   a.roles,
		Log:     a.cfg.Log,

		Credentials: withCredentials,
	})
	hostReader, hostCPU, err := a.hostReader()
	if err != nil {
		return err
	}
	a.sampler = sampler.New(sampler.Config{
		Targets: a.targets,
		Open:    openCgroup,
		Host:    hostReader,
		HostCPU: hostCPU,
		DataDir: a.cfg.DataDir,
		Log:     a.cfg.Log,
	})
	return a.metrics.observe(a)
}

func (a *Agent) publish(apis map[agent.EnvironmentID]*runtimeapi.API) {
	table := make(map[agent.EnvironmentID]invoke.Environment, len(apis))
	for id, api := range apis {
		table[id] = api
	}
	a.table.Replace(table)
}

// targets belongs to the sampler's goroutine, and so does a.live.
func (a *Agent) targets(into []sampler.Target) []sampler.Target {
	a.live = a.pool.Live(a.live[:0])
	for _, l := range a.live {
		into = append(into, sampler.Target{
			Environment: l.Environment, Sandbox: l.Sandbox, CgroupPath: l.CgroupPath, TmpPath: l.TmpPath, Observer: l.API,
		})
	}
	return into
}

// token reads the join token; there is nothing to log about it.
func (a *Agent) token() (string, error) {
	if a.cfg.JoinTokenFile == "" {
		return "", fmt.Errorf("this host has not joined yet: --join-token-file is required: %w", errdefs.ErrInvalidArgument)
	}
	b, err := os.ReadFile(a.cfg.JoinTokenFile)
	if err != nil {
		return "", fmt.Errorf("--join-token-file: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return string(b), nil
}

// architecture is the machine's in AWS's words.
func architecture() string {
	if runtime.GOARCH == "amd64" {
		return "x86_64"
	}
	return runtime.GOARCH
}

// Apply makes a set what should run; with Accepted, Credentials and Report it
// makes the agent the session's node.
func (a *Agent) Apply(set agent.DesiredSet) error { return a.pool.Apply(set) }

// Credentials keeps a session of an execution role.
func (a *Agent) Credentials(c agent.RoleCredentials) { a.roles.Put(c) }

// Accepted is the set that is followed now, if there is one.
func (a *Agent) Accepted() (agent.DesiredSet, bool) { return a.pool.Accepted() }

// Report is the state of the instance now.
func (a *Agent) Report() agent.Report {
	position := a.pool.Position()
	r := agent.Report{
		At:    time.Now(),
		Epoch: position.Epoch, Generation: position.Generation, Refused: position.Refused,
		Stopping:     a.stopping.Load(),
		Host:         a.sampler.Host(),
		Environments: a.pool.Statuses(),
	}
	for i := range r.Environments {
		e := &r.Environments[i]
		measured := a.sampler.Environment(e.Environment)
		e.Heat.CPU, e.Heat.Memory, e.Heat.Tmp = measured.CPU, measured.Memory, measured.Tmp
		e.Heat.ThrottledPermille = measured.ThrottledPermille
		r.Host.InFlight += e.Heat.InFlight
	}
	return r
}
