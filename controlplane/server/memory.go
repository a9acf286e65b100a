package server

import (
	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/metrics/cgroup"
)

// bodyShare is the part of memory request bodies may take unless told: one in
// so many.
const bodyShare = 4

// answerShare is what large answers may take besides: one part in so many of
// what bodies may.
const answerShare = 4

// bodyMemory is how much of memory request bodies may take.
func bodyMemory(configured controlplane.Bytes) int64 {
	if configured > 0 {
		return int64(configured)
	}
	return max(lambdaapi.LeastBodyMemory, cgroup.Available()/bodyShare)
}
