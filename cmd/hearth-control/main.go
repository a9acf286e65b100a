// Command hearth-control is Hearth's control service: it answers the Lambda
// API, decides what runs where, and routes invokes to agents.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/hearth-compute/hearth/cmd/internal/boot"
	"github.com/hearth-compute/hearth/cmd/internal/control"
	"github.com/hearth-compute/hearth/controlplane/server"
)

func main() { boot.Main(run) }

func run(ctx context.Context) error {
	cfg := server.Default()
	cfg.Version = boot.Version()
	cfg.Environ = os.Environ()
	fs := boot.NewFlagSet("hearth-control", "The control service: the Lambda API, placement and routing.")
	control.RegisterFlags(fs, &cfg)
	logs := boot.RegisterLogFlags(fs)
	check := fs.Bool("check", false, "validate the configuration and exit")
	version := fs.Bool("version", false, "print the version and exit")
	if err := boot.Parse(fs, os.Args[1:], os.Getenv); err != nil {
		return err
	}
	if *version {
		fmt.Println(boot.Version())
		return nil
	}
	if err := cfg.Validate(); err != nil || *check {
		return err
	}
	cfg.Logger = logs.New(os.Stderr)
	s, err := server.New(ctx, cfg)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
