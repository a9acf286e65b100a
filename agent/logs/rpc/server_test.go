package rpc_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/agent/logs"
	"github.com/hearth-compute/hearth/agent/logs/rpc"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

const requestID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"

// serve runs a store and serves it; stop ends writing.
func serve(t *testing.T) (*logs.Store, invokev1.LogServiceClient, *rpc.Server) {
	t.Helper()
	store, err := logs.New(logs.Config{
		Dir: t.TempDir(), PerEnvironment: 8 << 20, Total: logs.LeastTotal, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	served := rpc.New(store)
	served.Register(srv)
	var running sync.WaitGroup
	running.Go(func() { _ = store.Run(ctx) })
	running.Go(func() { _ = srv.Serve(lis) })
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); srv.Stop(); cancel(errors.New("test ended")); running.Wait() })
	return store, invokev1.NewLogServiceClient(conn), served
}

func TestLinesAreSentAndThenFollowed(t *testing.T) {
	t.Parallel()
	store, c, _ := serve(t)
	s := store.Open(logs.Options{Tags: logs.Tags{Function: "f", Version: "3", Environment: "e-1"}})
	ctx, cancel := context.WithCancelCause(t.Context())
	stream, err := c.ReadLogs(ctx, &invokev1.ReadLogsRequest{Function: "f", Version: "3", EnvironmentId: "e-1", Follow: true, Since: timestamppb.Now()})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || !first.GetCaughtUp() || len(first.GetLines()) != 0 {
		t.Fatalf("got %v %v", first, err)
	}
	began := time.Now()
	want := []*invokev1.LogLine{}
	s.Line(logs.Stdout, []byte("a\xff"))
	s.Line(logs.Stderr, []byte(requestID+"\t"))
	s.Line(logs.Extension, []byte("x"))
	s.Platform(requestID, []byte("report"), true)
	for _, l := range []*invokev1.LogLine{
		{Source: invokev1.LogSource_LOG_SOURCE_STDOUT, Text: []byte("a\xff")},
		{Source: invokev1.LogSource_LOG_SOURCE_STDERR, Text: []byte(requestID + "\t"), RequestId: requestID},
		{Source: invokev1.LogSource_LOG_SOURCE_EXTENSION, Text: []byte("x")},
		{Source: invokev1.LogSource_LOG_SOURCE_PLATFORM, Text: []byte("report"), RequestId: requestID},
	} {
		l.Function, l.Version, l.EnvironmentId = "f", "3", "e-1"
		want = append(want, l)
	}
	var got []*invokev1.LogLine
	for len(got) < len(want) {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.GetLines()...)
	}
	if at := got[0].GetTime().AsTime(); at.Before(began) || at.After(time.Now()) {
		t.Errorf("printed at %v", at)
	}
	if d := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&invokev1.LogLine{}, "time")); d != "" {
		t.Error(d)
	}
	cancel(errors.New("left"))
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
}

func TestReadingEndsWhenNobodyFollows(t *testing.T) {
	t.Parallel()
	store, c, _ := serve(t)
	store.Open(logs.Options{Tags: logs.Tags{Function: "f", Environment: "e-1"}}).Line(logs.Stdout, []byte("x"))
	stream, err := c.ReadLogs(t.Context(), &invokev1.ReadLogsRequest{Function: "f", Tail: new(int64(5))})
	if err != nil {
		t.Fatal(err)
	}
	caughtUp := false
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		caughtUp = m.GetCaughtUp()
	}
	if !caughtUp {
		t.Error("the end is not said")
	}
}

func TestRequestsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	_, c, _ := serve(t)
	for _, req := range []*invokev1.ReadLogsRequest{{}, {Function: "f", Tail: new(int64(-1))}} {
		stream, err := c.ReadLogs(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: got %v", req, err)
		}
	}
}

func TestManyReadersAreRefused(t *testing.T) {
	t.Parallel()
	store, c, _ := serve(t)
	for range 64 {
		if _, err := store.Read(logs.Query{}); err != nil {
			t.Fatal(err)
		}
	}
	stream, err := c.ReadLogs(t.Context(), &invokev1.ReadLogsRequest{Function: "f"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
}

func TestFollowersAreSentAwayWhenTheAgentStops(t *testing.T) {
	t.Parallel()
	_, c, served := serve(t)
	stream, err := c.ReadLogs(t.Context(), &invokev1.ReadLogsRequest{Function: "f", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	served.Stop()
	served.Stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

// kept waits until n lines are kept.
func kept(t *testing.T, store *logs.Store, n int64) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for store.Counts().Kept < n {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain for %d lines: %+v", n, store.Counts())
		}
	}
}

func TestMoreThanAMessageHoldsIsSentInSeveral(t *testing.T) {
	t.Parallel()
	store, c, _ := serve(t)
	s := store.Open(logs.Options{Tags: logs.Tags{Function: "f", Environment: "e-1"}})
	const n = 40
	for i := range int64(n) {
		s.Line(logs.Stdout, make([]byte, 100<<10))
		kept(t, store, i+1)
	}
	lines, messages := 0, 0
	stream, err := c.ReadLogs(t.Context(), &invokev1.ReadLogsRequest{Function: "f", Tail: new(int64(100))})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		messages, lines = messages+1, lines+len(m.GetLines())
		if m.GetCaughtUp() != (lines == n) {
			t.Errorf("caught up after %d of %d lines: %v", lines, n, m.GetCaughtUp())
		}
	}
	if lines != n || messages < 4 {
		t.Errorf("%d lines in %d messages", lines, messages)
	}
}
