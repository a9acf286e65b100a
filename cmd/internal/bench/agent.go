package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/artifact"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/fleet/local"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

const (
	instance    = controlplane.InstanceID("i-0000000000000be7c")
	environment = "e-000000000000be"
	arn         = "arn:aws:lambda:us-east-1:123456789012:function:" + function + ":1"
)

var errMeasured = errors.New("measured")

// agentAlone measures calls to one hearth-agent. The control service's side of
// the connection runs in this process.
func agentAlone(ctx context.Context, w io.Writer, p params) (err error) {
	dir, err := os.MkdirTemp("", "hearth-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(dir)
		}
	}()
	log, err := os.Create(filepath.Join(dir, "bench.log")) //nolint:gosec // G304: in a directory of our own
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	bench := &agentBench{dir: dir, log: slog.New(slog.NewTextHandler(log, nil))}
	defer func() { err = errors.Join(err, bench.close()) }()
	if err := bench.open(ctx, p.archive); err != nil {
		return err
	}
	if err := bench.measure(ctx, w, p); err != nil {
		return fmt.Errorf("%w (logs are in %s)", err, dir)
	}
	return nil
}

// agentBench is as much of a control service as an agent needs.
type agentBench struct {
	dir       string
	log       *slog.Logger
	db        *sqlite.DB
	artifacts *artifact.Store
	server    *sessions.Server
	fleet     *local.Fleet
	code      controlplane.Code
	// agentArgs are further arguments of the agent.
	agentArgs []string
}

// open makes everything and asks for one instance.
func (b *agentBench) open(ctx context.Context, archive []byte) error {
	var err error
	if b.db, err = sqlite.Open(ctx, filepath.Join(b.dir, "store.db")); err != nil {
		return err
	}
	if b.artifacts, err = artifact.OpenDir(filepath.Join(b.dir, "artifacts")); err != nil {
		return err
	}
	sha, size, err := b.artifacts.Put(ctx, archive)
	if err != nil {
		return err
	}
	b.code = controlplane.Code{SHA256: sha, Size: controlplane.Bytes(size)}
	ca, err := sessions.OpenCA(filepath.Join(b.dir, "ca"), time.Now())
	if err != nil {
		return err
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	tokens := sessions.NewTokens(b.db, ca, "local")
	b.server, err = sessions.New(sessions.Config{
		Listener: lis, CA: ca, Tokens: tokens, Artifacts: b.artifacts, Changed: func() {}, Logger: b.log,
	})
	if err != nil {
		return err
	}
	return b.launch(ctx, tokens, lis.Addr().String())
}

func (b *agentBench) launch(ctx context.Context, tokens *sessions.Tokens, control string) error {
	binaries, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	b.fleet, err = local.New(local.Config{
		DataDir: b.dir, AgentPath: filepath.Join(binaries, "hearth-agent"), InitPath: filepath.Join(binaries, "hearth-init"),
		Control: control, SubnetPool: netip.MustParsePrefix("10.213.0.0/16"), MaxInstances: 1,
		Environ: os.Environ(), AgentArgs: b.agentArgs, Logger: b.log,
	})
	if err != nil {
		return err
	}
	err = b.db.Update(ctx, func(w store.Writer) error {
		err := w.PutProvider(controlplane.CapacityProvider{Name: function, State: controlplane.ProviderActive, Zones: []controlplane.Zone{"zone"}})
		return errors.Join(err, w.PutInstance(controlplane.Instance{ID: instance, Provider: function, State: controlplane.InstanceLaunching}))
	})
	if err != nil {
		return err
	}
	token, _, err := tokens.Mint(ctx, function, instance, time.Hour, time.Now())
	if err != nil {
		return err
	}
	return b.fleet.Launch(ctx, fleet.LaunchRequest{
		Instance: instance, Provider: function, Zone: "zone", JoinToken: token,
		Size: controlplane.Resources{CPU: 2000, Memory: 8 << 30},
	})
}

// measure runs the control side while it measures.
func (b *agentBench) measure(ctx context.Context, w io.Writer, p params) error {
	return b.serving(ctx, maxConcurrency, []map[string]string{nil}, func(ctx context.Context) error {
		return measureAll(ctx, w, p, func(ctx context.Context) error { return b.call(ctx, 0) })
	})
}

// serving runs the control side, with one environment of so many slots for each
// set of variables, while f runs.
func (b *agentBench) serving(ctx context.Context, slots int, variables []map[string]string, f func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.server.Run(ctx) })
	g.Go(func() error { return b.fleet.Run(ctx) })
	g.Go(func() error {
		defer stop(errMeasured)
		if err := b.startEnvironments(ctx, slots, variables); err != nil {
			return err
		}
		return f(ctx)
	})
	return g.Wait()
}

// environmentID names the environment with the i-th set of variables.
func environmentID(i int) controlplane.EnvironmentID {
	return controlplane.EnvironmentID(fmt.Sprintf("%s%02x", environment, i))
}

// startEnvironments waits for the agent and has it start the functions.
func (b *agentBench) startEnvironments(ctx context.Context, slots int, variables []map[string]string) error {
	err := eventually(ctx, "the agent is connected", func() (bool, error) {
		heard := b.server.Heard()
		return len(heard) == 1 && heard[0].Connected, nil
	})
	if err != nil {
		return err
	}
	set := controlplane.DesiredSet{Epoch: 1, Generation: 1}
	for i, v := range variables {
		set.Environments = append(set.Environments, b.placement(i, v, slots))
	}
	b.server.Desire(instance, set)
	return eventually(ctx, "the environments are ready", func() (bool, error) {
		heard := b.server.Heard()
		if len(heard) != 1 || len(heard[0].Environments) != len(variables) {
			return false, nil
		}
		for _, status := range heard[0].Environments {
			switch status.State { //nolint:exhaustive // every other state means: not yet
			case controlplane.EnvironmentReady:
			case controlplane.EnvironmentFailed:
				return false, fmt.Errorf("environment failed: %s: %s", status.ReasonCode, status.Reason)
			default:
				return false, nil
			}
		}
		return true, nil
	})
}

// placement asks for the i-th environment.
func (b *agentBench) placement(i int, variables map[string]string, concurrency int) controlplane.Placement {
	return controlplane.Placement{Instance: instance, Assignment: controlplane.Assignment{
		Environment: environmentID(i), Function: function, Qualifier: controlplane.Number(1), ARN: arn,
		Image: controlplane.Image{Ref: "builtin:static"},
		Publication: controlplane.Publication{Revision: "1", Code: b.code, Config: controlplane.Config{
			Runtime: "provided.al2023", Handler: "bootstrap", PackageType: "Zip", Variables: variables,
			MemoryMB: memoryMB, TimeoutS: 30, EphemeralMB: 512, MaxConcurrency: concurrency,
			LogFormat: "JSON", AppLogLevel: "INFO", SysLogLevel: "INFO",
		}},
	}}
}

func (b *agentBench) call(ctx context.Context, i int) error {
	res, err := b.server.Call(ctx,
		router.Endpoint{Environment: environmentID(i), Instance: instance, Limit: maxConcurrency},
		controlplane.InvokeRequest{
			RequestID: uuid.NewString(), Function: function, Qualifier: controlplane.Number(1), InvokedARN: arn, Payload: []byte(event),
		}, 30*time.Second)
	if err == nil && res.FunctionError != "" {
		err = fmt.Errorf("the function failed: %s", res.Payload)
	}
	return err
}

// close takes the instance down and releases everything.
func (b *agentBench) close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errTooLong)
	defer cancel()
	var errs []error
	if b.fleet != nil {
		errs = append(errs, b.fleet.TerminateAll(ctx))
	}
	if b.artifacts != nil {
		errs = append(errs, b.artifacts.Close())
	}
	if b.db != nil {
		errs = append(errs, b.db.Close())
	}
	return errors.Join(errs...)
}
