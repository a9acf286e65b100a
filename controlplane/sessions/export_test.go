package sessions

import "github.com/hearth-compute/hearth/controlplane"

// DataConnections is how many data connections an instance has.
func (s *Server) DataConnections(id controlplane.InstanceID) int { return s.pool.count(id) }
