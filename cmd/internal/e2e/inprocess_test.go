package e2e

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/daemon"
	"github.com/hearth-compute/hearth/controlplane/server"
	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/fake"
)

// driver makes a fake runtime a daemon.Driver.
type driver struct{ *fake.Runtime }

func (driver) Open(context.Context) error    { return nil }
func (driver) Away() error                   { return nil }
func (driver) Destroy(context.Context) error { return nil }

// runtimeClient is a Lambda runtime: it answers every event with its request
// id, as many at once as it is allowed.
func runtimeClient(ctx context.Context, p *fake.Process) int {
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext:         func(ctx context.Context, _, addr string) (net.Conn, error) { return p.Dial(ctx, addr) },
	}}
	base := "http://" + p.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := serveOne(ctx, client, base); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return 1
}

func serveOne(ctx context.Context, client *http.Client, base string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"next", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	id := resp.Header.Get("Lambda-Runtime-Aws-Request-Id")
	req, err = http.NewRequestWithContext(ctx, http.MethodPost, base+id+"/response", strings.NewReader(fmt.Sprintf("%q", id)))
	if err != nil {
		return err
	}
	done, err := client.Do(req)
	if err != nil {
		return err
	}
	return done.Body.Close()
}

// system is control and agents in this process.
type system struct {
	t        *testing.T
	addr     server.Addresses
	lambda   *lambda.Client
	operator operatorv1.OperatorServiceClient
	otlp     string // the collector of all
}

// newSystem runs a control service, configured as edits say.
func newSystem(t *testing.T, edits ...func(*server.Config)) *system {
	t.Helper()
	cfg := server.Default()
	cfg.Listen, cfg.AgentListen, cfg.OperatorListen, cfg.MetricsListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.DataDir, cfg.Fleet, cfg.Logger = t.TempDir(), "static", slog.New(slog.DiscardHandler)
	cfg.RuntimeImages = map[string]string{"provided.al2023": "fake"}
	for _, edit := range edits {
		edit(&cfg)
	}
	srv, err := server.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "control", srv.Run)
	s := &system{t: t, addr: srv.Addresses(), otlp: cfg.OTLPEndpoint}
	s.lambda = lambda.New(lambda.Options{
		Region: cfg.Region, BaseEndpoint: aws.String("http://" + s.addr.API), Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "any", SecretAccessKey: "any"}, nil
		}),
	})
	cc, err := grpc.NewClient(s.addr.Operators, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	s.operator = operatorv1.NewOperatorServiceClient(cc)
	return s
}

// run runs something until the end of the test.
func run(t *testing.T, what string, fn func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel(errors.New("end of the test"))
		if err := <-done; err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// host is a machine with an agent.
type host struct {
	*fake.Host
	dir  string
	zone string
}

// host joins a new machine.
func (s *system) host(zone string) *host {
	s.t.Helper()
	h := &host{Host: fake.NewHost(), dir: s.t.TempDir(), zone: zone}
	s.t.Cleanup(h.Close)
	h.AddImage("fake", fake.Image{Program: runtimeClient})
	tok, err := s.operator.CreateJoinToken(s.t.Context(), &operatorv1.CreateJoinTokenRequest{CapacityProvider: "p"})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "token"), []byte(tok.GetToken()), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return h
}

// agent runs an agent on a machine.
func (s *system) agent(h *host) (stop func()) {
	s.t.Helper()
	a, err := daemon.NewWith(daemon.Config{
		Controls: []string{s.addr.Agents}, DataDir: filepath.Join(h.dir, "data"), Zone: h.zone,
		JoinTokenFile: filepath.Join(h.dir, "token"), Allocatable: agent.Resources{CPU: 2000, Memory: 8 << 30},
		ContainerdAddress: "/run/none.sock", ContainerdNamespace: "none", NftTable: "none", CgroupParent: "/none",
		InitPath: "/none/init", Region: "us-east-1", Subnet: netip.MustParsePrefix("10.201.0.0/24"),
		CodeCache: 1 << 30, DataConnections: 2, DrainTimeout: 10 * time.Second, Version: "test", Hostname: "test",
		OTLPEndpoint: s.otlp, Log: slog.New(slog.DiscardHandler),
	}, daemon.Parts{Driver: func(out sandbox.Output) (daemon.Driver, error) {
		return driver{fake.New(h.Host, out)}, nil
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	return run(s.t, "agent", a.Run)
}

func bootstrapZip(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	h := &zip.FileHeader{Name: "bootstrap"}
	h.SetMode(0o755)
	w, err := z.CreateHeader(h)
	if err == nil {
		_, err = w.Write([]byte("#!/bin/sh\n"))
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func (s *system) publish() {
	s.t.Helper()
	_, err := s.lambda.CreateCapacityProvider(s.t.Context(), &lambda.CreateCapacityProviderInput{
		CapacityProviderName: aws.String("p"),
		PermissionsConfig:    &types.CapacityProviderPermissionsConfig{CapacityProviderOperatorRoleArn: aws.String("arn:aws:iam::123456789012:role/any")},
		VpcConfig:            &types.CapacityProviderVpcConfig{SubnetIds: []string{"subnet-a", "subnet-b", "subnet-c"}, SecurityGroupIds: []string{}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *system) function(edits ...func(*lambda.CreateFunctionInput)) {
	s.t.Helper()
	s.eventually("the function to be accepted", func() error {
		in := &lambda.CreateFunctionInput{
			FunctionName: aws.String("f"), Role: aws.String("arn:aws:iam::123456789012:role/any"),
			Runtime: types.RuntimeProvidedal2023, Handler: aws.String("bootstrap"), Code: &types.FunctionCode{ZipFile: bootstrapZip(s.t)},
			MemorySize: aws.Int32(2048), Publish: true, PublishTo: types.FunctionVersionLatestPublishedLatestPublished,
			CapacityProviderConfig: &types.CapacityProviderConfig{
				LambdaManagedInstancesCapacityProviderConfig: &types.LambdaManagedInstancesCapacityProviderConfig{
					CapacityProviderArn: aws.String("arn:aws:lambda:us-east-1:123456789012:capacity-provider:p"),
				},
			},
		}
		for _, edit := range edits {
			edit(in)
		}
		_, err := s.lambda.CreateFunction(s.t.Context(), in)
		return err
	})
}

func (s *system) eventually(what string, ok func() error) {
	s.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited 30 s for %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *system) invoke() (string, error) {
	out, err := s.lambda.Invoke(s.t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: []byte(`{}`)})
	if err != nil {
		return "", err
	}
	if out.FunctionError != nil {
		return "", fmt.Errorf("%s: %s", *out.FunctionError, out.Payload)
	}
	var id string
	return id, json.Unmarshal(out.Payload, &id)
}

func (s *system) environments() []*operatorv1.Environment {
	s.t.Helper()
	r, err := s.operator.ListEnvironments(s.t.Context(), &operatorv1.ListEnvironmentsRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	return r.GetEnvironments()
}

// TestAFunctionRunsAndSurvivesAnAgentRestart goes the whole way in one
// process: provider, hosts that join, function, invoke; then an agent restarts
// and its environment is replaced, new first.
func TestAFunctionRunsAndSurvivesAnAgentRestart(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.publish()
	var hosts []*host
	var stops []func()
	for _, zone := range []string{"subnet-a", "subnet-b", "subnet-c"} {
		h := s.host(zone)
		hosts, stops = append(hosts, h), append(stops, s.agent(h))
	}
	s.eventually("three running instances", func() error { return s.running(3) })
	s.function()
	s.eventually("an invoke", func() error { _, err := s.invoke(); return err })
	s.invokeAll(30)
	zones := map[string]int{}
	for _, e := range s.environments() {
		zones[e.GetZone()]++
	}
	if len(zones) != 3 {
		t.Errorf("environments are in zones %v, want one in each of three", zones)
	}

	before := hosts[0].Sandboxes()
	stops[0]()
	if got := hosts[0].Sandboxes(); len(got) != 1 || got[0] != before[0] {
		t.Errorf("after the agent stopped its sandboxes are %v, want %v", got, before)
	}
	s.invokeAll(10) // the other two serve
	s.agent(hosts[0])
	s.eventually("the replacement", func() error {
		got := hosts[0].Sandboxes()
		if len(got) != 1 || got[0] == before[0] {
			return fmt.Errorf("sandboxes %v", got)
		}
		return nil
	})
	s.eventually("three ready environments", func() error { return s.ready(3) })
	s.invokeAll(10)
}

// invokeAll invokes n times and wants n answers, each to its own event.
func (s *system) invokeAll(n int) {
	s.t.Helper()
	ids := map[string]bool{}
	for range n {
		id, err := s.invoke()
		if err != nil {
			s.t.Error(err)
		}
		ids[id] = true
	}
	if len(ids) != n {
		s.t.Errorf("%d distinct request ids of %d", len(ids), n)
	}
}

// running fails unless n instances are.
func (s *system) running(n int) error {
	r, err := s.operator.ListInstances(s.t.Context(), &operatorv1.ListInstancesRequest{})
	if err != nil {
		return err
	}
	have := 0
	for _, i := range r.GetInstances() {
		if i.GetState() == operatorv1.InstanceState_INSTANCE_STATE_RUNNING {
			have++
		}
	}
	if have != n {
		return fmt.Errorf("%d are running", have)
	}
	return nil
}

// ready fails unless n environments are.
func (s *system) ready(n int) error {
	have := 0
	for _, e := range s.environments() {
		if e.GetState() == "Ready" {
			have++
		}
	}
	if have != n {
		return fmt.Errorf("%d are ready", have)
	}
	return nil
}
