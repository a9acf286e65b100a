package lambdaapi

import (
	"fmt"
	"net/http"

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
