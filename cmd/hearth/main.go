// Command hearth is for whoever runs Hearth: it shows what runs where, drains
// instances, makes join tokens, and "hearth up" runs everything on this machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hearth-compute/hearth/cmd/hearth/cli"
	"github.com/hearth-compute/hearth/cmd/internal/boot"
)

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit code.
func run(args []string) int {
	boot.SurviveBrokenPipes()
	root := cli.New(cli.Env{
		Getenv: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr, Now: time.Now, Version: boot.Version(),
	})
	root.AddCommand(upCommand())
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintf(os.Stderr, "hearth: %v\n", err)
	return 1
}

// signals are those that ask to stop. A process that was started to ignore
// hang-ups goes on ignoring them.
func signals() (<-chan os.Signal, func()) {
	// Three: the third gives up, and none must be lost while one is handled.
	c := make(chan os.Signal, 3)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(c, syscall.SIGHUP)
	}
	return c, func() { signal.Stop(c) }
}
