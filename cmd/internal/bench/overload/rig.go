package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

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
	function = "overload"
	instance = controlplane.InstanceID("i-00000000000000f1d")
	arn      = "arn:aws:lambda:us-east-1:123456789012:function:" + function + ":1"
)

var (
	errMeasured = errors.New("measured")
	errTooLong  = errors.New("not so after a minute")
)

// rig is as much of a control service as an agent needs, and one agent.
type rig struct {
	dir        string
	log        *slog.Logger
	db         *sqlite.DB
	artifacts  *artifact.Store
	server     *sessions.Server
	fleet      *local.Fleet
	code       controlplane.Code
	generation uint64
	weights    weights
}

// open makes everything and asks for one instance.
func (r *rig) open(ctx context.Context, archive []byte, flags string) error {
	var err error
	if r.db, err = sqlite.Open(ctx, filepath.Join(r.dir, "store.db")); err != nil {
		return err
	}
	if r.artifacts, err = artifact.OpenDir(filepath.Join(r.dir, "artifacts")); err != nil {
		return err
	}
	sha, size, err := r.artifacts.Put(ctx, archive)
	if err != nil {
		return err
	}
	r.code = controlplane.Code{SHA256: sha, Size: controlplane.Bytes(size)}
	ca, err := sessions.OpenCA(filepath.Join(r.dir, "ca"), time.Now())
	if err != nil {
		return err
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	tokens := sessions.NewTokens(r.db, ca, "local")
	r.server, err = sessions.New(sessions.Config{
		Listener: lis, CA: ca, Tokens: tokens, Artifacts: r.artifacts, Changed: func() {}, Logger: r.log,
	})
	if err != nil {
		return err
	}
	return r.launch(ctx, tokens, lis.Addr().String(), flags)
}

func (r *rig) launch(ctx context.Context, tokens *sessions.Tokens, control string, flags string) error {
	binaries, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	// An agent gets its flags from the fleet; what comes in addition is in a script.
	agent := filepath.Join(r.dir, "hearth-agent")
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\" %s\n", filepath.Join(binaries, "hearth-agent"), flags)
	if err := os.WriteFile(agent, []byte(script), 0o700); err != nil { //nolint:gosec // G306: it is run
		return err
	}
	r.fleet, err = local.New(local.Config{
		DataDir: r.dir, AgentPath: agent, InitPath: filepath.Join(binaries, "hearth-init"),
		Control: control, SubnetPool: netip.MustParsePrefix("10.214.0.0/16"), MaxInstances: 1,
		Environ: os.Environ(), Logger: r.log,
	})
	if err != nil {
		return err
	}
	err = r.db.Update(ctx, func(w store.Writer) error {
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
	return r.fleet.Launch(ctx, fleet.LaunchRequest{
		Instance: instance, Provider: function, Zone: "zone", JoinToken: token,
		Size: controlplane.Resources{CPU: 2000, Memory: 8 << 30},
	})
}

// start has the agent run one environment of 1 vCPU and 2 GiB, and nothing else,
// and waits for it.
func (r *rig) start(ctx context.Context, env controlplane.EnvironmentID, slots int) error {
	err := eventually(ctx, "the agent is connected", func() (bool, error) {
		heard := r.server.Heard()
		return len(heard) == 1 && heard[0].Connected, nil
	})
	if err != nil {
		return err
	}
	r.generation++
	r.server.Desire(instance, controlplane.DesiredSet{
		Epoch: 1, Generation: r.generation, Intent: controlplane.StopDelete,
		Environments: []controlplane.Placement{{Instance: instance, Assignment: controlplane.Assignment{
			Environment: env, Function: function, Qualifier: controlplane.Number(1), ARN: arn,
			Image: controlplane.Image{Ref: "builtin:static"},
			Publication: controlplane.Publication{Revision: "1", Code: r.code, Config: controlplane.Config{
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
	for _, heard := range r.server.Heard() {
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
	res, err := r.server.Call(ctx, router.Endpoint{Environment: env, Instance: instance, Limit: 1 << 10},
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
func (r *rig) close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errTooLong)
	defer cancel()
	var errs []error
	if r.fleet != nil {
		errs = append(errs, r.fleet.TerminateAll(ctx))
	}
	if r.artifacts != nil {
		errs = append(errs, r.artifacts.Close())
	}
	if r.db != nil {
		errs = append(errs, r.db.Close())
	}
	return errors.Join(append(errs, r.weights.restore())...)
}

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
