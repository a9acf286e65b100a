package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/hearth-compute/hearth/cmd/hearth/up"
	"github.com/hearth-compute/hearth/cmd/internal/boot"
	"github.com/hearth-compute/hearth/cmd/internal/control"
	"github.com/hearth-compute/hearth/controlplane/fleet/local"
	"github.com/hearth-compute/hearth/controlplane/server"
)

const (
	keepDataFlag    = "keep-data"
	defaultProvider = "default"
	upSummary       = `Runs hearth-control on this machine, with instances that are processes of this
machine. It takes hearth-control's flags. It is for trying Hearth out: SIGTERM or
Ctrl-C takes everything down again, functions included. It needs root and a
running containerd. The capacity provider of --default-capacity-provider is made
if it does not exist.`
)

// upCommand parses its flags by itself: they are hearth-control's.
func upCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "up [flags of hearth-control]",
		Short:              "Run everything on this machine, until stopped; then take it all down",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runUp(cmd.Context(), args)
		},
	}
}

func runUp(ctx context.Context, args []string) error {
	u, err := parseUp(args, os.Getenv)
	if err != nil {
		return err
	}
	bin, err := binaries()
	if err != nil {
		return err
	}
	check := up.Preflight{UID: os.Geteuid(), Binaries: bin.all(), ContainerdAddress: u.control.Local.ContainerdAddress}
	if err := check.Check(ctx); err != nil {
		return err
	}
	instances, err := newInstances(u, bin)
	if err != nil {
		return err
	}
	stop, release := signals()
	defer release()
	return up.Run(ctx, up.Config{
		ControlPath: bin.control,
		Args:        slices.DeleteFunc(slices.Clone(args), isKeepData),
		Environ:     os.Environ(),
		DataDir:     u.control.DataDir,
		Addresses: up.Addresses{
			Lambda: u.control.Listen, Agents: u.control.AgentListen,
			Operators: u.control.OperatorListen, Metrics: u.control.MetricsListen,
		},
		Provider:  provider(&u.control),
		Region:    u.control.Region,
		KeepData:  u.keepData,
		Instances: instances,
		Signals:   stop,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
	})
}

// provider is the capacity provider that is made, by who may.
func provider(c *server.Config) up.Provider {
	p := up.Provider{Name: c.DefaultProvider, AccountID: c.AccountID, Region: c.Region}
	if c.Verifies() {
		p.AccessKeysFile = c.AccessKeysFile
	}
	return p
}

// upFlags is what the flags of "hearth up" say.
type upFlags struct {
	control  server.Config
	keepData bool
	logs     *boot.LogFlags
}

// parseUp reads the flags as hearth-control will, and checks them as it would:
// it must not be started to fail over and over.
func parseUp(args []string, getenv func(string) string) (upFlags, error) {
	u := upFlags{control: server.Default()}
	u.control.DefaultProvider = defaultProvider
	fs := boot.NewFlagSet("hearth up", upSummary)
	control.RegisterFlags(fs, &u.control)
	u.logs = boot.RegisterLogFlags(fs)
	fs.BoolVar(&u.keepData, keepDataFlag, false, "keep functions and their code in --data-dir at the end; instances go all the same")
	if err := boot.Parse(fs, args, getenv); err != nil {
		return u, err
	}
	if u.control.Fleet != "local" {
		return u, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
			"--fleet %s: hearth up runs everything on this machine; for other fleets run hearth-control itself", u.control.Fleet))
	}
	if err := u.control.Validate(); err != nil {
		return u, err
	}
	dir, err := filepath.Abs(u.control.DataDir)
	if err != nil {
		return u, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("--data-dir %s: %v", u.control.DataDir, err))
	}
	u.control.DataDir = dir
	return u, nil
}

// isKeepData reports whether an argument is the one flag that hearth-control
// does not have.
func isKeepData(arg string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
	return strings.HasPrefix(arg, "-") && name == keepDataFlag
}

// newInstances makes the fleet that hearth-control runs, to take it down.
func newInstances(u upFlags, bin paths) (*local.Fleet, error) {
	pool, err := netip.ParsePrefix(u.control.Local.SubnetPool)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("--local-subnet-pool: %v", err))
	}
	return local.New(local.Config{
		DataDir: u.control.DataDir, AgentPath: bin.agent, Control: u.control.AgentListen,
		ContainerdAddress: u.control.Local.ContainerdAddress, SubnetPool: pool, Region: u.control.Region,
		Environ: os.Environ(), Logger: u.logs.New(os.Stderr).With("part", "teardown"),
	})
}

// paths are the binaries next to this one.
type paths struct{ control, agent, init string }

func binaries() (paths, error) {
	self, err := os.Executable()
	if err != nil {
		return paths{}, fmt.Errorf("finding the other binaries: %w: %w", err, errdefs.ErrInternal)
	}
	dir := filepath.Dir(self)
	return paths{
		control: filepath.Join(dir, "hearth-control"),
		agent:   filepath.Join(dir, "hearth-agent"),
		init:    filepath.Join(dir, "hearth-init"),
	}, nil
}

func (p paths) all() []string { return []string{p.control, p.agent, p.init} }
