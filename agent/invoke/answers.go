package invoke

import (
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/hearth-compute/hearth/agent"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// keepTime is how long an answer waits to be taken: longer than a caller waits
// for room.
const keepTime = 30 * time.Second

// answers are kept until they are taken or forgotten. Each counts as in flight.
type answers struct {
	mu   sync.Mutex
	kept map[string]*answer
}

type answer struct {
	out    agent.Outcome
	forget *time.Timer
}

// keep keeps the answer to a request.
func (s *Server) keep(id string, out agent.Outcome) {
	s.inFlight.Add(1)
	x := &answer{out: out}
	s.answers.mu.Lock()
	old := s.answers.kept[id]
	if s.answers.kept == nil {
		s.answers.kept = map[string]*answer{}
	}
	s.answers.kept[id] = x
	x.forget = time.AfterFunc(keepTime, func() {
		if s.remove(id, x) != nil {
			s.drop(x)
		}
	})
	s.answers.mu.Unlock()
	if old != nil {
		s.drop(old) // its caller reused its id
	}
}

// remove takes an answer out: want, or any if that is nil.
func (s *Server) remove(id string, want *answer) *answer {
	s.answers.mu.Lock()
	defer s.answers.mu.Unlock()
	x := s.answers.kept[id]
	if x == nil || want != nil && x != want {
		return nil
	}
	delete(s.answers.kept, id)
	return x
}

// drop ends an answer that is no longer kept.
func (s *Server) drop(x *answer) {
	x.forget.Stop()
	release(&x.out)
	s.done()
}

func release(out *agent.Outcome) {
	if out.Release != nil {
		out.Release()
	}
}

// TakeAnswer sends an answer that was kept.
func (s *Server) TakeAnswer(req *invokev1.TakeAnswerRequest, stream grpc.ServerStreamingServer[invokev1.TakeAnswerResponse]) error {
	x := s.remove(req.GetRequestId(), nil)
	if x == nil {
		return toStatus(fmt.Errorf("taking the answer to %.128q: not kept: %w", req.GetRequestId(), errdefs.ErrNotFound))
	}
	defer s.drop(x)
	return sendPieces(stream, fieldTaken, x.out.Payload)
}
