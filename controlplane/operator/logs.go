package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/controlplane"
	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

// Logs reads what functions print.
type Logs interface {
	// Reachable lists the instances that can be asked now, in order.
	Reachable() []controlplane.InstanceID
	// ReadLogs reads the logs of one instance and gives them to take, until there
	// are no more, ctx ends or take fails. Errors: Unavailable, ResourceExhausted;
	// the error of take.
	ReadLogs(ctx context.Context, id controlplane.InstanceID, q controlplane.LogQuery, take func(controlplane.LogBatch) error) error
}

const (
	// sendLines and sendBytes bound one message.
	sendLines = 512
	sendBytes = 1 << 20
	// maxTailLines is the most last lines that can be asked for.
	maxTailLines = 100_000
)

// Logs implements the service.
func (s *Server) Logs(req *operatorv1.LogsRequest, stream grpc.ServerStreamingServer[operatorv1.LogsResponse]) error {
	const doing = "reading logs"
	q, err := logQuery(req)
	if err != nil {
		return s.status(doing, err)
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(errors.New("call ended"))
	m := newMerge(s.cfg.Logs, q, func(lines []controlplane.LogLine, notices []string) error { return sendLogs(stream, lines, notices) })
	m.silent = func() []string { return s.unreachable(ctx, s.cfg.Logs.Reachable()) }
	m.stopping = s.cfg.Stopping
	defer m.wait()
	defer cancel(errors.New("call ended"))
	if err := m.run(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err() // the caller left
		}
		return s.status(doing, err)
	}
	return nil
}

// logQuery translates and checks a request.
func logQuery(req *operatorv1.LogsRequest) (controlplane.LogQuery, error) {
	q := controlplane.LogQuery{
		Function: controlplane.FunctionName(req.GetFunction()), Version: controlplane.Qualifier(req.GetVersion()),
		Environment: controlplane.EnvironmentID(req.GetEnvironment()), RequestID: req.GetRequestId(),
		Tail: -1, Follow: req.GetFollow(),
	}
	if req.GetSince() != nil {
		q.Since = req.GetSince().AsTime()
	}
	if req.Tail != nil {
		if n := req.GetTail(); n < 0 || n > maxTailLines {
			return q, fmt.Errorf("the last %d lines cannot be asked for, but 0 to %d: %w", n, maxTailLines, errdefs.ErrInvalidArgument)
		}
		q.Tail = int(req.GetTail())
	}
	if q.Function == "" {
		return q, fmt.Errorf("the function is required: %w", errdefs.ErrInvalidArgument)
	}
	return q, nil
}

// unreachable says which instances cannot be asked, though they were heard of.
func (s *Server) unreachable(ctx context.Context, reachable []controlplane.InstanceID) (notices []string) {
	snapshots, err := s.cfg.State.Snapshots(ctx)
	if err != nil {
		return []string{"not known whether all instances were asked: the state of the control service cannot be read"}
	}
	for _, snap := range snapshots {
		for _, i := range snap.Instances {
			if i.Observed != nil && !slices.Contains(reachable, i.ID) {
				notices = append(notices, fmt.Sprintf("instance %s cannot be reached: what ran there is missing", i.ID))
			}
		}
	}
	return notices
}

// sendLogs sends lines in messages of a size that clients take.
func sendLogs(stream grpc.ServerStreamingServer[operatorv1.LogsResponse], lines []controlplane.LogLine, notices []string) error {
	for len(lines) > 0 || len(notices) > 0 {
		n, size := 0, 0
		for n < len(lines) && n < sendLines && size < sendBytes {
			size += len(lines[n].Text)
			n++
		}
		m := &operatorv1.LogsResponse{Notices: notices, Lines: make([]*operatorv1.LogLine, 0, n)}
		for _, l := range lines[:n] {
			m.Lines = append(m.Lines, &operatorv1.LogLine{
				Time: timestamppb.New(l.Time), Function: string(l.Function), Version: string(l.Version), Environment: string(l.Environment),
				Instance: string(l.Instance), RequestId: l.RequestID, Source: logSource(l.Source), Text: l.Text,
			})
		}
		if err := stream.Send(m); err != nil {
			return err
		}
		lines, notices = lines[n:], nil
	}
	return nil
}

func logSource(s controlplane.LogSource) operatorv1.LogSource {
	switch s {
	case controlplane.LogStdout:
		return operatorv1.LogSource_LOG_SOURCE_STDOUT
	case controlplane.LogStderr:
		return operatorv1.LogSource_LOG_SOURCE_STDERR
	case controlplane.LogExtension:
		return operatorv1.LogSource_LOG_SOURCE_EXTENSION
	case controlplane.LogPlatform:
		return operatorv1.LogSource_LOG_SOURCE_PLATFORM
	}
	return operatorv1.LogSource_LOG_SOURCE_UNSPECIFIED
}
