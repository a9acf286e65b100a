package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/metrics"
	"github.com/hearth-compute/hearth/proto/frame"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

const (
	// maxUnary is the largest request payload that rides a unary call.
	maxUnary = 64 << 10
	// maxInline is the largest answer that is sent before there is room for it.
	maxInline = 64 << 10
	// roomTime is how long a large answer waits for room, less than its agent
	// keeps it.
	roomTime = 20 * time.Second
	// chunkSize of streamed payloads.
	chunkSize = 64 << 10
	// fieldChunk and fieldTaken are the numbers of the fields that have pieces of
	// payloads, in the messages of InvokeStream and in TakeAnswerResponse.
	fieldChunk protowire.Number = 2
	fieldTaken protowire.Number = 1
	// maxRetryAfter is the longest an agent may send callers away for.
	maxRetryAfter = time.Minute
	// maxPermille is the most an agent may say that is used of anything.
	maxPermille = 1 << 20
)

// Call runs one invocation on an instance; it implements router.Caller.
// Errors: *router.RefusedError when the agent refused or nothing was sent, so
// that it may be tried elsewhere; *controlplane.LostError otherwise.
func (s *Server) Call(ctx context.Context, to router.Endpoint, req controlplane.InvokeRequest, timeout time.Duration) (controlplane.InvokeResult, error) {
	ctx, span := s.cfg.Traces.Start(ctx, "agent call", trace.SpanKindClient)
	span.Set("hearth.environment", string(to.Environment))
	res, err := s.call(ctx, to, req, timeout)
	span.End(err)
	return res, err
}

func (s *Server) call(ctx context.Context, to router.Endpoint, req controlplane.InvokeRequest, timeout time.Duration) (controlplane.InvokeResult, error) {
	var res controlplane.InvokeResult
	err := errNoConnection(to.Instance)
	for range maxDataConns { // a connection that broke sends nothing: the next may
		conn := s.pool.pick(to.Instance)
		if conn == nil {
			break
		}
		var sent bool
		if res, sent, err = conn.call(ctx, to, req, timeout, s.answers); err == nil || sent || ctx.Err() != nil {
			return res, callError(to, err, sent)
		}
		s.pool.remove(to.Instance, conn)
		_ = conn.cc.Close()
	}
	return res, callError(to, err, false)
}

// call runs one invocation on this connection and tells whether it was sent.
func (d *dataConn) call(ctx context.Context, to router.Endpoint, req controlplane.InvokeRequest, timeout time.Duration, room *semaphore.Weighted,
) (res controlplane.InvokeResult, sent bool, err error) {
	d.inFlight.Add(1)
	defer d.inFlight.Add(-1)
	var mark atomic.Bool
	ctx = context.WithValue(ctx, sentKey{}, &mark)
	head := &invokev1.InvocationHead{
		RequestId:          req.RequestID,
		EnvironmentId:      string(to.Environment),
		InvokedFunctionArn: req.InvokedARN,
		Type:               invokev1.InvocationType_INVOCATION_TYPE_REQUEST_RESPONSE,
		Source:             "lambda-api",
		Timeout:            durationpb.New(timeout),
		ClientContext:      req.ClientContext,
		TraceId:            req.TraceID,
		Traceparent:        metrics.Traceparent(ctx),
		ContentType:        req.ContentType,
		PayloadBytes:       int64(len(req.Payload)),
		InlineBytes:        maxInline,
		StreamAnswer:       req.Stream != nil,
		LogTail:            req.LogTail,
	}
	var kept int64
	if len(req.Payload) <= maxUnary && req.Stream == nil {
		res, kept, err = callUnary(ctx, d.client, to, head, req.Payload)
	} else {
		res, kept, err = callStream(ctx, d.client, to, head, req)
	}
	if err == nil && kept > 0 {
		res.Payload, res.Release, err = takeAnswer(ctx, d.client, req.RequestID, kept, room)
	}
	return res, mark.Load(), err
}

// takeAnswer receives an answer of size bytes that its agent kept, once there is
// room for it.
func takeAnswer(ctx context.Context, c invokev1.InvokeServiceClient, id string, size int64, room *semaphore.Weighted,
) (payload []byte, release func(), err error) {
	if size > maxMessage {
		return nil, nil, status.Errorf(codes.OutOfRange, "an answer of %d bytes is larger than any may be", size)
	}
	waiting, cancel := context.WithTimeoutCause(ctx, roomTime, errNoRoom)
	defer cancel()
	need := 2 * size // what is kept of it, and on its way
	if err := room.Acquire(waiting, need); err != nil {
		return nil, nil, fmt.Errorf("taking an answer of %d bytes: %w", size, context.Cause(waiting))
	}
	payload, err = receiveAnswer(ctx, c, id, size)
	if err != nil {
		room.Release(need)
		return nil, nil, err
	}
	room.Release(need - size)
	return payload, sync.OnceFunc(func() { room.Release(size) }), nil
}

var errNoRoom = errors.New("other answers took all the memory for them too long")

func receiveAnswer(ctx context.Context, c invokev1.InvokeServiceClient, id string, size int64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errors.New("call ended"))
	stream, err := c.TakeAnswer(ctx, &invokev1.TakeAnswerRequest{RequestId: id})
	if err != nil {
		return nil, err
	}
	in := frame.Into{Field: fieldTaken, Room: make([]byte, 0, size), Most: int(size), Other: &invokev1.TakeAnswerResponse{}}
	for int64(len(in.Room)) < size {
		if err := receive(stream, &in); err != nil {
			return nil, err
		}
	}
	if err := stream.RecvMsg(&in); !errors.Is(err, io.EOF) {
		return nil, cmp.Or(err, status.Error(codes.OutOfRange, "the answer is larger than was said"))
	}
	return in.Room, nil
}

func callUnary(ctx context.Context, c invokev1.InvokeServiceClient, to router.Endpoint, head *invokev1.InvocationHead, payload []byte) (res controlplane.InvokeResult, kept int64, err error) {
	r, err := c.Invoke(ctx, &invokev1.InvokeRequest{Head: head, Payload: payload})
	if err != nil {
		return res, 0, err
	}
	to.Observe(load(r.GetEnd().GetLoad()))
	res = controlplane.InvokeResult{
		FunctionError: r.GetHead().GetFunctionError(),
		ContentType:   r.GetHead().GetContentType(),
		Payload:       r.GetPayload(),
		LogTail:       tail(r.GetEnd()),
	}
	return res, r.GetHead().GetKeptBytes(), nil
}

func callStream(ctx context.Context, c invokev1.InvokeServiceClient, to router.Endpoint, head *invokev1.InvocationHead, req controlplane.InvokeRequest) (res controlplane.InvokeResult, kept int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errors.New("call ended"))
	stream, err := c.InvokeStream(ctx)
	if err != nil {
		return res, 0, err
	}
	err = sendPayload(stream, head, req.Payload)
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the status is with Recv
		return res, 0, err
	}
	other := &invokev1.InvokeStreamResponse{}
	in := frame.Into{Field: fieldChunk, Most: maxMessage, Other: other}
	for other.GetEnd() == nil {
		if err := receive(stream, &in); err != nil {
			return res, 0, err
		}
		if h := other.GetHead(); in.IsOther && h != nil {
			res.FunctionError, res.ContentType, kept = h.GetFunctionError(), h.GetContentType(), h.GetKeptBytes()
		}
		if err := pass(req.Stream, &res, &in); err != nil {
			return res, 0, err
		}
	}
	end := other.GetEnd()
	to.Observe(load(end.GetLoad()))
	res.Payload, res.LogTail = in.Room, tail(end)
	if end.GetErrorType() != "" {
		res.FunctionError, res.Payload = functionError, end.GetErrorDocument()
	}
	return res, kept, nil
}

// pass passes what was received of an answer on to a caller that streams; what it
// had is dropped. An error document is never streamed.
func pass(to controlplane.AnswerStream, res *controlplane.InvokeResult, in *frame.Into) error {
	if to == nil || res.FunctionError != "" {
		return nil
	}
	if !in.IsOther {
		_, err := to.Write(in.Room)
		in.Room = in.Room[:0]
		return err
	}
	if m, ok := in.Other.(*invokev1.InvokeStreamResponse); ok && m.GetHead() != nil {
		return to.Begin(res.ContentType)
	}
	return nil
}

// receive receives the next message of an answer that is not over.
func receive(stream grpc.ClientStream, in *frame.Into) error {
	err := stream.RecvMsg(in)
	switch {
	case errors.Is(err, io.EOF):
		return status.Error(codes.Unavailable, "the answer was cut")
	case err == nil && in.IsTooLong:
		return status.Error(codes.OutOfRange, "the answer is larger than it may be")
	}
	return err
}

// maxTail is the longest end of a log.
const maxTail = 4 << 10

// tail is the end of the log of an invocation, within its bound.
func tail(end *invokev1.ResponseEnd) []byte {
	text := end.GetLogTail()
	return text[max(0, len(text)-maxTail):]
}

// functionError is what callers are told of every error that ends an answer midway.
const functionError = "Unhandled"

func sendPayload(stream invokev1.InvokeService_InvokeStreamClient, head *invokev1.InvocationHead, payload []byte) error {
	if err := stream.Send(&invokev1.InvokeStreamRequest{Message: &invokev1.InvokeStreamRequest_Head{Head: head}}); err != nil {
		return err
	}
	for len(payload) > 0 {
		n := min(len(payload), chunkSize)
		if err := stream.SendMsg(&frame.Piece{Field: fieldChunk, Data: payload[:n]}); err != nil {
			return err
		}
		payload = payload[n:]
	}
	return stream.CloseSend()
}

// callError sorts failures into those that may be tried elsewhere, because the
// agent promises that nothing ran or nothing was sent, and those that may not.
func callError(to router.Endpoint, err error, sent bool) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	if st.Code() == codes.ResourceExhausted {
		for _, d := range st.Details() {
			if r, ok := d.(*invokev1.Refusal); ok {
				to.Observe(load(r.GetLoad()))
				return &router.RefusedError{Reason: refusal(r.GetReason()), RetryAfter: min(max(0, r.GetRetryAfter().AsDuration()), maxRetryAfter)}
			}
		}
	}
	if !sent {
		return &router.RefusedError{Reason: router.RefusedUnreachable, Err: err}
	}
	return &controlplane.LostError{Environment: to.Environment, Err: fmt.Errorf("invoke: %w", err)}
}

// load is what an agent says of an environment, within what can be true.
func load(l *invokev1.Load) router.Load {
	return router.Load{
		InFlight:    int(amount(l.GetInFlight(), maxSlots)),
		Limit:       int(amount(l.GetLimit(), maxSlots)),
		CPUPermille: int(amount(l.GetCpuPermille(), maxPermille)),
	}
}

func refusal(r invokev1.RefusalReason) router.RefusalReason {
	switch r {
	case invokev1.RefusalReason_REFUSAL_REASON_CONCURRENCY:
		return router.RefusedConcurrency
	case invokev1.RefusalReason_REFUSAL_REASON_CPU:
		return router.RefusedCPU
	case invokev1.RefusalReason_REFUSAL_REASON_MEMORY:
		return router.RefusedMemory
	case invokev1.RefusalReason_REFUSAL_REASON_DISK:
		return router.RefusedDisk
	case invokev1.RefusalReason_REFUSAL_REASON_DRAINING:
		return router.RefusedDraining
	case invokev1.RefusalReason_REFUSAL_REASON_NOT_READY, invokev1.RefusalReason_REFUSAL_REASON_UNSPECIFIED:
		return router.RefusedNotReady
	}
	return router.RefusedNotReady
}
