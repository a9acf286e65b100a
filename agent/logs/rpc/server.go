// Package rpc serves the logs of an instance to control services.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/logs"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// Server implements hearth.invoke.v1.LogService. It may be called from anywhere.
type Server struct {
	invokev1.UnimplementedLogServiceServer

	store *logs.Store
	// stopping is closed when no more is sent.
	stopping chan struct{}
	stop     func()
}

// New returns a server of what store keeps.
func New(store *logs.Store) *Server {
	s := &Server{store: store, stopping: make(chan struct{})}
	s.stop = sync.OnceFunc(func() { close(s.stopping) })
	return s
}

// Stop ends every call: those that follow would not end by themselves.
func (s *Server) Stop() { s.stop() }

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) { invokev1.RegisterLogServiceServer(r, s) }

// ReadLogs implements the service. A caller that takes nothing holds up nobody:
// what it has not taken stays on disk until the bounds push it out.
func (s *Server) ReadLogs(req *invokev1.ReadLogsRequest, stream grpc.ServerStreamingServer[invokev1.ReadLogsResponse]) error {
	q, err := query(req)
	if err != nil {
		return toStatus(err)
	}
	r, err := s.store.Read(q)
	if err != nil {
		return toStatus(err)
	}
	defer r.Close()
	ctx, cancel := s.untilStopped(stream.Context())
	defer cancel()
	for {
		b, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return toStatus(err)
		}
		if err := send(stream, b); err != nil {
			return err
		}
	}
}

// sendBytes bounds the lines of one message, but for one line.
const sendBytes = 1 << 20

// send sends a batch, in several messages if it is large.
func send(stream grpc.ServerStreamingServer[invokev1.ReadLogsResponse], b logs.Batch) error {
	for {
		n, size := 0, 0
		for n < len(b.Lines) && size < sendBytes {
			size += len(b.Lines[n].Text) + lineOverhead
			n++
		}
		piece := logs.Batch{Lines: b.Lines[:n], Lost: b.Lost, CaughtUp: b.CaughtUp && n == len(b.Lines)}
		if err := stream.Send(response(piece)); err != nil {
			return err
		}
		b.Lines, b.Lost = b.Lines[n:], 0
		if len(b.Lines) == 0 {
			return nil
		}
	}
}

// lineOverhead is about what a line takes beside its text.
const lineOverhead = 128

var errStopped = fmt.Errorf("the agent is stopping: %w", errdefs.ErrUnavailable)

// untilStopped is ctx, which ends when the server stops, too.
func (s *Server) untilStopped(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-s.stopping:
			cancel(errStopped)
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(context.Canceled); watching.Wait() }
}

// query translates and checks a request.
func query(req *invokev1.ReadLogsRequest) (logs.Query, error) {
	q := logs.Query{
		Function: req.GetFunction(), Version: req.GetVersion(), Environment: agent.EnvironmentID(req.GetEnvironmentId()),
		RequestID: req.GetRequestId(), Tail: -1, Follow: req.GetFollow(),
	}
	if q.Function == "" {
		return q, fmt.Errorf("reading logs: the function is required: %w", errdefs.ErrInvalidArgument)
	}
	if req.Tail != nil {
		if req.GetTail() < 0 {
			return q, fmt.Errorf("reading logs: %d last lines are none: %w", req.GetTail(), errdefs.ErrInvalidArgument)
		}
		q.Tail = int(min(req.GetTail(), math.MaxInt32))
	}
	if since := req.GetSince(); since != nil {
		q.Since = since.AsTime()
	}
	return q, nil
}

func response(b logs.Batch) *invokev1.ReadLogsResponse {
	out := &invokev1.ReadLogsResponse{Lost: b.Lost, CaughtUp: b.CaughtUp, Lines: make([]*invokev1.LogLine, 0, len(b.Lines))}
	for _, l := range b.Lines {
		out.Lines = append(out.Lines, &invokev1.LogLine{
			Time: timestamppb.New(l.Time), Function: l.Function, Version: l.Version, EnvironmentId: string(l.Environment),
			RequestId: l.RequestID, Source: source(l.Source), Text: l.Text,
		})
	}
	return out
}

func source(s logs.Source) invokev1.LogSource {
	switch s {
	case logs.Stdout:
		return invokev1.LogSource_LOG_SOURCE_STDOUT
	case logs.Stderr:
		return invokev1.LogSource_LOG_SOURCE_STDERR
	case logs.Extension:
		return invokev1.LogSource_LOG_SOURCE_EXTENSION
	case logs.Platform:
		return invokev1.LogSource_LOG_SOURCE_PLATFORM
	}
	return invokev1.LogSource_LOG_SOURCE_UNSPECIFIED
}

func toStatus(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return errgrpc.ToGRPC(err)
}
