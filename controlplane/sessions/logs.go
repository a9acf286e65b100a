package sessions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/controlplane"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// maxLine is the longest line an agent may send.
const maxLine = 256 << 10

// Reachable lists the instances that can be asked for their logs now, in order.
func (s *Server) Reachable() []controlplane.InstanceID {
	all := s.pool.conns.Load()
	if all == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(*all))
}

// ReadLogs reads the logs of one instance and gives them to take, until there are
// no more, ctx ends or take fails. Errors: Unavailable (the instance cannot be
// reached, or no more), ResourceExhausted (it has too many readers), the error of
// take.
func (s *Server) ReadLogs(ctx context.Context, id controlplane.InstanceID, q controlplane.LogQuery, take func(controlplane.LogBatch) error) error {
	conn := s.pool.pick(id)
	if conn == nil {
		return fmt.Errorf("reading logs: %w: %w", errNoConnection(id), errdefs.ErrUnavailable)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errors.New("call ended"))
	stream, err := invokev1.NewLogServiceClient(conn.cc).ReadLogs(ctx, logRequest(q))
	if err != nil {
		return readError(id, err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return readError(id, err)
		}
		if err := take(logBatch(id, m)); err != nil {
			return err
		}
	}
}

func readError(id controlplane.InstanceID, err error) error {
	if status.Code(err) == codes.Unimplemented { // an agent of an older version
		err = status.Error(codes.Unavailable, "its agent keeps no logs yet")
	}
	return fmt.Errorf("reading logs of instance %s: %w", id, errgrpc.ToNative(err))
}

func logRequest(q controlplane.LogQuery) *invokev1.ReadLogsRequest {
	req := &invokev1.ReadLogsRequest{
		Function: string(q.Function), Version: string(q.Version), EnvironmentId: string(q.Environment), RequestId: q.RequestID, Follow: q.Follow,
	}
	if !q.Since.IsZero() {
		req.Since = timestamppb.New(q.Since)
	}
	if q.Tail >= 0 {
		req.Tail = new(int64(q.Tail))
	}
	return req
}

func logBatch(id controlplane.InstanceID, m *invokev1.ReadLogsResponse) controlplane.LogBatch {
	b := controlplane.LogBatch{Lost: max(0, m.GetLost()), CaughtUp: m.GetCaughtUp(), Lines: make([]controlplane.LogLine, 0, len(m.GetLines()))}
	for _, l := range m.GetLines() {
		text := l.GetText()
		b.Lines = append(b.Lines, controlplane.LogLine{
			Time: l.GetTime().AsTime(), Function: controlplane.FunctionName(l.GetFunction()), Version: controlplane.Qualifier(l.GetVersion()),
			Environment: controlplane.EnvironmentID(l.GetEnvironmentId()), Instance: id, RequestID: l.GetRequestId(),
			Source: logSource(l.GetSource()), Text: text[:min(len(text), maxLine)],
		})
	}
	return b
}

func logSource(s invokev1.LogSource) controlplane.LogSource {
	switch s {
	case invokev1.LogSource_LOG_SOURCE_STDOUT:
		return controlplane.LogStdout
	case invokev1.LogSource_LOG_SOURCE_STDERR:
		return controlplane.LogStderr
	case invokev1.LogSource_LOG_SOURCE_EXTENSION:
		return controlplane.LogExtension
	case invokev1.LogSource_LOG_SOURCE_PLATFORM, invokev1.LogSource_LOG_SOURCE_UNSPECIFIED:
		return controlplane.LogPlatform
	}
	return controlplane.LogPlatform
}
