package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

func (a *app) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make tokens with which hosts join",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.tokenCreateCommand())
	return cmd
}

func (a *app) tokenCreateCommand() *cobra.Command {
	provider, validFor := "", time.Hour
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token with which one host joins a capacity provider",
		Long: `Make a token with which one host joins a capacity provider.

The token is printed on standard output, and nothing else is; it is shown only
this once. Put it into the file that hearth-agent --join-token-file names.`,
		Example: "  hearth token create --capacity-provider blue > join-token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.createToken(cmd.Context(), provider, validFor)
		},
	}
	a.addControl(cmd)
	cmd.Flags().StringVar(&provider, "capacity-provider", "", "the capacity provider the host joins (required)")
	cmd.Flags().DurationVar(&validFor, "valid-for", validFor, "how long the token is valid, at most 720h")
	if err := cmd.MarkFlagRequired("capacity-provider"); err != nil {
		panic(err) // the flag was added two lines above
	}
	return cmd
}

func (a *app) createToken(ctx context.Context, provider string, validFor time.Duration) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.close()
	ctx, cancel := limited(ctx)
	defer cancel()
	resp, err := c.CreateJoinToken(ctx, &operatorv1.CreateJoinTokenRequest{
		CapacityProvider: provider, ValidFor: durationpb.New(validFor),
	})
	if err != nil {
		return c.explain(err)
	}
	if a.output == "json" {
		return a.printJSON(struct {
			Token     string     `json:"token"`
			ExpiresAt *time.Time `json:"expires_at"`
		}{resp.GetToken(), moment(resp.GetExpiresAt())})
	}
	if _, err := fmt.Fprintln(a.env.Stdout, resp.GetToken()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.env.Stderr, "It is good for one host, until %s.\n", resp.GetExpiresAt().AsTime().Format(time.RFC3339))
	return err
}
