package cli_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/cmd/hearth/cli"
	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

// Logs implements the service: a function prints two lines, and one more when it
// is followed.
func (c *control) Logs(req *operatorv1.LogsRequest, stream grpc.ServerStreamingServer[operatorv1.LogsResponse]) error {
	c.mu.Lock()
	c.logs = req
	c.mu.Unlock()
	if req.GetFunction() == "broken" {
		return status.Error(codes.InvalidArgument, "that will not do")
	}
	line := func(text string, source operatorv1.LogSource, id string) *operatorv1.LogLine {
		return &operatorv1.LogLine{
			Time: timestamppb.New(now), Function: "hello", Version: "1", Environment: "e-01", Instance: "i-0a", RequestId: id, Source: source, Text: []byte(text),
		}
	}
	err := stream.Send(&operatorv1.LogsResponse{Notices: []string{"instance i-0b cannot be reached: what ran there is missing"}, Lines: []*operatorv1.LogLine{
		line("starting\t\x1b[31mup \xff", operatorv1.LogSource_LOG_SOURCE_STDERR, ""),
		line(`{"a":"<b>"}`, operatorv1.LogSource_LOG_SOURCE_STDOUT, "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
	}})
	if err != nil || !req.GetFollow() {
		return err
	}
	if err := stream.Send(&operatorv1.LogsResponse{Lines: []*operatorv1.LogLine{line("later", operatorv1.LogSource_LOG_SOURCE_PLATFORM, "")}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func TestLogsAsksForWhatTheFlagsSay(t *testing.T) {
	t.Parallel()
	c := &control{}
	address := serve(t, c)
	for args, want := range map[string]*operatorv1.LogsRequest{
		"": {},
		"--version 3 --environment e-01 --request-id r --since 10m --tail 7": {
			Version: "3", Environment: "e-01", RequestId: "r", Since: timestamppb.New(now.Add(-10 * time.Minute)), Tail: new(int64(7)),
		},
		"--since 2026-11-23T12:00:00Z --tail 0": {Since: timestamppb.New(now), Tail: new(int64(0))},
	} {
		want.Function = "hello"
		_, stderr, err := hearth(t, address, append([]string{"logs", "hello"}, strings.Fields(args)...)...)
		if err != nil || !strings.Contains(stderr, "hearth logs: instance i-0b cannot be reached") {
			t.Errorf("%s: got %v %q", args, err, stderr)
		}
		if d := cmp.Diff(want, c.logs, protocmp.Transform()); d != "" {
			t.Errorf("%s: %s", args, d)
		}
	}
}

func TestLogsSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	address := serve(t, &control{})
	for want, args := range map[string][]string{
		`--since "yesterday"`: {"logs", "hello", "--since", "yesterday"},
		"accepts 1 arg":       {"logs"},
		"that will not do":    {"logs", "broken"},
	} {
		if _, _, err := hearth(t, address, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v", args, err)
		}
	}
}

// printing is a writer that says when something was written to it.
type printing struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

// Write implements io.Writer.
func (p *printing) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.more <- struct{}{} }()
	return p.text.Write(b)
}

func TestFollowingEndsWithoutAnErrorWhenInterrupted(t *testing.T) {
	t.Parallel()
	out := &printing{more: make(chan struct{}, 10)}
	root := cli.New(cli.Env{Getenv: func(string) string { return "" }, Stdout: out, Stderr: &bytes.Buffer{}, Now: time.Now})
	root.SetArgs([]string{"logs", "-f", "hello", "--control", serve(t, &control{})})
	ctx, interrupt := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	<-out.more
	<-out.more
	interrupt(errors.New("interrupted"))
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := out.text.String(); strings.Count(got, "\n") != 3 || !strings.HasSuffix(got, " later\n") {
		t.Errorf("printed %q", got)
	}
}
