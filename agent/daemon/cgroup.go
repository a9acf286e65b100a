package daemon

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent/sampler"
)

// openCgroup returns the reader of a cgroup.
func openCgroup(path string) (sampler.Reader, error) {
	return nil, fmt.Errorf("reading cgroup %s: %w", path, errdefs.ErrNotImplemented)
}
