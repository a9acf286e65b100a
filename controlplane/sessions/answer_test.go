package sessions_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// keeper is an agent that keeps answers of size bytes, and says that they have
// said.
type keeper struct {
	invoker

	size, said atomic.Int64
	taken      atomic.Int64
	// sending is how many bytes it was asked for and nobody has given back.
	sending atomic.Int64
	peak    atomic.Int64
}

func keeps(size, said int64) *keeper {
	k := &keeper{}
	k.size.Store(size)
	k.said.Store(said)
	k.invoke = func(r *invokev1.InvokeRequest) (*invokev1.InvokeResponse, error) {
		if most := r.GetHead().GetInlineBytes(); most < 1 || most > 64<<10 {
			return nil, status.Errorf(codes.Internal, "asked for answers of %d bytes at once", most)
		}
		return &invokev1.InvokeResponse{Head: &invokev1.ResponseHead{KeptBytes: k.said.Load(), ContentType: "text/x"}}, nil
	}
	k.stream = func(s invokev1.InvokeService_InvokeStreamServer) error {
		if _, err := receive(s); err != nil {
			return err
		}
		head := &invokev1.ResponseHead{KeptBytes: k.said.Load(), ContentType: "text/x"}
		return errors.Join(
			s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_Head{Head: head}}),
			s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_End{End: &invokev1.ResponseEnd{}}}),
		)
	}
	return k
}

// TakeAnswer implements invokev1.InvokeServiceServer.
func (k *keeper) TakeAnswer(_ *invokev1.TakeAnswerRequest, s grpc.ServerStreamingServer[invokev1.TakeAnswerResponse]) error {
	k.taken.Add(1)
	size := k.size.Load()
	for now := k.sending.Add(size); ; {
		peak := k.peak.Load()
		if now <= peak || k.peak.CompareAndSwap(peak, now) {
			break
		}
	}
	for rest := size; rest > 0; rest -= 64 << 10 {
		if err := s.Send(&invokev1.TakeAnswerResponse{Chunk: make([]byte, min(rest, 64<<10))}); err != nil {
			return err
		}
	}
	return nil
}

// calls runs an invocation on the agent of i-1.
func (r *rig) calls(t *testing.T, id string, payload []byte) (controlplane.InvokeResult, error) {
	return r.Call(t.Context(), router.Endpoint{Environment: "e-1", Instance: "i-1"},
		controlplane.InvokeRequest{RequestID: id, Payload: payload}, time.Minute)
}

func TestLargeAnswersToSmallRequestsTakeNoMoreThanTheyMay(t *testing.T) {
	t.Parallel()
	const size, room, callers = 6 << 20, 16 << 20, 20 // the least AnswerMemory
	r := newRig(t)
	k := keeps(size, size)
	r.data(t, r.join(t, r.mint(t, "i-1")), k)
	eventually(t, "the data connection", func() bool { return r.DataConnections("i-1") > 0 })
	var all sync.WaitGroup
	for i := range callers {
		payload := []byte("{}")
		if i%8 == 0 {
			payload = make([]byte, 100_000) // rides a stream
		}
		all.Go(func() {
			res, err := r.calls(t, fmt.Sprint(i), payload)
			if err != nil || len(res.Payload) != size || res.ContentType != "text/x" || res.Release == nil {
				t.Errorf("%d bytes, %v", len(res.Payload), err)
				return
			}
			k.sending.Add(-size)
			res.Release()
			res.Release() // once is enough, twice no harm
		})
	}
	all.Wait()
	if n, peak := k.taken.Load(), k.peak.Load(); n != callers || peak > room || peak < size {
		t.Errorf("%d answers taken, %d bytes at once", n, peak)
	}
}

func TestAnAnswerStaysWithItsAgentWhileOthersAreHeld(t *testing.T) {
	t.Parallel()
	const size = 7 << 20
	r := newRig(t)
	k := keeps(size, size)
	r.data(t, r.join(t, r.mint(t, "i-1")), k)
	eventually(t, "the data connection", func() bool { return r.DataConnections("i-1") > 0 })
	first, err := r.calls(t, "1", nil)
	must(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := r.calls(t, "2", nil)
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("there was no room for the second: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if n := k.taken.Load(); n != 1 {
		t.Errorf("%d answers were taken", n)
	}
	first.Release()
	must(t, <-done)
}

func TestAnAnswerThatIsNotAsLargeAsItWasSaidIsLostAndHoldsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	k := keeps(0, 0)
	r.data(t, r.join(t, r.mint(t, "i-1")), k)
	eventually(t, "the data connection", func() bool { return r.DataConnections("i-1") > 0 })
	for range 2 { // more than there is room for if they held any
		for _, c := range []struct{ size, said int64 }{{7 << 20, 6 << 20}, {6 << 20, 7 << 20}, {1, 1 << 40}} {
			k.size.Store(c.size)
			k.said.Store(c.said)
			res, err := r.calls(t, "x", nil)
			if _, ok := errors.AsType[*controlplane.LostError](err); !ok || res.Release != nil {
				t.Errorf("%d bytes instead of %d: %v", c.size, c.said, err)
			}
		}
	}
	k.size.Store(7 << 20)
	k.said.Store(7 << 20)
	res, err := r.calls(t, "y", nil)
	if err != nil || len(res.Payload) != 7<<20 {
		t.Errorf("one that is: %d bytes, %v", len(res.Payload), err)
	}
}
