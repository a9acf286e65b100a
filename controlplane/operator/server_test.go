package operator_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/operator"
	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

// world is a control service in memory.
type world struct {
	snapshots []controlplane.Snapshot
	err       error
	drained   []controlplane.InstanceID
	validFor  time.Duration
	// printed are the logs of instances.
	printed  *printed
	stopping chan struct{}
}

func (w *world) Snapshots(context.Context) ([]controlplane.Snapshot, error) {
	return w.snapshots, w.err
}

func (w *world) UndrainInstance(_ context.Context, id controlplane.InstanceID) error {
	i := slices.Index(w.drained, id)
	if i < 0 {
		return fmt.Errorf("undraining %s: %w", id, errdefs.ErrNotFound)
	}
	w.drained = slices.Delete(w.drained, i, i+1)
	return nil
}

func (w *world) DrainInstance(_ context.Context, id controlplane.InstanceID) error {
	if w.err != nil {
		return w.err
	}
	for _, s := range w.snapshots {
		for _, i := range s.Instances {
			if i.ID == id {
				w.drained = append(w.drained, id)
				return nil
			}
		}
	}
	return fmt.Errorf("draining %s: %w", id, errdefs.ErrNotFound)
}

func (w *world) NewJoinToken(_ context.Context, p controlplane.ProviderName, validFor time.Duration) (string, time.Time, error) {
	if p != "blue" {
		return "", time.Time{}, fmt.Errorf("capacity provider %s: %w", p, errdefs.ErrNotFound)
	}
	w.validFor = validFor
	return "hearth1.a.b.c", noon.Add(validFor), nil
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newWorld() *world {
	size := controlplane.Resources{CPU: 2000, Memory: 8 << 30}
	env := func(id, fn, version, instance string) controlplane.Environment {
		return controlplane.Environment{
			ID: controlplane.EnvironmentID(id), Provider: "blue", Function: controlplane.FunctionName(fn),
			Qualifier: controlplane.Qualifier(version), Instance: controlplane.InstanceID(instance),
			Size: controlplane.Resources{CPU: 500, Memory: 1 << 30}, State: controlplane.EnvironmentReady,
			MaxConcurrency: 8, Since: noon,
		}
	}
	hot := env("e-3", "hello", "2", "i-1")
	hot.Heat = controlplane.EnvironmentHeat{InFlight: 3, CPU: 250, Memory: 100 << 20, Tmp: 4096, Limit: 6, Overrun: 1, ThrottledPermille: 90, Refusals: controlplane.Refusals{CPU: 7, Disk: 2}}
	hot.Sandbox = "s-3"
	failed := env("e-1", "broken", "1", "i-2")
	failed.State, failed.ReasonCode, failed.Reason = controlplane.EnvironmentFailed, "FunctionError.RuntimeInitError", "exit status 1"
	unheard := env("e-5", "hello", "2", "i-2")
	unheard.State, unheard.Since = "", time.Time{}
	return &world{printed: &printed{}, snapshots: []controlplane.Snapshot{
		{Provider: controlplane.CapacityProvider{Name: "green"}, Instances: []controlplane.Instance{
			{ID: "i-7", Provider: "green", Zone: "a", State: controlplane.InstanceTerminating, Size: size},
			{ID: "i-8", Provider: "green", Zone: "a", State: controlplane.InstanceDraining, Size: size},
		}},
		{
			Provider: controlplane.CapacityProvider{Name: "blue"},
			Instances: []controlplane.Instance{
				{
					ID: "i-1", Provider: "blue", Zone: "b", State: controlplane.InstanceRunning, Size: size, CreatedAt: noon,
					Observed: &controlplane.InstanceObservation{
						Connected: true, Allocatable: controlplane.Resources{CPU: 1900, Memory: 7 << 30}, HeardAt: noon.Add(time.Second),
						AgentVersion: "v1", Hostname: "box",
						Heat: controlplane.HostHeat{CPU: 700, Memory: 2 << 30, DiskUsed: 5, DiskTotal: 10, InFlight: 3},
					},
				},
				{
					ID: "i-2", Provider: "blue", Zone: "a", State: controlplane.InstanceRunning, Size: size,
					Observed: &controlplane.InstanceObservation{Allocatable: size},
				},
				{ID: "i-3", Provider: "blue", Zone: "a", State: controlplane.InstanceLaunching, Size: size},
				{ID: "i-4", Provider: "blue", Zone: "c", State: controlplane.InstanceRunning, Size: size},
				{
					ID: "i-5", Provider: "blue", Zone: "c", State: controlplane.InstanceLaunching, Size: size,
					Observed: &controlplane.InstanceObservation{Connected: true},
				},
			},
			Environments: []controlplane.Environment{
				failed, env("e-2", "hello", "10", "i-1"), hot, env("e-4", "hello", "$LATEST.PUBLISHED", "i-1"), unheard,
			},
		},
	}}
}

// client serves w over memory and returns a client of it, and what was logged.
func client(t *testing.T, w *world) (operatorv1.OperatorServiceClient, *strings.Builder) {
	t.Helper()
	var logged strings.Builder
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	operatorv1.RegisterOperatorServiceServer(srv, operator.New(operator.Config{
		State: w, Drainer: w, Tokens: w, Logs: w, Stopping: w.stopping, Log: slog.New(slog.NewTextHandler(&logged, nil)),
	}))
	var running sync.WaitGroup
	running.Go(func() {
		if err := srv.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serving: %v", err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///memory",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); srv.Stop(); running.Wait() })
	return operatorv1.NewOperatorServiceClient(conn), &logged
}

func TestInstancesAreListedInOrderWithTheirState(t *testing.T) {
	t.Parallel()
	c, _ := client(t, newWorld())
	list := func(provider string) []string {
		resp, err := c.ListInstances(t.Context(), &operatorv1.ListInstancesRequest{CapacityProvider: provider})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range resp.GetInstances() {
			state := strings.TrimPrefix(i.GetState().String(), "INSTANCE_STATE_")
			got = append(got, fmt.Sprintf("%s %s %s %s", i.GetCapacityProvider(), i.GetZone(), i.GetId(), state))
		}
		return got
	}
	blue := []string{"blue a i-2 SILENT", "blue a i-3 LAUNCHING", "blue b i-1 RUNNING", "blue c i-4 SILENT", "blue c i-5 RUNNING"}
	green := []string{"green a i-7 TERMINATING", "green a i-8 DRAINING"}
	for provider, want := range map[string][]string{"": append(blue[:5:5], green...), "blue": blue, "green": green, "red": nil} {
		if d := cmp.Diff(want, list(provider)); d != "" {
			t.Errorf("%q: %s", provider, d)
		}
	}
}

func TestInstanceTellsItsHeat(t *testing.T) {
	t.Parallel()
	c, _ := client(t, newWorld())
	resp, err := c.ListInstances(t.Context(), &operatorv1.ListInstancesRequest{CapacityProvider: "blue"})
	if err != nil {
		t.Fatal(err)
	}
	want := &operatorv1.Instance{
		Id: "i-1", CapacityProvider: "blue", Zone: "b", State: operatorv1.InstanceState_INSTANCE_STATE_RUNNING,
		AllocatableMilliCpu: 1900, AllocatableMemoryBytes: 7 << 30, AllocatedMilliCpu: 1500, AllocatedMemoryBytes: 3 << 30,
		UsedMilliCpu: 700, UsedMemoryBytes: 2 << 30, UsedDiskBytes: 5, TotalDiskBytes: 10, InFlight: 3, Environments: 3,
		CreatedAt: timestamppb.New(noon), HeardAt: timestamppb.New(noon.Add(time.Second)), AgentVersion: "v1", Hostname: "box",
	}
	if d := cmp.Diff(want, resp.GetInstances()[2], protocmp.Transform()); d != "" {
		t.Error(d)
	}
	// What was never heard of has what was asked for.
	launching := resp.GetInstances()[1]
	if launching.GetAllocatableMilliCpu() != 2000 || launching.GetHeardAt() != nil {
		t.Errorf("got %v", launching)
	}
}

func TestEnvironmentsAreFilteredAndInOrder(t *testing.T) {
	t.Parallel()
	c, _ := client(t, newWorld())
	for _, tc := range []struct {
		req  *operatorv1.ListEnvironmentsRequest
		want string
	}{
		{&operatorv1.ListEnvironmentsRequest{}, "e-1 e-3 e-5 e-2 e-4"},
		{&operatorv1.ListEnvironmentsRequest{CapacityProvider: "green"}, ""},
		{&operatorv1.ListEnvironmentsRequest{Function: "hello"}, "e-3 e-5 e-2 e-4"},
		{&operatorv1.ListEnvironmentsRequest{Instance: "i-2"}, "e-1 e-5"},
		{&operatorv1.ListEnvironmentsRequest{CapacityProvider: "blue", Function: "hello", Instance: "i-2"}, "e-5"},
	} {
		resp, err := c.ListEnvironments(t.Context(), tc.req)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range resp.GetEnvironments() {
			got = append(got, e.GetId())
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%v: got %q, want %q", tc.req, got, tc.want)
		}
	}
}

func TestEnvironmentTellsItsHeat(t *testing.T) {
	t.Parallel()
	c, _ := client(t, newWorld())
	resp, err := c.ListEnvironments(t.Context(), &operatorv1.ListEnvironmentsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &operatorv1.Environment{
		Id: "e-3", Function: "hello", Version: "2", CapacityProvider: "blue", Instance: "i-1", Zone: "b", State: "Ready",
		InFlight: 3, MaxConcurrency: 8, UsedMilliCpu: 250, LimitMilliCpu: 500, UsedMemoryBytes: 100 << 20,
		LimitMemoryBytes: 1 << 30, UsedTmpBytes: 4096, SandboxId: "s-3", Since: timestamppb.New(noon),
		Limit: 6, OverrunSlots: 1, CpuThrottledPermille: 90, Refusals: &operatorv1.EnvironmentRefusals{Cpu: 7, Disk: 2},
	}
	if d := cmp.Diff(want, resp.GetEnvironments()[1], protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if failed := resp.GetEnvironments()[0]; failed.GetReason() != "FunctionError.RuntimeInitError: exit status 1" {
		t.Errorf("got reason %q", failed.GetReason())
	}
	if unheard := resp.GetEnvironments()[2]; unheard.GetState() != "Unknown" || unheard.GetSince() != nil {
		t.Errorf("got %v", unheard)
	}
}

func TestDrainNamesTheInstance(t *testing.T) {
	t.Parallel()
	w := newWorld()
	c, _ := client(t, w)
	if _, err := c.DrainInstance(t.Context(), &operatorv1.DrainInstanceRequest{Instance: "i-1"}); err != nil {
		t.Fatal(err)
	}
	if len(w.drained) != 1 || w.drained[0] != "i-1" {
		t.Errorf("drained %q", w.drained)
	}
	_, err := c.DrainInstance(t.Context(), &operatorv1.DrainInstanceRequest{Instance: "i-9"})
	wantStatus(t, err, codes.NotFound, "i-9")
	_, err = c.DrainInstance(t.Context(), &operatorv1.DrainInstanceRequest{})
	wantStatus(t, err, codes.InvalidArgument, "the instance is required")
}

func TestJoinTokensAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld()
	c, _ := client(t, w)
	resp, err := c.CreateJoinToken(t.Context(), &operatorv1.CreateJoinTokenRequest{CapacityProvider: "blue"})
	if err != nil || resp.GetToken() != "hearth1.a.b.c" || !resp.GetExpiresAt().AsTime().Equal(noon.Add(time.Hour)) {
		t.Errorf("got %v, %v", resp, err)
	}
	month := durationpb.New(operator.MaxTokenValidity)
	if _, err := c.CreateJoinToken(t.Context(), &operatorv1.CreateJoinTokenRequest{CapacityProvider: "blue", ValidFor: month}); err != nil || w.validFor != operator.MaxTokenValidity {
		t.Errorf("got %v and %s", err, w.validFor)
	}
	for _, tc := range []struct {
		provider string
		validFor time.Duration
		code     codes.Code
		says     string
	}{
		{"", time.Hour, codes.InvalidArgument, "capacity provider is required"},
		{"blue", 0, codes.InvalidArgument, "not 0s"},
		{"blue", operator.MaxTokenValidity + 1, codes.InvalidArgument, "at most 720h"},
		{"red", time.Hour, codes.NotFound, "red"},
	} {
		_, err := c.CreateJoinToken(t.Context(), &operatorv1.CreateJoinTokenRequest{
			CapacityProvider: tc.provider, ValidFor: durationpb.New(tc.validFor),
		})
		wantStatus(t, err, tc.code, tc.says)
	}
}

func TestInternalTextStaysInTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld()
	c, logged := client(t, w)
	w.err = errors.New("disk sda1 is on fire")
	_, err := c.ListInstances(t.Context(), &operatorv1.ListInstancesRequest{})
	wantStatus(t, err, codes.Internal, "listing instances failed")
	_, err = c.ListEnvironments(t.Context(), &operatorv1.ListEnvironmentsRequest{})
	wantStatus(t, err, codes.Internal, "listing environments failed")
	if strings.Contains(err.Error(), "sda1") || !strings.Contains(logged.String(), "sda1") {
		t.Errorf("the caller was told %v and the log %q", err, logged)
	}
	w.err = fmt.Errorf("the store is closed: %w", errdefs.ErrUnavailable)
	_, err = c.ListInstances(t.Context(), &operatorv1.ListInstancesRequest{})
	wantStatus(t, err, codes.Unavailable, "the store is closed")
}

func wantStatus(t *testing.T, err error, code codes.Code, says string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want %s with %q", err, code, says)
	}
}

func TestUndrainUndoesADrain(t *testing.T) {
	t.Parallel()
	w := &world{drained: []controlplane.InstanceID{"i-1"}}
	c, _ := client(t, w)
	if _, err := c.UndrainInstance(t.Context(), &operatorv1.UndrainInstanceRequest{Instance: "i-1"}); err != nil {
		t.Fatal(err)
	}
	if len(w.drained) != 0 {
		t.Errorf("still drained: %q", w.drained)
	}
	if _, err := c.UndrainInstance(t.Context(), &operatorv1.UndrainInstanceRequest{Instance: "i-9"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown: %v", err)
	}
	if _, err := c.UndrainInstance(t.Context(), &operatorv1.UndrainInstanceRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("unnamed: %v", err)
	}
}
