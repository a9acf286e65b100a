package invoke_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/invoke"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// environment is a function in memory.
type environment func(ctx context.Context, inv agent.Invocation, payload []byte) (agent.Outcome, error)

// Invoke implements invoke.Environment.
func (e environment) Invoke(ctx context.Context, inv agent.Invocation, payload []byte) (agent.Outcome, error) {
	return e(ctx, inv, payload)
}

// echo answers the payload.
func echo(_ context.Context, _ agent.Invocation, payload []byte) (agent.Outcome, error) {
	return agent.Outcome{ContentType: "application/json", Payload: payload, Duration: time.Second}, nil
}

// memory is what the events of a server under test may take: two large ones.
const memory = 15 << 20

// serve runs a server of the environments and returns it with a client.
func serve(t testing.TB, environments map[agent.EnvironmentID]invoke.Environment) (*invoke.Server, invokev1.InvokeServiceClient, func()) {
	t.Helper()
	table := &invoke.Table{}
	table.Replace(environments)
	s := invoke.New(table, memory, slog.New(slog.DiscardHandler))
	options := append(invoke.Recover(slog.New(slog.DiscardHandler)), invoke.Pieces(), grpc.MaxRecvMsgSize(8<<20), grpc.MaxSendMsgSize(8<<20))
	srv := grpc.NewServer(options...)
	s.Register(srv)
	lis := bufconn.Listen(1 << 20)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(lis) })
	conn, err := grpc.NewClient("passthrough:///agent",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20), grpc.MaxCallSendMsgSize(8<<20)))
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { _ = conn.Close(); srv.Stop(); wg.Wait() })
	t.Cleanup(stop)
	return s, invokev1.NewInvokeServiceClient(conn), stop
}

func head(id string, size int) *invokev1.InvocationHead {
	return &invokev1.InvocationHead{
		RequestId: id, EnvironmentId: "e", Timeout: durationpb.New(3 * time.Second), PayloadBytes: int64(size),
	}
}

// stream runs one streamed invocation and returns the payload of the answer
// and the sizes of its frames.
func stream(ctx context.Context, c invokev1.InvokeServiceClient, h *invokev1.InvocationHead, payload []byte) (answer []byte, frames []int, end bool, err error) {
	s, err := c.InvokeStream(ctx)
	if err != nil {
		return nil, nil, false, err
	}
	err = s.Send(&invokev1.InvokeStreamRequest{Message: &invokev1.InvokeStreamRequest_Head{Head: h}})
	for rest := payload; len(rest) > 0 && err == nil; {
		n := min(64<<10, len(rest))
		err = s.Send(&invokev1.InvokeStreamRequest{Message: &invokev1.InvokeStreamRequest_Chunk{Chunk: rest[:n]}})
		rest = rest[n:]
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, false, err
	}
	_ = s.CloseSend()
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return answer, frames, end, nil
		}
		if err != nil {
			return nil, nil, false, err
		}
		if m.GetChunk() != nil {
			frames = append(frames, len(m.GetChunk()))
			answer = append(answer, m.GetChunk()...)
		}
		end = m.GetEnd() != nil
	}
}

func TestAnInvocationArrivesAsItWasSent(t *testing.T) {
	t.Parallel()
	var got agent.Invocation
	_, c, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{
		"e": environment(func(ctx context.Context, inv agent.Invocation, payload []byte) (agent.Outcome, error) {
			got = inv
			return agent.Outcome{FunctionError: "Unhandled", ContentType: "text/plain", Payload: payload, Duration: time.Second}, nil
		}),
	})
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	resp, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Payload: []byte("hi"), Head: &invokev1.InvocationHead{
		RequestId: "r", EnvironmentId: "e", InvokedFunctionArn: "arn", Source: "lambda-api", Timeout: durationpb.New(time.Minute),
		DetachedDeadline: timestamppb.New(until), ClientContext: "{}", TraceId: "Root=1", ContentType: "text/x", PayloadBytes: 2,
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := agent.Invocation{
		RequestID: "r", Environment: "e", InvokedARN: "arn", Source: "lambda-api", Timeout: time.Minute,
		DetachedDeadline: until, ClientContext: "{}", TraceID: "Root=1", ContentType: "text/x",
	}
	if got != want {
		t.Errorf("got %+v want %+v", got, want)
	}
	if resp.GetHead().GetFunctionError() != "Unhandled" || resp.GetHead().GetContentType() != "text/plain" ||
		string(resp.GetPayload()) != "hi" || resp.GetEnd().GetDuration().AsDuration() != time.Second {
		t.Errorf("got %v", resp)
	}
}

func TestSixMegabytesPassBothWaysAndOneByteMoreDoesNot(t *testing.T) {
	t.Parallel()
	_, c, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": environment(echo)})
	payload := bytes.Repeat([]byte("0123456789abcdef"), invoke.MaxPayload/16)
	answer, frames, end, err := stream(t.Context(), c, head("r", len(payload)), payload)
	if err != nil || !bytes.Equal(answer, payload) || !end {
		t.Fatalf("got %d bytes, end %v, %v", len(answer), end, err)
	}
	for _, n := range frames {
		if n > 64<<10 {
			t.Fatalf("got a frame of %d bytes", n)
		}
	}
	more := append(payload, 'x')
	for _, announced := range []int{len(more), -1} {
		if _, _, _, err := stream(t.Context(), c, head("r", announced), more); status.Code(err) != codes.InvalidArgument {
			t.Errorf("announced as %d: got %v", announced, err)
		}
	}
	if _, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: head("r", 0), Payload: more}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("unary: got %v", err)
	}
}

func TestInvariant1_RefusalsCarryTheirReason(t *testing.T) {
	t.Parallel()
	for reason, want := range map[agent.Reason]invokev1.RefusalReason{
		agent.ReasonConcurrency: invokev1.RefusalReason_REFUSAL_REASON_CONCURRENCY,
		agent.ReasonCPU:         invokev1.RefusalReason_REFUSAL_REASON_CPU,
		agent.ReasonMemory:      invokev1.RefusalReason_REFUSAL_REASON_MEMORY,
		agent.ReasonDisk:        invokev1.RefusalReason_REFUSAL_REASON_DISK,
		agent.ReasonDraining:    invokev1.RefusalReason_REFUSAL_REASON_DRAINING,
		agent.ReasonNotReady:    invokev1.RefusalReason_REFUSAL_REASON_NOT_READY,
	} {
		_, c, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{
			"e": environment(func(context.Context, agent.Invocation, []byte) (agent.Outcome, error) {
				return agent.Outcome{}, fmt.Errorf("wrapped: %w", &runtimeapi.RefusedError{
					Verdict: agent.Verdict{Reason: reason, RetryAfter: time.Second},
				})
			}),
		})
		_, unary := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: head("r", 0)})
		_, _, _, streamed := stream(t.Context(), c, head("r", 0), nil)
		for _, err := range []error{unary, streamed} {
			r := refusal(err)
			if r.GetReason() != want || r.GetRetryAfter().AsDuration() != time.Second {
				t.Errorf("%s: got %v", reason, err)
			}
		}
	}
	_, c, _ := serve(t, nil)
	if _, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: head("r", 0)}); refusal(err).GetReason() != invokev1.RefusalReason_REFUSAL_REASON_NOT_READY {
		t.Errorf("got %v for an environment that is not there", err)
	}
}

// refusal is the detail of a RESOURCE_EXHAUSTED, or nil.
func refusal(err error) *invokev1.Refusal {
	s := status.Convert(err)
	if s.Code() != codes.ResourceExhausted || len(s.Details()) != 1 {
		return nil
	}
	r, _ := s.Details()[0].(*invokev1.Refusal)
	return r
}

func TestWhatIsNotARefusalNeverLooksLikeOne(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		head *invokev1.InvocationHead
		fail error
		want codes.Code
	}{
		"no head":         {nil, nil, codes.InvalidArgument},
		"no id":           {head("", 0), nil, codes.InvalidArgument},
		"long id":         {head(strings.Repeat("x", 129), 0), nil, codes.InvalidArgument},
		"no environment":  {&invokev1.InvocationHead{RequestId: "r", Timeout: durationpb.New(time.Second)}, nil, codes.InvalidArgument},
		"no timeout":      {&invokev1.InvocationHead{RequestId: "r", EnvironmentId: "e"}, nil, codes.InvalidArgument},
		"endless timeout": {&invokev1.InvocationHead{RequestId: "r", EnvironmentId: "e", Timeout: durationpb.New(time.Hour)}, nil, codes.InvalidArgument},
		"running already": {head("r", 0), fmt.Errorf("x: %w", errdefs.ErrAlreadyExists), codes.AlreadyExists},
		"too late":        {head("r", 0), fmt.Errorf("x: %w", errdefs.ErrFailedPrecondition), codes.FailedPrecondition},
		"caller gone":     {head("r", 0), fmt.Errorf("x: %w", context.Canceled), codes.Canceled},
		"a bug":           {head("r", 0), errors.New("x"), codes.Internal},
	} {
		_, client, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{
			"e": environment(func(context.Context, agent.Invocation, []byte) (agent.Outcome, error) { return agent.Outcome{}, c.fail }),
		})
		if _, err := client.Invoke(t.Context(), &invokev1.InvokeRequest{Head: c.head}); status.Code(err) != c.want {
			t.Errorf("%s: got %v want %v", name, err, c.want)
		}
	}
}

func TestAStreamThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	_, c, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{"e": environment(echo)})
	if _, _, _, err := stream(t.Context(), c, nil, []byte("x")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no head: got %v", err)
	}
	if _, _, _, err := stream(t.Context(), c, head("r", 5), []byte("x")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("cut payload: got %v", err)
	}
	if answer, _, end, err := stream(t.Context(), c, head("r", -1), []byte("x")); err != nil || string(answer) != "x" || !end {
		t.Errorf("unknown size: got %q %v %v", answer, end, err)
	}
}

func TestAPanicIsContained(t *testing.T) {
	t.Parallel()
	s, c, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{
		"e": environment(func(context.Context, agent.Invocation, []byte) (agent.Outcome, error) { panic("bug") }),
	})
	if _, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: head("r", 0)}); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	if _, _, _, err := stream(t.Context(), c, head("r", 0), nil); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	if s.InFlight() != 0 {
		t.Errorf("got %d in flight", s.InFlight())
	}
}

func TestInvariant3_DrainRefusesTheNewAndWaitsForWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c, stop := serve(t, map[agent.EnvironmentID]invoke.Environment{
			"e": environment(func(context.Context, agent.Invocation, []byte) (agent.Outcome, error) {
				time.Sleep(10 * time.Minute)
				return agent.Outcome{Payload: []byte("done")}, nil
			}),
		})
		defer stop()
		running := make(chan error, 1)
		go func() {
			_, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: head("r", 0)})
			running <- err
		}()
		synctest.Wait()
		slow := errors.New("too slow")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, slow)
		defer cancel()
		if err := s.Drain(ctx); !errors.Is(err, slow) {
			t.Fatalf("got %v", err)
		}
		if _, err := c.Invoke(t.Context(), &invokev1.InvokeRequest{Head: head("new", 0)}); refusal(err).GetReason() != invokev1.RefusalReason_REFUSAL_REASON_DRAINING {
			t.Fatalf("got %v", err)
		}
		began := time.Now()
		if err := s.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 9*time.Minute {
			t.Errorf("took %v", took)
		}
		if err := <-running; err != nil {
			t.Errorf("got %v", err)
		}
		if err := s.Drain(t.Context()); err != nil {
			t.Errorf("a second drain: %v", err)
		}
	})
}

func TestInvariant2_ACallerThatGoesAwayDoesNotEndTheInvocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		finished := make(chan bool, 1)
		s, c, stop := serve(t, map[agent.EnvironmentID]invoke.Environment{
			"e": environment(func(context.Context, agent.Invocation, []byte) (agent.Outcome, error) {
				time.Sleep(time.Minute)
				finished <- true
				return agent.Outcome{}, nil
			}),
		})
		defer stop()
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("impatient"))
		defer cancel()
		if _, err := c.Invoke(ctx, &invokev1.InvokeRequest{Head: head("r", 0)}); status.Code(err) != codes.DeadlineExceeded {
			t.Fatalf("got %v", err)
		}
		if s.InFlight() != 1 {
			t.Errorf("got %d in flight", s.InFlight())
		}
		<-finished
		synctest.Wait()
		if s.InFlight() != 0 {
			t.Errorf("got %d in flight", s.InFlight())
		}
	})
}

func BenchmarkInvoke(b *testing.B) {
	_, c, _ := serve(b, map[agent.EnvironmentID]invoke.Environment{"e": environment(echo)})
	req := &invokev1.InvokeRequest{Head: head("r", 16), Payload: make([]byte, 16)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Invoke(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func TestInvariant4_AnEventForWhichThereIsNoRoomIsRefusedBeforeItIsReceived(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	entered := make(chan struct{}, 8)
	srv, client, _ := serve(t, map[agent.EnvironmentID]invoke.Environment{
		"e": environment(func(ctx context.Context, inv agent.Invocation, payload []byte) (agent.Outcome, error) {
			entered <- struct{}{}
			<-release
			return echo(ctx, inv, payload)
		}),
	})
	var running sync.WaitGroup
	for _, id := range []string{"known", "unknown"} {
		size := 6 << 20
		h := head(id, size)
		if id == "unknown" {
			h.PayloadBytes = -1
		}
		running.Go(func() {
			if out, _, _, err := stream(t.Context(), client, h, make([]byte, size)); err != nil || len(out) != size {
				t.Errorf("%s: %d bytes, %v", id, len(out), err)
			}
		})
	}
	<-entered
	<-entered
	s, err := client.InvokeStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&invokev1.InvokeStreamRequest{Message: &invokev1.InvokeStreamRequest_Head{Head: head("third", 4<<20)}}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv() // nothing of the payload was sent
	if got := reasonOf(err); got != invokev1.RefusalReason_REFUSAL_REASON_MEMORY {
		t.Errorf("got %v", err)
	}
	_, err = client.Invoke(t.Context(), &invokev1.InvokeRequest{Head: head("fourth", 4<<20), Payload: make([]byte, 4<<20)})
	if got := reasonOf(err); got != invokev1.RefusalReason_REFUSAL_REASON_MEMORY {
		t.Errorf("got %v", err)
	}
	close(release)
	running.Wait()
	for range 3 { // each would fill what is left if anything were still held
		if _, _, _, err := stream(t.Context(), client, head("later", 6<<20), make([]byte, 6<<20)); err != nil {
			t.Error(err)
		}
	}
	if n := srv.InFlight(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

// reasonOf is why a call was refused.
func reasonOf(err error) invokev1.RefusalReason {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*invokev1.Refusal); ok {
			return r.GetReason()
		}
	}
	return invokev1.RefusalReason_REFUSAL_REASON_UNSPECIFIED
}
