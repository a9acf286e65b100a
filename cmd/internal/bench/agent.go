package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-compute/hearth/cmd/internal/bench/alone"
	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
)

const (
	instance    = alone.Instance
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
	bench := newAgentBench(dir, slog.New(slog.NewTextHandler(log, nil)))
	defer func() { err = errors.Join(err, bench.Close()) }()
	if err := bench.Open(ctx, p.archive); err != nil {
		return err
	}
	if err := bench.measure(ctx, w, p); err != nil {
		return fmt.Errorf("%w (logs are in %s)", err, dir)
	}
	return nil
}

// agentBench is an agent alone, and the environments it is measured with.
type agentBench struct{ alone.Agent }

func newAgentBench(dir string, log *slog.Logger, args ...string) *agentBench {
	return &agentBench{alone.Agent{Dir: dir, Log: log, Subnets: netip.MustParsePrefix("10.213.0.0/16"), Args: args}}
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
	g.Go(func() error { return b.Server.Run(ctx) })
	g.Go(func() error { return b.Fleet.Run(ctx) })
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
		heard := b.Server.Heard()
		return len(heard) == 1 && heard[0].Connected, nil
	})
	if err != nil {
		return err
	}
	set := controlplane.DesiredSet{Epoch: 1, Generation: 1}
	for i, v := range variables {
		set.Environments = append(set.Environments, b.placement(i, v, slots))
	}
	b.Server.Desire(instance, set)
	return eventually(ctx, "the environments are ready", func() (bool, error) {
		heard := b.Server.Heard()
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
		Publication: controlplane.Publication{Revision: "1", Code: b.Code, Config: controlplane.Config{
			Runtime: "provided.al2023", Handler: "bootstrap", PackageType: "Zip", Variables: variables,
			MemoryMB: memoryMB, TimeoutS: 30, EphemeralMB: 512, MaxConcurrency: concurrency,
			LogFormat: "JSON", AppLogLevel: "INFO", SysLogLevel: "INFO",
		}},
	}}
}

func (b *agentBench) call(ctx context.Context, i int) error {
	res, err := b.Server.Call(ctx,
		router.Endpoint{Environment: environmentID(i), Instance: instance, Limit: maxConcurrency},
		controlplane.InvokeRequest{
			RequestID: uuid.NewString(), Function: function, Qualifier: controlplane.Number(1), InvokedARN: arn, Payload: []byte(event),
		}, 30*time.Second)
	if err == nil && res.FunctionError != "" {
		err = fmt.Errorf("the function failed: %s", res.Payload)
	}
	return err
}
