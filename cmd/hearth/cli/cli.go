// Package cli holds the operator's commands: what runs where and how hot it is,
// logs, draining, join tokens. Each makes one or two calls of the operator service
// and prints the answer for people, or as JSON for programs.
//
// The JSON has the field names of hearth.operator.v1 in snake_case, numbers as
// numbers, times as RFC 3339, and states in the words of the tables. Lists are
// arrays; lines of logs, which may not end, are objects on lines of their own.
// Fields are only ever added.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

// DefaultControl is the operator listener of hearth-control unless it is told
// otherwise.
const DefaultControl = "127.0.0.1:9101"

// Env is what commands take from the process.
type Env struct {
	// Getenv reads the environment.
	Getenv func(string) string
	// Stdout and Stderr are written to.
	Stdout, Stderr io.Writer
	// Now is the clock ages are told by.
	Now func() time.Time
	// Version is the version of this binary.
	Version string
}

var errCallTooSlow = errors.New("no answer in time")

// callLimit bounds one call.
const callLimit = 10 * time.Second

// New makes the hearth command with everything but "hearth up".
func New(env Env) *cobra.Command {
	a := &app{env: env}
	root := &cobra.Command{
		Use:   "hearth",
		Short: "See and steer Hearth: AWS Lambda's managed instances on your own machines",
		Long: `See and steer Hearth: AWS Lambda's managed instances on your own machines.

Functions are managed with the AWS CLI, an SDK or Terraform, pointed at
hearth-control. This command is for whoever runs Hearth.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.AddCommand(a.psCommand(), a.logsCommand(), a.instancesCommand(), a.drainCommand(), a.undrainCommand(), a.tokenCommand(), a.versionCommand())
	return root
}

// app is what the commands share.
type app struct {
	env     Env
	control string
	output  format
}

// addOutput gives a command the flag -o.
func (a *app) addOutput(cmd *cobra.Command) {
	a.output = "table"
	cmd.Flags().VarP(&a.output, "output", "o", "how to print: table or json")
}

// addControl gives a command the flags of everything that talks to
// hearth-control.
func (a *app) addControl(cmd *cobra.Command) {
	a.addOutput(cmd)
	cmd.Flags().StringVar(&a.control, "control", "",
		"operator listener of hearth-control, HOST:PORT (default HEARTH_CONTROL or "+DefaultControl+")")
}

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this command",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.output == "json" {
				return a.printJSON(struct {
					Version string `json:"version"`
				}{a.env.Version})
			}
			_, err := fmt.Fprintln(a.env.Stdout, a.env.Version)
			return err
		},
	}
	a.addOutput(cmd)
	return cmd
}

// printJSON prints v as programs expect it: indented, with a final newline.
func (a *app) printJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("printing: %w: %w", err, errdefs.ErrInternal)
	}
	_, err = fmt.Fprintf(a.env.Stdout, "%s\n", data)
	return err
}

// format is the value of -o.
type format string

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (*format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(text string) error {
	if text != "table" && text != "json" {
		return errors.New("want table or json")
	}
	*f = format(text)
	return nil
}

// limited bounds one call.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, callLimit, errCallTooSlow)
}
