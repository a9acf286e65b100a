package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

var errDrainTooSlow = errors.New("it is not empty yet")

// drainInterval is how often --wait looks.
const drainInterval = time.Second

func (a *app) drainCommand() *cobra.Command {
	wait, limit := false, 15*time.Minute
	cmd := &cobra.Command{
		Use:   "drain INSTANCE",
		Short: "Empty an instance: its environments are replaced elsewhere, then stopped",
		Long: `Empty an instance: nothing new is placed on it, its environments are replaced
elsewhere first and then stopped, and what they run finishes.

The command returns at once; with --wait it returns when the instance is empty
or gone.`,
		Example: "  hearth drain i-0123456789abcdef0 --wait",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			defer c.close()
			if err := a.drain(cmd.Context(), c, args[0]); err != nil || !wait {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), limit, errDrainTooSlow)
			defer cancel()
			return a.awaitEmpty(ctx, c, args[0])
		},
	}
	a.addControl(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is empty or gone")
	cmd.Flags().DurationVar(&limit, "timeout", limit, "how long --wait waits at most")
	return cmd
}

// drainJSON is what "hearth drain -o json" prints, once for each change it sees.
type drainJSON struct {
	Instance     string `json:"instance"`
	State        string `json:"state"`
	Environments int32  `json:"environments"`
}

func (a *app) drain(ctx context.Context, c *client, id string) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	if _, err := c.DrainInstance(ctx, &operatorv1.DrainInstanceRequest{Instance: id}); err != nil {
		return c.explain(err)
	}
	i, err := find(ctx, c, id)
	if err != nil {
		return err
	}
	return a.sayDrain(id, i)
}

// awaitEmpty says every change until nothing is left on the instance.
func (a *app) awaitEmpty(ctx context.Context, c *client, id string) error {
	tick := time.NewTicker(drainInterval)
	defer tick.Stop()
	last := int32(-1)
	for {
		i, err := find(ctx, c, id)
		if err != nil && !over(ctx) {
			return err
		}
		if err == nil {
			if n := i.GetEnvironments(); i == nil || n != last && last >= 0 {
				if err := a.sayDrain(id, i); err != nil {
					return err
				}
			}
			if last = i.GetEnvironments(); last == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("waiting until %s is empty: %v", id, context.Cause(ctx)))
		case <-tick.C:
		}
	}
}

// over tells whether ctx has ended, or its deadline is so close that a call
// which failed met it first.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && time.Until(deadline) < 50*time.Millisecond
}

func (a *app) undrainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "undrain INSTANCE",
		Short:   "Let a drained instance take environments again",
		Example: "  hearth undrain i-0123456789abcdef0",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial()
			if err != nil {
				return err
			}
			defer c.close()
			ctx, cancel := limited(cmd.Context())
			defer cancel()
			if _, err := c.UndrainInstance(ctx, &operatorv1.UndrainInstanceRequest{Instance: args[0]}); err != nil {
				return c.explain(err)
			}
			if a.output != "json" {
				_, err := fmt.Fprintf(a.env.Stdout, "%s takes environments again\n", args[0])
				return err
			}
			i, err := find(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.sayDrain(args[0], i)
		},
	}
	a.addControl(cmd)
	return cmd
}

// find returns an instance, nil if it is gone.
func find(ctx context.Context, c *client, id string) (*operatorv1.Instance, error) {
	ctx, cancel := limited(ctx)
	defer cancel()
	resp, err := c.ListInstances(ctx, &operatorv1.ListInstancesRequest{})
	if err != nil {
		return nil, c.explain(err)
	}
	for _, i := range resp.GetInstances() {
		if i.GetId() == id {
			return i, nil
		}
	}
	return nil, nil //nolint:nilnil // gone is an answer
}

func (a *app) sayDrain(id string, i *operatorv1.Instance) error {
	state := "gone"
	if i != nil {
		state = stateName(i.GetState())
	}
	if a.output == "json" {
		return a.printJSON(drainJSON{id, state, i.GetEnvironments()})
	}
	var err error
	switch n := i.GetEnvironments(); {
	case i == nil:
		_, err = fmt.Fprintf(a.env.Stdout, "%s is gone\n", id)
	case n == 1:
		_, err = fmt.Fprintf(a.env.Stdout, "%s is %s, 1 environment is left\n", id, state)
	default:
		_, err = fmt.Fprintf(a.env.Stdout, "%s is %s, %d environments are left\n", id, state, n)
	}
	return err
}
