// Package invoke serves the data path: it takes invocations from routers over
// gRPC, finds the environment, and runs them there.
//
// # Invariants
//
//  1. RESOURCE_EXHAUSTED with a Refusal detail is answered only for what was
//     not and will not be handed to a runtime.
//  2. A caller that goes away does not end an invocation that was handed over.
//  3. Once draining, nothing new is admitted; Drain returns when nothing runs.
//  4. Events and answers take a bounded amount of memory: an event for which
//     there is no room is refused before it is received; an answer larger than
//     its caller takes at once is kept, in the memory the Runtime API received it
//     into, until the caller takes it or half a minute is over.
//
// # Concurrency
//
// Everything may be called from anywhere; no lock is shared by environments, but
// for the table of answers that are kept.
package invoke

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/metrics"
	"github.com/hearth-compute/hearth/proto/frame"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

const (
	// MaxPayload is the largest event.
	MaxPayload = 6 << 20
	// pieceSize is the largest piece of a payload on a stream.
	pieceSize = 64 << 10
	// maxTimeout is the longest any invocation may run.
	maxTimeout = 15 * time.Minute
)

// Server implements hearth.invoke.v1.InvokeService. Make it with New.
type Server struct {
	invokev1.UnimplementedInvokeServiceServer

	table *Table
	log   *slog.Logger
	// memory is how many bytes of events and answers are held at most before
	// events are refused; held is how many are.
	memory int64
	held   atomic.Int64

	traces   *metrics.Traces
	draining atomic.Bool
	inFlight atomic.Int64
	answers  answers
	// settled is nudged when nothing runs any more.
	settled chan struct{}
}

// New returns a server that runs invocations in the environments of table. It
// refuses events while those it has take memory bytes. What answers take is
// bounded where they are received: they are kept until callers have room.
func New(table *Table, memory int64, log *slog.Logger) *Server {
	return &Server{table: table, memory: max(memory, MaxPayload), log: log, settled: make(chan struct{}, 1)}
}

// Trace sets what makes spans, before the server serves; nil makes none.
func (s *Server) Trace(traces *metrics.Traces) { s.traces = traces }

// Register adds the service to a gRPC server that recovers (see [Recover]).
func (s *Server) Register(r grpc.ServiceRegistrar) { invokev1.RegisterInvokeServiceServer(r, s) }

// InFlight is how many invocations the server runs now.
func (s *Server) InFlight() int { return int(s.inFlight.Load()) }

// Drain refuses new invocations from now on and waits until none runs or ctx
// ends.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	for s.inFlight.Load() > 0 {
		select {
		case <-s.settled:
		case <-ctx.Done():
			return fmt.Errorf("draining: %d invokes still run: %w", s.InFlight(), context.Cause(ctx))
		}
	}
	return nil
}

// Invoke runs one small invocation.
func (s *Server) Invoke(ctx context.Context, req *invokev1.InvokeRequest) (*invokev1.InvokeResponse, error) {
	size := int64(len(req.GetPayload()))
	if !s.hold(size) {
		return nil, toStatus(refused(agent.ReasonMemory))
	}
	defer s.held.Add(-size)
	s.inFlight.Add(1)
	defer s.done()
	out, kept, err := s.run(ctx, req.GetHead(), req.GetPayload())
	if err != nil {
		return nil, toStatus(err)
	}
	release(&out)
	return &invokev1.InvokeResponse{
		Head:    &invokev1.ResponseHead{FunctionError: out.FunctionError, ContentType: out.ContentType, KeptBytes: kept},
		Payload: out.Payload,
		End:     end(&out),
	}, nil
}

// InvokeStream runs one invocation whose payload comes and whose answer goes in
// frames, and as it comes if the caller asks for that.
func (s *Server) InvokeStream(stream grpc.BidiStreamingServer[invokev1.InvokeStreamRequest, invokev1.InvokeStreamResponse]) error {
	head, err := receiveHead(stream)
	if err != nil {
		return toStatus(err)
	}
	size := head.GetPayloadBytes()
	if size < 0 {
		size = MaxPayload
	}
	if !s.hold(size) {
		return toStatus(refused(agent.ReasonMemory))
	}
	defer func() { s.held.Add(-size) }()
	payload, err := receive(stream, head)
	if err != nil {
		return toStatus(err)
	}
	s.inFlight.Add(1)
	defer s.done() // when all of it is sent
	out, kept, err := s.run(stream.Context(), head, payload)
	if err != nil {
		return toStatus(err)
	}
	if out.Stream != nil {
		return sendStream(stream, &out)
	}
	defer release(&out)
	s.held.Add(int64(len(out.Payload))) // it is here: room or not
	size += int64(len(out.Payload))
	return send(stream, out, kept)
}

// hold makes room for n bytes, if there is some.
func (s *Server) hold(n int64) bool {
	if s.held.Add(n) <= s.memory {
		return true
	}
	s.held.Add(-n)
	return false
}

// run admits and runs one invocation, which is in flight already. When the answer is too large to send, it
// is kept and its size returned, and the outcome has none.
func (s *Server) run(ctx context.Context, head *invokev1.InvocationHead, payload []byte) (out agent.Outcome, kept int64, err error) {
	inv, err := invocation(head, len(payload))
	if err != nil {
		return out, 0, err
	}
	if s.draining.Load() {
		return out, 0, refused(agent.ReasonDraining)
	}
	env := s.table.Get(inv.Environment)
	if env == nil {
		return out, 0, refused(agent.ReasonNotReady)
	}
	traced, span := s.traces.Start(s.traces.From(ctx, inv.Traceparent, inv.TraceID), "agent invoke", trace.SpanKindServer)
	span.Set("faas.invocation_id", inv.RequestID)
	span.Set("hearth.environment", string(inv.Environment))
	out, err = env.Invoke(traced, inv, payload)
	span.End(err)
	if err != nil {
		return out, 0, err
	}
	size := int64(len(out.Payload))
	if most := head.GetInlineBytes(); inv.Stream || most <= 0 || size <= most || ctx.Err() != nil {
		return out, 0, nil //nolint:nilerr // who left takes no answer
	}
	s.keep(inv.RequestID, out)
	out.Payload, out.Release = nil, nil
	return out, size, nil
}

func (s *Server) done() {
	if s.inFlight.Add(-1) > 0 || !s.draining.Load() {
		return
	}
	select {
	case s.settled <- struct{}{}:
	default:
	}
}

// receiveHead reads what a streamed invocation begins with.
func receiveHead(stream grpc.BidiStreamingServer[invokev1.InvokeStreamRequest, invokev1.InvokeStreamResponse]) (*invokev1.InvocationHead, error) {
	first, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("receiving the head of an invocation: %w", err)
	}
	head := first.GetHead()
	if head == nil {
		return nil, fmt.Errorf("first message of a stream is not a head: %w", errdefs.ErrInvalidArgument)
	}
	if head.GetPayloadBytes() > MaxPayload {
		return nil, tooLarge(head.GetPayloadBytes())
	}
	return head, nil
}

// receive reads the payload of a streamed invocation.
func receive(stream grpc.BidiStreamingServer[invokev1.InvokeStreamRequest, invokev1.InvokeStreamResponse], head *invokev1.InvocationHead) ([]byte, error) {
	m := frame.Into{Field: fieldChunk, Most: MaxPayload, Other: &invokev1.InvokeStreamRequest{}}
	if size := head.GetPayloadBytes(); size >= 0 {
		m.Room, m.Most = make([]byte, 0, size), int(size)
	}
	for {
		err := stream.RecvMsg(&m)
		switch {
		case errors.Is(err, io.EOF):
			if want := head.GetPayloadBytes(); want >= 0 && want != int64(len(m.Room)) {
				return nil, fmt.Errorf("payload has %d bytes, head says %d: %w", len(m.Room), want, errdefs.ErrInvalidArgument)
			}
			return m.Room, nil
		case m.IsTooLong:
			return nil, fmt.Errorf("payload exceeds %d bytes: %w", m.Most, errdefs.ErrInvalidArgument)
		case err != nil:
			return nil, fmt.Errorf("receiving the payload of %s: %w", head.GetRequestId(), err)
		case m.IsOther:
			if err := other(m.Other); err != nil {
				return nil, err
			}
		}
	}
}

// send writes an outcome in frames.
func send(stream grpc.BidiStreamingServer[invokev1.InvokeStreamRequest, invokev1.InvokeStreamResponse], out agent.Outcome, kept int64) error {
	head := &invokev1.ResponseHead{FunctionError: out.FunctionError, ContentType: out.ContentType, KeptBytes: kept}
	if err := stream.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_Head{Head: head}}); err != nil {
		return err
	}
	if err := sendPieces(stream, fieldChunk, out.Payload); err != nil {
		return err
	}
	return stream.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_End{End: end(&out)}})
}

// invocation translates and checks a head.
func invocation(head *invokev1.InvocationHead, size int) (agent.Invocation, error) {
	inv := agent.Invocation{
		RequestID:     head.GetRequestId(),
		Environment:   agent.EnvironmentID(head.GetEnvironmentId()),
		InvokedARN:    head.GetInvokedFunctionArn(),
		Source:        head.GetSource(),
		Timeout:       head.GetTimeout().AsDuration(),
		ClientContext: head.GetClientContext(),
		TraceID:       head.GetTraceId(),
		ContentType:   head.GetContentType(),
		LogTail:       head.GetLogTail(),
		Traceparent:   head.GetTraceparent(),
		Stream:        head.GetStreamAnswer(),
	}
	if d := head.GetDetachedDeadline(); d != nil {
		inv.DetachedDeadline = d.AsTime()
	}
	switch {
	case inv.RequestID == "" || len(inv.RequestID) > 128:
		return inv, fmt.Errorf("request id %.128q: must have 1 to 128 characters: %w", inv.RequestID, errdefs.ErrInvalidArgument)
	case inv.Environment == "":
		return inv, fmt.Errorf("invocation %s: environment missing: %w", inv.RequestID, errdefs.ErrInvalidArgument)
	case inv.Timeout <= 0 || inv.Timeout > maxTimeout:
		return inv, fmt.Errorf("invocation %s: timeout %v out of range: %w", inv.RequestID, inv.Timeout, errdefs.ErrInvalidArgument)
	case size > MaxPayload:
		return inv, tooLarge(int64(size))
	}
	return inv, nil
}

func tooLarge(size int64) error {
	return fmt.Errorf("payload of %d bytes exceeds %d: %w", size, MaxPayload, errdefs.ErrInvalidArgument)
}
