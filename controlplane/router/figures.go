package router

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// bounds of the histogram of durations.
var bounds = [...]time.Duration{ //nolint:gochecknoglobals // a constant array
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second,
	2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute,
}

// figures counts the invokes of one version. Nothing is looked up and nothing is
// allocated on an invoke's way.
type figures struct {
	// invocations were handed to an environment that did not refuse them; errors
	// are those of them that the function answered with an error.
	invocations, errors atomic.Int64
	// Throttles, each by exactly one reason.
	concurrency, cpu, memory, disk atomic.Int64
	// took counts durations by the first bound that they do not exceed, and sum
	// adds them up.
	took [len(bounds) + 1]atomic.Int64
	sum  atomic.Int64
}

func (f *figures) observe(a *attempt, functionError bool, err error) {
	if err != nil {
		if throttled, ok := errors.AsType[*controlplane.ThrottledError](err); ok {
			f.throttle(throttled.Reason)
			return
		}
	}
	if !a.ran {
		return
	}
	f.invocations.Add(1)
	if functionError {
		f.errors.Add(1)
	}
	i := 0
	for i < len(bounds) && a.took > bounds[i] {
		i++
	}
	f.took[i].Add(1)
	f.sum.Add(int64(a.took))
}

// throttle counts a throttle. That of the reserved concurrency is one of
// concurrency, as at AWS.
func (f *figures) throttle(reason controlplane.ThrottleReason) {
	switch reason {
	case controlplane.ThrottleCPU:
		f.cpu.Add(1)
	case controlplane.ThrottleMemory:
		f.memory.Add(1)
	case controlplane.ThrottleDisk:
		f.disk.Add(1)
	case controlplane.ThrottleConcurrency, controlplane.ThrottleReserved:
		f.concurrency.Add(1)
	}
}

// durations returns the histogram.
func (f *figures) durations() (count uint64, sum float64, atMost map[float64]uint64) {
	atMost = make(map[float64]uint64, len(bounds))
	for i := range f.took {
		count += uint64(f.took[i].Load()) //nolint:gosec // only grows
		if i < len(bounds) {
			atMost[bounds[i].Seconds()] = count
		}
	}
	return count, time.Duration(f.sum.Load()).Seconds(), atMost
}
