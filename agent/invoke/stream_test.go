package invoke_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/invoke"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// pieces is an answer that streams what arrives on a channel.
type pieces struct {
	from chan []byte
	end  agent.Outcome
	read atomic.Int64
}

func (p *pieces) Next() ([]byte, bool) {
	b, ok := <-p.from
	p.read.Add(int64(len(b)))
	return b, ok
}

func (p *pieces) End() agent.Outcome { return p.end }

// streams is an environment that answers with p to whom asks for it.
func streams(p *pieces) environment {
	return func(_ context.Context, inv agent.Invocation, _ []byte) (agent.Outcome, error) {
		if !inv.Stream {
			return agent.Outcome{}, errors.New("nobody asked for a stream")
		}
		return agent.Outcome{ContentType: "text/x", Stream: p}, nil
	}
}

// ask starts an invocation whose answer is to be streamed.
func ask(ctx context.Context, t *testing.T, c invokev1.InvokeServiceClient, event string) invokev1.InvokeService_InvokeStreamClient {
	t.Helper()
	s, err := c.InvokeStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	h := head("r", len(event))
	h.StreamAnswer, h.InlineBytes = true, 1
	err = errors.Join(
		s.Send(&invokev1.InvokeStreamRequest{Message: &invokev1.InvokeStreamRequest_Head{Head: h}}),
		s.Send(&invokev1.InvokeStreamRequest{Message: &invokev1.InvokeStreamRequest_Chunk{Chunk: []byte(event)}}),
		s.CloseSend(),
	)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnAnswerGoesOutPieceByPiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pieces{from: make(chan []byte), end: agent.Outcome{Duration: time.Second}}
		s, c, stop := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": streams(p)})
		defer stop()
		answer := ask(t.Context(), t, c, "{}")
		if m, err := answer.Recv(); err != nil || m.GetHead().GetContentType() != "text/x" || m.GetHead().GetKeptBytes() != 0 {
			t.Fatalf("got %v, %v", m, err)
		}
		for _, word := range []string{"one", "two"} {
			p.from <- []byte(word)
			if m, err := answer.Recv(); err != nil || string(m.GetChunk()) != word {
				t.Fatalf("got %v, %v", m, err)
			}
		}
		if n := s.InFlight(); n != 1 {
			t.Errorf("%d in flight while it streams", n)
		}
		close(p.from)
		endsWell(t, answer)
	})
}

// endsWell wants the end of an answer of a second, and nothing after it.
func endsWell(t *testing.T, answer invokev1.InvokeService_InvokeStreamClient) {
	t.Helper()
	m, err := answer.Recv()
	if e := m.GetEnd(); err != nil || e == nil || e.GetErrorType() != "" || e.GetDuration().AsDuration() != time.Second {
		t.Errorf("got %v, %v", m, err)
	}
	if _, err := answer.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestAStreamThatFailsSaysSoAtItsEnd(t *testing.T) {
	t.Parallel()
	var released atomic.Bool
	for want, end := range map[string]agent.Outcome{
		"Function.X": {FunctionError: "Unhandled", ErrorType: "Function.X", Payload: []byte("document"), Release: func() { released.Store(true) }},
		"Unhandled":  {FunctionError: "Unhandled", Payload: []byte("document")},
	} {
		p := &pieces{from: make(chan []byte), end: end}
		close(p.from)
		_, c, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": streams(p)})
		answer := ask(t.Context(), t, c, "{}")
		_, _ = answer.Recv()
		m, err := answer.Recv()
		if e := m.GetEnd(); err != nil || e.GetErrorType() != want || string(e.GetErrorDocument()) != "document" {
			t.Errorf("got %v, %v", m, err)
		}
	}
	if !released.Load() {
		t.Error("the memory of the document was not given back")
	}
}

func TestWhoAsksForAStreamGetsWhatIsNotOneTooWhateverItsSize(t *testing.T) {
	t.Parallel()
	_, c, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": environment(echo)})
	answer, text := ask(t.Context(), t, c, strings.Repeat("x", 1000)), ""
	for {
		m, err := answer.Recv()
		if err != nil {
			t.Fatal(err)
		}
		text += string(m.GetChunk())
		if m.GetEnd() != nil {
			break
		}
	}
	if len(text) != 1000 {
		t.Errorf("got %d bytes", len(text))
	}
}

func TestInvariant2_AStreamWhoseCallerLeftIsReadToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pieces{from: make(chan []byte), end: agent.Outcome{}}
		s, c, stop := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": streams(p)})
		defer stop()
		ctx, cancel := context.WithCancelCause(t.Context())
		answer := ask(ctx, t, c, "{}")
		if _, err := answer.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel(errors.New("bored"))
		if _, err := answer.Recv(); status.Code(err) != codes.Canceled {
			t.Fatalf("got %v", err)
		}
		for range 100 {
			p.from <- make([]byte, 32<<10)
		}
		if n := s.InFlight(); n != 1 {
			t.Errorf("%d in flight", n)
		}
		close(p.from)
		synctest.Wait()
		if n := s.InFlight(); n != 0 {
			t.Errorf("%d in flight", n)
		}
	})
}

func TestACallerThatReadsNothingHoldsUpItsStreamOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pieces{from: make(chan []byte)}
		_, c, stop := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": streams(p), "other": environment(echo)})
		defer stop()
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		_ = ask(ctx, t, c, "{}")
		feeding := make(chan struct{})
		go func() {
			defer close(feeding)
			for range 1000 {
				p.from <- make([]byte, 32<<10)
			}
			close(p.from)
		}()
		synctest.Wait()
		if n := p.read.Load(); n > 1<<20 {
			t.Errorf("%d bytes were taken for a caller that reads none", n)
		}
		h := head("sibling", 2)
		h.EnvironmentId = "other"
		if r, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: h, Payload: []byte("{}")}); err != nil || string(r.GetPayload()) != "{}" {
			t.Errorf("a sibling got %v, %v", r, err)
		}
		cancel(errors.New("bored"))
		<-feeding
	})
}
