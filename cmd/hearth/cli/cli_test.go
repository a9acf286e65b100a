package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/cmd/hearth/cli"
	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// control is an operator service with two instances. Each look at a draining
// instance finds one environment less.
type control struct {
	operatorv1.UnimplementedOperatorServiceServer

	mu       sync.Mutex
	draining bool
	left     int32
	asked    []string
	validFor time.Duration
	logs     *operatorv1.LogsRequest
}

func (c *control) ListInstances(_ context.Context, req *operatorv1.ListInstancesRequest) (*operatorv1.ListInstancesResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, "instances "+req.GetCapacityProvider())
	first := &operatorv1.Instance{
		Id: "i-0a", CapacityProvider: "blue", Zone: "subnet-a", State: operatorv1.InstanceState_INSTANCE_STATE_RUNNING,
		AllocatableMilliCpu: 2000, AllocatableMemoryBytes: 8 << 30, AllocatedMilliCpu: 750, AllocatedMemoryBytes: 1536 << 20,
		UsedMilliCpu: 1333, UsedMemoryBytes: 3 << 30, UsedDiskBytes: 1 << 30, TotalDiskBytes: 8 << 30, InFlight: 17,
		Environments: 3, CreatedAt: timestamppb.New(now.Add(-100 * time.Hour)), HeardAt: timestamppb.New(now.Add(-time.Second)),
		AgentVersion: "v0.1.0", Hostname: "box",
	}
	if c.draining {
		first.State, first.Environments = operatorv1.InstanceState_INSTANCE_STATE_DRAINING, c.left
		c.left--
	}
	list := []*operatorv1.Instance{first, {
		Id: "i-0b", CapacityProvider: "blue", Zone: "subnet-b", State: operatorv1.InstanceState_INSTANCE_STATE_LAUNCHING,
		AllocatableMilliCpu: 500, AllocatableMemoryBytes: 512 << 20, CreatedAt: timestamppb.New(now.Add(-90 * time.Second)),
	}}
	if first.Environments < 0 {
		list = list[1:]
	}
	return &operatorv1.ListInstancesResponse{Instances: list}, nil
}

func (*control) ListEnvironments(_ context.Context, req *operatorv1.ListEnvironmentsRequest) (*operatorv1.ListEnvironmentsResponse, error) {
	if req.GetFunction() == "none" {
		return &operatorv1.ListEnvironmentsResponse{}, nil
	}
	return &operatorv1.ListEnvironmentsResponse{Environments: []*operatorv1.Environment{
		{
			Id: "e-01", Function: "hello", Version: "1", CapacityProvider: "blue", Instance: "i-0a", Zone: "subnet-a", State: "Ready",
			InFlight: 5, MaxConcurrency: 32, Limit: 6, OverrunSlots: 1, CpuThrottledPermille: 90,
			Refusals: &operatorv1.EnvironmentRefusals{Cpu: 7, Memory: 1}, UsedMilliCpu: 125, LimitMilliCpu: 250, UsedMemoryBytes: 100<<20 + 300<<10,
			LimitMemoryBytes: 512 << 20, UsedTmpBytes: 4096, SandboxId: "s-1", Since: timestamppb.New(now.Add(-3 * time.Hour)),
		},
		{
			Id: "e-02", Function: "hello", Version: "1", CapacityProvider: "blue", Instance: "i-0b", State: "Failed",
			Reason: "FunctionError.RuntimeInitError: exit status 1\n\x1b[31mno such table", LimitMilliCpu: 250, LimitMemoryBytes: 512 << 20,
			MaxConcurrency: 32,
		},
	}}, nil
}

func (c *control) DrainInstance(_ context.Context, req *operatorv1.DrainInstanceRequest) (*operatorv1.DrainInstanceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if req.GetInstance() != "i-0a" {
		return nil, status.Error(codes.NotFound, "instance "+req.GetInstance()+": not found")
	}
	c.draining = true
	return &operatorv1.DrainInstanceResponse{}, nil
}

func (c *control) UndrainInstance(_ context.Context, req *operatorv1.UndrainInstanceRequest) (*operatorv1.UndrainInstanceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if req.GetInstance() != "i-0a" {
		return nil, status.Error(codes.NotFound, "instance "+req.GetInstance()+": not found")
	}
	c.draining = false
	return &operatorv1.UndrainInstanceResponse{}, nil
}

func (c *control) CreateJoinToken(_ context.Context, req *operatorv1.CreateJoinTokenRequest) (*operatorv1.CreateJoinTokenResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.validFor = req.GetValidFor().AsDuration()
	return &operatorv1.CreateJoinTokenResponse{Token: "hearth1.a.b.c", ExpiresAt: timestamppb.New(now.Add(c.validFor))}, nil
}

// serve serves c on loopback and returns its address.
func serve(t *testing.T, c operatorv1.OperatorServiceServer) string {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	if c != nil {
		operatorv1.RegisterOperatorServiceServer(srv, c)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := srv.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serving: %v", err)
		}
	})
	t.Cleanup(func() { srv.Stop(); running.Wait() })
	return lis.Addr().String()
}

// hearth runs the command with HEARTH_CONTROL set to address.
func hearth(t *testing.T, address string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errOut bytes.Buffer
	root := cli.New(cli.Env{
		Getenv: func(key string) string { return map[string]string{"HEARTH_CONTROL": address}[key] },
		Stdout: &out, Stderr: &errOut, Now: func() time.Time { return now }, Version: "v1.2.3",
	})
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return out.String(), errOut.String(), err
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (run with -update if this is meant):\n%s", name, d)
	}
}

func TestPrintsAreAsInTheGoldenFiles(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]string{
		"ps.txt":              "ps",
		"ps.json":             "ps -o json",
		"ps-none.txt":         "ps --function none",
		"ps-none.json":        "ps --function none -o json",
		"instances.txt":       "instances",
		"instances.json":      "instances --output json",
		"drain.txt":           "drain i-0a",
		"drain.json":          "drain i-0a -o json",
		"undrain.txt":         "undrain i-0a",
		"token.txt":           "token create --capacity-provider blue",
		"token.json":          "token create --capacity-provider blue --valid-for 24h -o json",
		"logs.txt":            "logs hello",
		"logs.json":           "logs hello -o json",
		"help-logs.txt":       "logs -h",
		"version.txt":         "version",
		"version.json":        "version -o json",
		"help.txt":            "--help",
		"help-ps.txt":         "ps -h",
		"help-instances.txt":  "instances -h",
		"help-drain.txt":      "drain -h",
		"help-token.txt":      "token create -h",
		"help-no-command.txt": "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, _, err := hearth(t, serve(t, &control{left: 2}), strings.Fields(args)...)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, out)
			for line := range strings.Lines(out) {
				if name == "logs.json" && !json.Valid([]byte(line)) {
					t.Errorf("not JSON: %s", line)
				}
			}
			if strings.HasSuffix(name, ".json") && name != "logs.json" && !json.Valid([]byte(out)) {
				t.Errorf("not JSON: %s", out)
			}
		})
	}
}

func TestControlFlagWinsOverEnvironment(t *testing.T) {
	t.Parallel()
	c := &control{}
	if _, _, err := hearth(t, "127.0.0.1:1", "instances", "--control", serve(t, c), "--capacity-provider", "blue"); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"instances blue"}, c.asked); d != "" {
		t.Error(d)
	}
}

func TestDrainWaitsUntilEmpty(t *testing.T) {
	t.Parallel()
	out, _, err := hearth(t, serve(t, &control{left: 2}), "drain", "i-0a", "--wait")
	if err != nil {
		t.Fatal(err)
	}
	want := "i-0a is draining, 2 environments are left\ni-0a is draining, 0 environments are left\n"
	if d := cmp.Diff(want, out); d != "" {
		t.Error(d)
	}
}

func TestDrainWaitEndsWhenTheInstanceIsGone(t *testing.T) {
	t.Parallel()
	c := &control{left: 0}
	out, _, err := hearth(t, serve(t, c), "drain", "i-0a", "--wait")
	if err != nil {
		t.Fatal(err)
	}
	want := "i-0a is draining, 0 environments are left\ni-0a is gone\n"
	if d := cmp.Diff(want, out); d != "" {
		t.Error(d)
	}
}

func TestDrainWaitGivesUp(t *testing.T) {
	t.Parallel()
	_, _, err := hearth(t, serve(t, &control{left: 1000}), "drain", "i-0a", "--wait", "--timeout", "50ms")
	if err == nil || !strings.Contains(err.Error(), "i-0a is empty: it is not empty yet") {
		t.Errorf("got %v", err)
	}
}

func TestTokenTellsItsExpiryAside(t *testing.T) {
	t.Parallel()
	c := &control{}
	_, aside, err := hearth(t, serve(t, c), "token", "create", "--capacity-provider", "blue")
	if err != nil || !strings.Contains(aside, "until 2026-11-23T13:00:00Z") || c.validFor != time.Hour {
		t.Errorf("got %q, %v, %s", aside, err, c.validFor)
	}
}

func TestErrorsAreOneClearLine(t *testing.T) {
	t.Parallel()
	address := serve(t, &control{})
	elsewhere := serve(t, nil)
	for _, c := range []struct{ address, args, want string }{
		{"127.0.0.1:1", "ps", "cannot reach hearth-control at 127.0.0.1:1: connection refused; is hearth-control running"},
		{"does-not-exist.invalid:9101", "instances", "cannot reach hearth-control at does-not-exist.invalid:9101: "},
		{"9101", "ps", `--control "9101": want HOST:PORT`},
		{elsewhere, "ps", "hearth-control at " + elsewhere + ": unknown service"},
		{address, "drain i-99", "instance i-99: not found"},
		{address, "drain", "accepts 1 arg(s), received 0"},
		{address, "token create", `required flag(s) "capacity-provider" not set`},
		{address, "ps -o yaml", "want table or json"},
		{address, "pss", `unknown command "pss" for "hearth"`},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			out, aside, err := hearth(t, c.address, strings.Fields(c.args)...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if out != "" || aside != "" {
				t.Errorf("printed %q and %q besides", out, aside)
			}
		})
	}
}
