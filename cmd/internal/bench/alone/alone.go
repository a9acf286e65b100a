// Package alone runs one hearth-agent with as much of a control service as an
// agent needs, for benchmarks of the agent by itself. The control service's side
// of the connection runs in this process.
package alone

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/artifact"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/fleet/local"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

// Instance is the one there is.
const Instance = controlplane.InstanceID("i-0000000000000be7c")

// provider is the capacity provider it belongs to.
const provider = "bench"

var errTooLong = errors.New("the instance was not gone after a minute")

// Agent is one agent and what it is connected to. Dir, Log and Subnets are
// required; Server, Fleet and Code are there once it is open.
type Agent struct {
	Dir string
	Log *slog.Logger
	// Subnets is where the instance's subnet comes from.
	Subnets netip.Prefix
	// Args are further arguments of the agent.
	Args []string

	// Server and Fleet work while their Run does, which is the caller's to call.
	Server *sessions.Server
	Fleet  *local.Fleet
	// Code is the archive that environments may run.
	Code controlplane.Code

	db        *sqlite.DB
	artifacts *artifact.Store
}

// Open makes everything and asks for one instance. Close is due also after an
// error.
func (a *Agent) Open(ctx context.Context, archive []byte) error {
	var err error
	if a.db, err = sqlite.Open(ctx, filepath.Join(a.Dir, "store.db")); err != nil {
		return err
	}
	if a.artifacts, err = artifact.OpenDir(filepath.Join(a.Dir, "artifacts")); err != nil {
		return err
	}
	sha, size, err := a.artifacts.Put(ctx, archive)
	if err != nil {
		return err
	}
	a.Code = controlplane.Code{SHA256: sha, Size: controlplane.Bytes(size)}
	ca, err := sessions.OpenCA(filepath.Join(a.Dir, "ca"), time.Now())
	if err != nil {
		return err
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	tokens := sessions.NewTokens(a.db, ca, "local")
	a.Server, err = sessions.New(sessions.Config{
		Listener: lis, CA: ca, Tokens: tokens, Artifacts: a.artifacts, Changed: func() {}, Logger: a.Log,
	})
	if err != nil {
		return err
	}
	return a.launch(ctx, tokens, lis.Addr().String())
}

func (a *Agent) launch(ctx context.Context, tokens *sessions.Tokens, control string) error {
	binaries, err := filepath.Abs("bin")
	if err != nil {
		return err
	}
	a.Fleet, err = local.New(local.Config{
		DataDir: a.Dir, AgentPath: filepath.Join(binaries, "hearth-agent"), InitPath: filepath.Join(binaries, "hearth-init"),
		Control: control, SubnetPool: a.Subnets, MaxInstances: 1,
		Environ: os.Environ(), AgentArgs: a.Args, Logger: a.Log,
	})
	if err != nil {
		return err
	}
	err = a.db.Update(ctx, func(w store.Writer) error {
		err := w.PutProvider(controlplane.CapacityProvider{Name: provider, State: controlplane.ProviderActive, Zones: []controlplane.Zone{"zone"}})
		return errors.Join(err, w.PutInstance(controlplane.Instance{ID: Instance, Provider: provider, State: controlplane.InstanceLaunching}))
	})
	if err != nil {
		return err
	}
	token, _, err := tokens.Mint(ctx, provider, Instance, time.Hour, time.Now())
	if err != nil {
		return err
	}
	return a.Fleet.Launch(ctx, fleet.LaunchRequest{
		Instance: Instance, Provider: provider, Zone: "zone", JoinToken: token,
		Size: controlplane.Resources{CPU: 2000, Memory: 8 << 30},
	})
}

// Close takes the instance down and releases everything.
func (a *Agent) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errTooLong)
	defer cancel()
	var errs []error
	if a.Fleet != nil {
		errs = append(errs, a.Fleet.TerminateAll(ctx))
	}
	if a.artifacts != nil {
		errs = append(errs, a.artifacts.Close())
	}
	if a.db != nil {
		errs = append(errs, a.db.Close())
	}
	return errors.Join(errs...)
}
