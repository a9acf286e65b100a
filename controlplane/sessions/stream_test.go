package sessions_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// sink is a caller that takes its answer as it comes.
type sink struct {
	log strings.Builder
	// fail is what Write returns after the first piece.
	fail error
}

func (s *sink) Executing(q controlplane.Qualifier) { fmt.Fprintf(&s.log, "executing %s;", q) }

func (s *sink) Begin(contentType string) error {
	fmt.Fprintf(&s.log, "begin %s;", contentType)
	return nil
}

func (s *sink) Write(piece []byte) (int, error) {
	if s.fail != nil && strings.Contains(s.log.String(), "piece") {
		return 0, s.fail
	}
	fmt.Fprintf(&s.log, "piece %s;", piece)
	return len(piece), nil
}

// streaming is an agent that answers so to whom asks for a stream.
func streaming(answer func(invokev1.InvokeService_InvokeStreamServer) error) *invoker {
	return &invoker{stream: func(s invokev1.InvokeService_InvokeStreamServer) error {
		first, err := s.Recv()
		if err != nil {
			return err
		}
		if !first.GetHead().GetStreamAnswer() {
			return status.Error(codes.Internal, "nobody asked for a stream")
		}
		if _, err := receive(s); err != nil {
			return err
		}
		return answer(s)
	}}
}

func sends(s invokev1.InvokeService_InvokeStreamServer, functionError, contentType string, end *invokev1.ResponseEnd, chunks ...string) error {
	head := &invokev1.ResponseHead{FunctionError: functionError, ContentType: contentType}
	err := s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_Head{Head: head}})
	for _, c := range chunks {
		err = errors.Join(err, s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_Chunk{Chunk: []byte(c)}}))
	}
	if end != nil {
		err = errors.Join(err, s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_End{End: end}}))
	}
	return err
}

// stuck is a caller that reads nothing until it may.
type stuck struct {
	sink

	may chan struct{}
}

func (s *stuck) Write(piece []byte) (int, error) {
	<-s.may
	return len(piece), nil
}

func TestACallerThatReadsNothingHoldsUpItsAgent(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	const piece, pieces = 32 << 10, 1000
	r := newRig(t)
	r.data(t, r.join(t, r.mint(t, "i-1")), streaming(func(s invokev1.InvokeService_InvokeStreamServer) error {
		err := sends(s, "", "", nil)
		for range pieces {
			err = errors.Join(err, s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_Chunk{Chunk: make([]byte, piece)}}))
			sent.Add(piece)
		}
		return errors.Join(err, s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_End{End: &invokev1.ResponseEnd{}}}))
	}))
	eventually(t, "the data connection", func() bool { return r.DataConnections("i-1") > 0 })
	to := &stuck{may: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := r.Call(t.Context(), router.Endpoint{Environment: "e-1", Instance: "i-1"},
			controlplane.InvokeRequest{RequestID: "r", Payload: []byte("{}"), Stream: to}, time.Minute)
		done <- err
	}()
	last, still := int64(-1), 0
	eventually(t, "the agent to be held up", func() bool {
		now := sent.Load()
		if still++; now != last || now == 0 {
			last, still = now, 0
		}
		return still > 20
	})
	if last > 1<<20 {
		t.Errorf("%d bytes were sent to a caller that reads none", last)
	}
	close(to.may)
	if err := <-done; err != nil || sent.Load() != piece*pieces {
		t.Errorf("%d bytes, %v", sent.Load(), err)
	}
}

func TestAStreamedAnswerReachesItsCallerPieceByPiece(t *testing.T) {
	t.Parallel()
	bored := errors.New("bored")
	for name, c := range map[string]struct {
		answer             func(invokev1.InvokeService_InvokeStreamServer) error
		fail               error
		log, code, payload string
		lost, refused      bool
	}{
		"whole": {answer: func(s invokev1.InvokeService_InvokeStreamServer) error {
			return sends(s, "", "text/x", &invokev1.ResponseEnd{Duration: durationpb.New(time.Second)}, "one", "two")
		}, log: "begin text/x;piece one;piece two;"},
		"ended by an error": {answer: func(s invokev1.InvokeService_InvokeStreamServer) error {
			return sends(s, "", "", &invokev1.ResponseEnd{ErrorType: "Sandbox.Timedout", ErrorDocument: []byte("document")}, "one")
		}, log: "begin ;piece one;", code: "Unhandled", payload: "document"},
		"an error from the start": {answer: func(s invokev1.InvokeService_InvokeStreamServer) error {
			return sends(s, "Unhandled", "application/json", &invokev1.ResponseEnd{}, "docu", "ment")
		}, code: "Unhandled", payload: "document"},
		"cut": {answer: func(s invokev1.InvokeService_InvokeStreamServer) error {
			return sends(s, "", "", nil, "one")
		}, log: "begin ;piece one;", lost: true},
		"a caller that leaves": {answer: func(s invokev1.InvokeService_InvokeStreamServer) error {
			err := sends(s, "", "", nil, "one", "two")
			<-s.Context().Done()
			return err
		}, fail: bored, log: "begin ;piece one;", lost: true},
		"refused": {answer: func(invokev1.InvokeService_InvokeStreamServer) error {
			st, err := status.New(codes.ResourceExhausted, "cpu").WithDetails(&invokev1.Refusal{Reason: invokev1.RefusalReason_REFUSAL_REASON_CPU})
			return errors.Join(err, st.Err())
		}, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.data(t, r.join(t, r.mint(t, "i-1")), streaming(c.answer))
			eventually(t, "the data connection", func() bool { return r.DataConnections("i-1") > 0 })
			to := &sink{fail: c.fail}
			ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, errors.New("too slow"))
			defer cancel()
			res, err := r.Call(ctx, router.Endpoint{Environment: "e-1", Instance: "i-1"},
				controlplane.InvokeRequest{RequestID: "r", Payload: []byte("{}"), Stream: to}, time.Minute)
			_, lost := errors.AsType[*controlplane.LostError](err)
			_, refused := errors.AsType[*router.RefusedError](err)
			if lost != c.lost || refused != c.refused || to.log.String() != c.log {
				t.Errorf("got %q, %v", to.log.String(), err)
			}
			if res.FunctionError != c.code || err == nil && string(res.Payload) != c.payload {
				t.Errorf("got %+v %s", res, res.Payload)
			}
		})
	}
}
