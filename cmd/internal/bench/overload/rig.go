package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/hearth-compute/hearth/cmd/internal/bench/alone"
	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
)

const (
	function = "overload"
	instance = alone.Instance
	arn      = "arn:aws:lambda:us-east-1:123456789012:function:" + function + ":1"
)

var (
	errMeasured = errors.New("measured")
	errTooLong  = errors.New("not so after a minute")
)

// rig is an agent alone, and what the function weighs against everything else.
type rig struct {
	alone.Agent

	generation uint64
	weights    weights
}

// start has the agent run one environment of 1 vCPU and 2 GiB, and nothing else,
// and waits for it.
func (r *rig) start(ctx context.Context, env controlplane.EnvironmentID, slots int) error {
	err := eventually(ctx, "the agent is connected", func() (bool, error) {
		heard := r.Server.Heard()
		return len(heard) == 1 && heard[0].Connected, nil
	})
	if err != nil {
		return err
	}
	r.generation++
	r.Server.Desire(instance, controlplane.DesiredSet{
		Epoch: 1, Generation: r.generation, Intent: controlplane.StopDelete,
		Environments: []controlplane.Placement{{Instance: instance, Assignment: controlplane.Assignment{
			Environment: env, Function: function, Qualifier: controlplane.Number(1), ARN: arn,
			Image: controlplane.Image{Ref: "builtin:static"},
			Publication: controlplane.Publication{Revision: "1", Code: r.Code, Config: controlplane.Config{
				Runtime: "provided.al2023", Handler: "bootstrap", PackageType: "Zip",
				MemoryMB: 2048, GiBPerVCPU: 2, TimeoutS: 30, EphemeralMB: 512, MaxConcurrency: slots,
				LogFormat: "JSON", AppLogLevel: "INFO", SysLogLevel: "INFO",
			}},
		}}},
	})
	return eventually(ctx, "the environment is ready", func() (bool, error) {
		status, ok := r.status(env)
		if ok && status.State == controlplane.EnvironmentFailed {
			return false, fmt.Errorf("environment failed: %s: %s", status.ReasonCode, status.Reason)
		}
		return ok && status.State == controlplane.EnvironmentReady, nil
	})
}

// status is what the agent said last about an environment.
func (r *rig) status(env controlplane.EnvironmentID) (controlplane.EnvironmentStatus, bool) {
	for _, heard := range r.Server.Heard() {
		for _, e := range heard.Environments {
			if e.ID == env {
				return e, true
			}
		}
	}
	return controlplane.EnvironmentStatus{}, false
}

// call runs one invocation.
func (r *rig) call(ctx context.Context, env controlplane.EnvironmentID, event string) error {
	res, err := r.Server.Call(ctx, router.Endpoint{Environment: env, Instance: instance, Limit: 1 << 10},
		controlplane.InvokeRequest{
			RequestID: uuid.NewString(), Function: function, Qualifier: controlplane.Number(1), InvokedARN: arn, Payload: []byte(event),
		}, 30*time.Second)
	if err == nil && res.FunctionError != "" {
		err = fmt.Errorf("the function failed: %s", res.Payload)
	}
	if res.Release != nil {
		res.Release()
	}
	return err
}

// close takes the instance down and releases everything.
func (r *rig) close() error { return errors.Join(r.Close(), r.weights.restore()) }

// eventually asks until the answer is yes, for at most a minute.
func eventually(ctx context.Context, what string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errTooLong)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if yes, err := ask(); err != nil || yes {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
