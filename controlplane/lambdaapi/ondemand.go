package lambdaapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// checkOnDemand checks the bounds of default Lambda, which are tighter than the
// model's.
func checkOnDemand(c *controlplane.Config) error {
	if c.MemoryMB > maxOnDemandMemoryMB {
		return invalidParameter("'MemorySize' value failed to satisfy constraint: Member must have value less than or equal to %d",
			maxOnDemandMemoryMB)
	}
	if c.TimeoutS > maxOnDemandTimeoutS {
		var bounds constraints
		bounds.breaks(fmt.Sprintf("'%d'", c.TimeoutS), "timeout",
			fmt.Sprintf("Member must have value less than or equal to %d", maxOnDemandTimeoutS))
		return bounds.err()
	}
	return nil
}

const (
	// goneLimit bounds how long a creation waits for a function of its name to be
	// gone: what still runs may take much longer.
	goneLimit    = 10 * time.Second
	goneInterval = 50 * time.Millisecond
)

// awaitGone waits, for a while, until a function on demand that is being deleted
// is gone: at AWS it is when the delete is answered, and tools that replace a
// function make the new one at once.
func (s *Server) awaitGone(ctx context.Context, name controlplane.FunctionName) error {
	limit := time.After(goneLimit)
	tick := time.NewTicker(goneInterval)
	defer tick.Stop()
	for {
		var going bool
		err := s.cfg.DB.View(ctx, func(r store.Reader) error {
			f, err := r.Function(name)
			going = err == nil && f.Deleting && f.OnDemand()
			if errdefs.IsNotFound(err) {
				err = nil
			}
			return err
		})
		if err != nil || !going {
			return err
		}
		select {
		case <-tick.C:
		case <-limit:
			return nil // the creation says why it cannot be
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s to be deleted: %w", name, context.Cause(ctx))
		}
	}
}

// noProviderConfig is the error of what only functions configured with a
// capacity provider can do.
func noProviderConfig() error {
	return &exception{
		name: "AccessDeniedException", status: http.StatusForbidden,
		message: "The function provided by the arn does not contain a capacity provider configuration",
	}
}

// readManaged is readVersion for what only functions configured with a capacity
// provider can do.
func (s *Server) readManaged(r store.Reader, ref reference) (*controlplane.Version, error) {
	f, err := s.readFunction(r, ref)
	if err != nil {
		return nil, err
	}
	if f.OnDemand() {
		return nil, noProviderConfig()
	}
	_, v, err := s.readVersion(r, ref)
	return v, err
}
