package router

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// TestASlotGivenToACallerThatLeftIsNotLost has callers that left already be
// given a slot: half of them see that first, half the slot.
func TestASlotGivenToACallerThatLeftIsNotLost(t *testing.T) {
	t.Parallel()
	left, leave := context.WithCancelCause(t.Context())
	errLeft := errors.New("left")
	leave(errLeft)
	var l lane
	l.version.Store(&Version{State: controlplane.VersionActive, Endpoints: []Endpoint{{Environment: "e-1", Limit: 1, peer: new(peer)}}})
	gone := 0
	for range 100 {
		e, err := l.wait(left, time.Now(), time.Minute)
		switch {
		case err == nil:
			l.free(e)
		case errors.Is(err, errLeft):
			gone++
		default:
			t.Fatalf("got %v: the slot of one that left is lost", err)
		}
		if n := l.version.Load().Endpoints[0].peer.inFlight.Load(); n != 0 || l.waiting.Load() != 0 {
			t.Fatalf("%d in flight and %d waiting, with nobody there", n, l.waiting.Load())
		}
	}
	if gone == 0 || gone == 100 {
		t.Errorf("%d of 100 saw that they had left", gone)
	}
}
