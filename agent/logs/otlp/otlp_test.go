package otlp_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/agent/logs"
	"github.com/hearth-compute/hearth/agent/logs/otlp"
)

// collector takes what is shipped, unless it is told not to.
type collector struct {
	collectorv1.UnimplementedLogsServiceServer

	refuse atomic.Bool
	mu     sync.Mutex
	got    []string
}

// Export implements the service.
func (c *collector) Export(_ context.Context, req *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
	if c.refuse.Load() {
		return nil, status.Error(codes.InvalidArgument, "no")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.GetResourceLogs() {
		resource := attributes(r.GetResource().GetAttributes())
		for _, s := range r.GetScopeLogs() {
			for _, l := range s.GetLogRecords() {
				c.got = append(c.got, fmt.Sprintf("%s | %s %s | %s", resource, l.GetSeverityText(), attributes(l.GetAttributes()), l.GetBody().GetStringValue()))
			}
		}
	}
	return &collectorv1.ExportLogsServiceResponse{}, nil
}

func attributes(list []*commonv1.KeyValue) string {
	var parts []string
	for _, a := range list {
		value := a.GetValue().GetStringValue()
		for _, v := range a.GetValue().GetArrayValue().GetValues() {
			value += v.GetStringValue()
		}
		parts = append(parts, a.GetKey()+"="+value)
	}
	return strings.Join(parts, " ")
}

func (c *collector) records() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.got...)
}

// start serves a collector on loopback, with gRPC's default limit of 4 MiB.
func start(t *testing.T) (*collector, string) {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{}
	srv := grpc.NewServer()
	collectorv1.RegisterLogsServiceServer(srv, c)
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Serve(lis) })
	t.Cleanup(func() { srv.Stop(); running.Wait() })
	return c, "http://" + lis.Addr().String()
}

// ship returns a shipper and a function that ends it.
func ship(t *testing.T, endpoint string) (*otlp.Shipper, func()) {
	t.Helper()
	s, err := otlp.New(t.Context(), otlp.Config{Endpoint: endpoint, Region: "eu-west-1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) })
	stop := sync.OnceFunc(func() { cancel(errors.New("stopped")); running.Wait() })
	t.Cleanup(stop)
	return s, stop
}

func options() logs.Options {
	return logs.Options{
		Tags: logs.Tags{Function: "f", Version: "7", Environment: "e-1"}, Sandbox: "e-1-abc",
		FunctionARN: "arn:aws:lambda:eu-west-1:123456789012:function:f:7", Group: "/aws/lambda/f",
	}
}

func TestLinesArriveWithTheirResource(t *testing.T) {
	t.Parallel()
	c, endpoint := start(t)
	s, stop := ship(t, endpoint)
	line := s.Ship(options())
	at := time.Now()
	line(logs.Line{Time: at, Source: logs.Stdout, RequestID: "r-1", Level: "WARN", Text: []byte("hello")})
	line(logs.Line{Time: at, Source: logs.Stderr, Text: []byte("a\xff")})
	line(logs.Line{Time: at, Source: logs.Platform, Text: []byte("{}")})
	s.Ship(logs.Options{Tags: logs.Tags{Function: "g"}})(logs.Line{Time: at, Source: logs.Extension})
	stop()
	const resource = "aws.log.group.names=/aws/lambda/f cloud.account.id=123456789012 cloud.platform=aws_lambda cloud.provider=aws cloud.region=eu-west-1 " +
		"cloud.resource_id=arn:aws:lambda:eu-west-1:123456789012:function:f:7 faas.instance=e-1-abc faas.name=f faas.version=7 " +
		"hearth.environment=e-1 service.instance.id=e-1-abc service.name=f service.version=7"
	want := []string{
		resource + " | WARN faas.invocation_id=r-1 log.iostream=stdout hearth.log.source=function | hello",
		resource + " |  log.iostream=stderr hearth.log.source=function | a\uFFFD",
		resource + " |  hearth.log.source=platform | {}",
	}
	got := c.records()
	if len(got) != 4 || s.Shipped() != 4 || s.Dropped() != 0 {
		t.Fatalf("shipped %d, dropped %d: %q", s.Shipped(), s.Dropped(), got)
	}
	var ofF []string
	for _, r := range got {
		if strings.Contains(r, "faas.name=f ") {
			ofF = append(ofF, r)
		}
	}
	if d := cmp.Diff(want, ofF); d != "" {
		t.Error(d)
	}
}

func TestLongLinesAreSentInRequestsOfASizeThatIsTaken(t *testing.T) {
	t.Parallel()
	c, endpoint := start(t)
	s, stop := ship(t, endpoint)
	line := s.Ship(options())
	for range 25 { // six and a half megabytes
		line(logs.Line{Time: time.Now(), Source: logs.Stdout, Text: bytes.Repeat([]byte{'x'}, 256<<10)})
	}
	deadline := time.Now().Add(30 * time.Second)
	for s.Shipped()+s.Dropped() < 25 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // the last attempt, at the end, is short
	}
	stop()
	if n := len(c.records()); n != 25 || s.Dropped() != 0 {
		t.Errorf("%d arrived, %d were dropped", n, s.Dropped())
	}
}

func TestACollectorThatIsAwayHoldsNothingUp(t *testing.T) {
	t.Parallel()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // takes connections, answers none
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	s, stop := ship(t, "http://"+lis.Addr().String())
	line := s.Ship(options())
	began := time.Now()
	for range 30_000 {
		line(logs.Line{Time: began, Source: logs.Stdout, Text: []byte("hello")})
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("printing took %v", took)
	}
	if got := s.Dropped(); got < 30_000-8192 {
		t.Errorf("%d are dropped", got)
	}
	large := s.Ship(options())
	before := s.Dropped()
	for range 100 {
		large(logs.Line{Time: began, Source: logs.Stdout, Text: bytes.Repeat([]byte{'x'}, 256<<10)})
	}
	if got := s.Dropped() - before; got < 100-32 {
		t.Errorf("%d large lines are dropped", got)
	}
	ended := time.Now()
	stop()
	if took := time.Since(ended); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
}

func TestWhatACollectorRefusesIsCounted(t *testing.T) {
	t.Parallel()
	c, endpoint := start(t)
	c.refuse.Store(true)
	s, stop := ship(t, endpoint)
	line := s.Ship(options())
	for range 10 {
		line(logs.Line{Time: time.Now(), Source: logs.Stdout, Text: []byte("hello")})
	}
	stop()
	if s.Dropped() != 10 || s.Shipped() != 0 {
		t.Errorf("shipped %d, dropped %d", s.Shipped(), s.Dropped())
	}
}
