package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/hearth-compute/hearth/controlplane/server"
	"github.com/hearth-compute/hearth/sandbox/fake"
)

// spans is an OpenTelemetry collector.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu  sync.Mutex
	got map[string]*tracev1.Span // by service and name, of the trace that is looked for
	of  string
	all int
}

func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range r.GetResourceSpans() {
		service := ""
		for _, a := range of.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				service = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range of.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				s.all++
				if hex.EncodeToString(span.GetTraceId()) == s.of {
					s.got[service+" "+span.GetName()] = span
				}
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func (s *spans) look(trace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of, s.got = trace, map[string]*tracev1.Span{}
}

// chain is the ids of the spans of the trace, each the parent of the next, from
// the one whose parent is given.
func (s *spans) chain(parent string, names ...string) (ids []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.got) != len(names) {
		return nil, fmt.Errorf("%d spans of that trace, want %d", len(s.got), len(names))
	}
	for _, name := range names {
		span := s.got[name]
		if span == nil || hex.EncodeToString(span.GetParentSpanId()) != parent {
			return nil, fmt.Errorf("%s is %v, want the parent %s", name, span, parent)
		}
		parent = hex.EncodeToString(span.GetSpanId())
		ids = append(ids, parent)
	}
	return ids, nil
}

func newCollector(t *testing.T) (s *spans, endpoint string) {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = &spans{got: map[string]*tracev1.Span{}}
	g := grpc.NewServer()
	collector.RegisterTraceServiceServer(g, s)
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(lis) })
	t.Cleanup(func() { g.Stop(); wg.Wait() })
	return s, "http://" + lis.Addr().String()
}

// tellTrace is a runtime whose function answers with the trace header it got.
func tellTrace(ctx context.Context, p *fake.Process) int {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return p.Dial(ctx, addr) },
	}}
	base := "http://" + p.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	for ctx.Err() == nil {
		next, err := send(ctx, client, http.MethodGet, base+"next", "", nil)
		if err != nil {
			return 1
		}
		id, header := next.header.Get("Lambda-Runtime-Aws-Request-Id"), next.header.Get("Lambda-Runtime-Trace-Id")
		if _, err := send(ctx, client, http.MethodPost, base+id+"/response", header, nil); err != nil {
			return 1
		}
	}
	return 1
}

// reply is an answer that was read.
type reply struct {
	status int
	header http.Header
	text   string
}

// send sends a request and reads the answer.
func send(ctx context.Context, client *http.Client, method, url, body string, header map[string]string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, header: resp.Header, text: string(text)}, err
}

// traced invokes f with headers and returns the trace header the function got and
// the one its caller got.
func (s *system) traced(header map[string]string) (function, caller string) {
	s.t.Helper()
	s.eventually("an invoke", func() error {
		resp, err := send(s.t.Context(), &http.Client{}, http.MethodPost, "http://"+s.addr.API+"/2015-03-31/functions/f/invocations", "{}", header)
		if err != nil {
			return err
		}
		if resp.status != http.StatusOK {
			return fmt.Errorf("%d: %s", resp.status, resp.text)
		}
		function, caller = resp.text, resp.header.Get("X-Amzn-Trace-Id")
		return nil
	})
	return function, caller
}

// newTraced is a system whose function tells its trace header.
func newTraced(t *testing.T, mode types.TracingMode) (*system, *spans) {
	t.Helper()
	got, endpoint := newCollector(t)
	s := newSystem(t, func(c *server.Config) { c.OTLPEndpoint, c.TraceRatio = endpoint, 0 })
	s.publish()
	for _, zone := range []string{"subnet-a", "subnet-b", "subnet-c"} {
		h := s.host(zone)
		h.AddImage("fake", fake.Image{Program: tellTrace})
		s.agent(h)
	}
	s.function(func(in *lambda.CreateFunctionInput) { in.TracingConfig = &types.TracingConfig{Mode: mode} })
	return s, got
}

// hops are the spans of an invoke.
func hops() []string {
	return []string{"hearth-control InvokeFunction", "hearth-control agent call", "hearth-agent agent invoke", "hearth-agent function"}
}

func TestAnInvokeIsOneChainOfSpansAndTheFunctionGetsItsEnd(t *testing.T) {
	t.Parallel()
	s, got := newTraced(t, types.TracingModeActive)
	got.look("5e1b4151c3f1a2b3c4d5e6f708192a3b")
	const parent = "53995c3f42cd8ad8"
	header, back := s.traced(map[string]string{"X-Amzn-Trace-Id": "Root=1-5e1b4151-c3f1a2b3c4d5e6f708192a3b;Parent=" + parent + ";Sampled=1;Lineage=a:1|b:2"})
	if back != "Root=1-5e1b4151-c3f1a2b3c4d5e6f708192a3b;Parent="+parent+";Sampled=1;Lineage=a:1|b:2" {
		t.Errorf("the caller got %q", back)
	}
	var ids []string
	s.eventually("the spans", func() (err error) { ids, err = got.chain(parent, hops()...); return err })
	if want := "Root=1-5e1b4151-c3f1a2b3c4d5e6f708192a3b;Parent=" + ids[3] + ";Sampled=1;Lineage=a:1|b:2"; header != want {
		t.Errorf("the function got %q, want %q", header, want)
	}

	got.look("0af7651916cd43dd8448eb211c80319c")
	header, back = s.traced(map[string]string{"Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
	s.eventually("the spans", func() (err error) { ids, err = got.chain("b7ad6b7169203331", hops()...); return err })
	if want := "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=" + ids[3] + ";Sampled=1"; header != want {
		t.Errorf("by W3C the function got %q, want %q", header, want)
	}
	if want := "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=" + ids[0] + ";Sampled=1"; back != want {
		t.Errorf("by W3C the caller got %q, want %q", back, want)
	}

	before := func() int { got.mu.Lock(); defer got.mu.Unlock(); return got.all }()
	header, _ = s.traced(nil) // nobody asked, and the ratio is 0
	if !regexp.MustCompile(`^Root=1-[0-9a-f]{8}-[0-9a-f]{24};Parent=[0-9a-f]{16};Sampled=0$`).MatchString(header) {
		t.Errorf("without a header the function got %q", header)
	}
	header, _ = s.traced(map[string]string{"X-Amzn-Trace-Id": "Root=1-5e1b4151-c3f1a2b3c4d5e6f708192a3b;Sampled=0"})
	if !regexp.MustCompile(`^Root=1-5e1b4151-c3f1a2b3c4d5e6f708192a3b;Parent=[0-9a-f]{16};Sampled=0$`).MatchString(header) {
		t.Errorf("told not to sample, the function got %q", header)
	}
	if after := func() int { got.mu.Lock(); defer got.mu.Unlock(); return got.all }(); after != before {
		t.Errorf("%d spans nobody asked for", after-before)
	}
}

func TestPassThroughForwardsTheTraceHeader(t *testing.T) {
	t.Parallel()
	s, _ := newTraced(t, types.TracingModePassThrough)
	const sent = "Self=1-67891234-12456789abcdef012345678;Root=1-5e1b4151-c3f1a2b3c4d5e6f708192a3b;Parent=53995c3f42cd8ad8;Sampled=1"
	if header, back := s.traced(map[string]string{"X-Amzn-Trace-Id": sent}); header != sent || back != sent {
		t.Errorf("the function got %q and the caller %q, want what was sent", header, back)
	}
}
