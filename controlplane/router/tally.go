package router

import (
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// defaultRetryAfter is told to callers when no agent said better: the time in
// which a slot may well come free.
const defaultRetryAfter = time.Second

// tally adds up the refusals of one invoke.
type tally struct {
	// reason is the one to tell the caller: resource pressure is rarer and says
	// more than a lack of slots, which says more than nothing ready.
	reason     controlplane.ThrottleReason
	retryAfter time.Duration
}

func (t *tally) add(e *RefusedError) {
	if reason := throttleReason(e.Reason); weight(reason) > weight(t.reason) {
		t.reason = reason
	}
	if e.RetryAfter > 0 && (t.retryAfter == 0 || e.RetryAfter < t.retryAfter) {
		t.retryAfter = e.RetryAfter
	}
}

func (t *tally) throttled() error {
	if t.reason == "" {
		t.reason = controlplane.ThrottleNoCapacity
	}
	if t.retryAfter == 0 {
		t.retryAfter = defaultRetryAfter
	}
	return &controlplane.ThrottledError{Reason: t.reason, RetryAfter: t.retryAfter}
}

func throttleReason(r RefusalReason) controlplane.ThrottleReason {
	switch r {
	case RefusedConcurrency:
		return controlplane.ThrottleConcurrency
	case RefusedCPU:
		return controlplane.ThrottleCPU
	case RefusedMemory:
		return controlplane.ThrottleMemory
	case RefusedDisk:
		return controlplane.ThrottleDisk
	case RefusedDraining, RefusedNotReady, RefusedUnreachable:
		return controlplane.ThrottleNoCapacity
	}
	return controlplane.ThrottleNoCapacity
}

func weight(r controlplane.ThrottleReason) int {
	switch r {
	case controlplane.ThrottleNoCapacity:
		return 1
	case controlplane.ThrottleConcurrency:
		return 2
	case controlplane.ThrottleCPU:
		return 3
	case controlplane.ThrottleMemory:
		return 4
	case controlplane.ThrottleDisk:
		return 5
	case controlplane.ThrottleReserved: // no agent says so
	}
	return 0
}
