package daemon_test

import (
	"context"
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
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/daemon"
	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/fake"
)

// driver makes the fake a daemon.Driver.
type driver struct {
	*fake.Runtime
	unavailable int
	destroyed   *int
	away        *atomic.Bool
}

func (d *driver) Away() error {
	if d.away != nil && d.away.Load() {
		return errors.New("containerd is gone")
	}
	return nil
}

func (d *driver) Open(context.Context) error {
	if d.unavailable--; d.unavailable >= 0 {
		return fmt.Errorf("containerd is away: %w", errdefs.ErrUnavailable)
	}
	return nil
}

func (d *driver) Destroy(context.Context) error { *d.destroyed++; return nil }

func config(t *testing.T) daemon.Config {
	return daemon.Config{
		Controls: []string{"control:9100"}, DataDir: filepath.Join(t.TempDir(), "agent"),
		ContainerdAddress: "/run/containerd/containerd.sock", ContainerdNamespace: "hearth", Zone: "z",
		Subnet: netip.MustParsePrefix("10.201.0.0/24"), DenyCIDRs: []netip.Prefix{netip.MustParsePrefix("10.201.0.0/16")},
		NftTable: "hearth", CgroupParent: "/hearth", InitPath: "/usr/lib/hearth/hearth-init", Region: "us-east-1",
		CodeCache: 1 << 30, DataConnections: 2, DrainTimeout: time.Minute, Log: slog.New(slog.DiscardHandler),
	}
}

func newAgent(t *testing.T, cfg daemon.Config) (*daemon.Agent, *int) {
	t.Helper()
	return newAgentOn(t, cfg, nil)
}

// newAgentOn is newAgent with a containerd that is away when the test says so.
func newAgentOn(t *testing.T, cfg daemon.Config, away *atomic.Bool) (*daemon.Agent, *int) {
	t.Helper()
	destroyed := new(int)
	host := fake.NewHost()
	t.Cleanup(host.Close)
	a, err := daemon.NewWith(cfg, daemon.Parts{
		Driver: func(out sandbox.Output) (daemon.Driver, error) {
			return &driver{Runtime: fake.New(host, out), unavailable: 1, destroyed: destroyed, away: away}, nil
		},
		Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody there") },
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, destroyed
}

func TestEveryFaultOfAConfigurationIsNamed(t *testing.T) {
	t.Parallel()
	if err := config(t).Validate(); err != nil {
		t.Fatal(err)
	}
	err := daemon.Config{
		Controls: []string{"nowhere"}, DataDir: "relative", Subnet: netip.MustParsePrefix("fd00::/64"),
		DenyCIDRs: []netip.Prefix{{}}, Allocatable: agent.Resources{CPU: -1}, DataConnections: 9,
		Listen: "0.0.0.0:1", MetricsListen: "x", DrainTimeout: -1, CodeCache: 0, Spares: -1,
	}.Validate()
	if !errdefs.IsInvalidArgument(err) {
		t.Fatalf("got %v", err)
	}
	for _, flag := range []string{
		"--control", "--data-dir", "--containerd-address", "--containerd-namespace", "--zone", "--subnet", "--deny-cidr",
		"--nft-table", "--cgroup-parent", "--vcpu", "--init-path", "--region", "--code-cache-bytes", "--data-connections",
		"--listen", "--metrics-listen", "--drain-timeout", "--spares",
	} {
		if !strings.Contains(err.Error(), flag) {
			t.Errorf("%s is not named in: %v", flag, err)
		}
	}
}

func TestTheAgentRunsWithoutAControlServiceAndStopsWhenAsked(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Listen, cfg.MetricsListen = freeAddress(t), freeAddress(t)
	cfg.JoinTokenFile = filepath.Join(t.TempDir(), "token")
	token := "hearth1.id.secret." + strings.Repeat("0", 64)
	if err := os.WriteFile(cfg.JoinTokenFile, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var away atomic.Bool
	a, _ := newAgentOn(t, cfg, &away)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	cc, err := grpc.NewClient(cfg.Listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	resp, err := grpc_health_v1.NewHealthClient(cc).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil || resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("got %v %v", resp, err)
	}
	for path, want := range map[string]string{
		"/metrics": `hearth_agent_environments{state="ready"} 0`, "/healthz": "200", "/readyz": "200",
	} {
		if status, body := get(t, "http://"+cfg.MetricsListen+path); !strings.Contains(fmt.Sprint(status, body), want) {
			t.Errorf("%s: got %d %s", path, status, body)
		}
	}
	away.Store(true)
	for path, want := range map[string]string{"/metrics": "hearth_agent_containerd_up 0", "/metrics?": `hearth_agent_refusals_total{reason="disk"} 0`, "/readyz": "503 nothing new can be started: containerd is gone"} {
		if status, body := get(t, "http://"+cfg.MetricsListen+path); !strings.Contains(fmt.Sprint(status, " ", body), want) {
			t.Errorf("%s without containerd: got %d %s", path, status, body)
		}
	}
	second, _ := newAgent(t, cfg)
	if err := second.Run(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second agent on the same data directory: got %v", err)
	}
	cancel(nil)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWithoutATokenAHostCannotJoin(t *testing.T) {
	t.Parallel()
	a, _ := newAgent(t, config(t))
	if err := a.Run(t.Context()); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "--join-token-file") {
		t.Fatalf("got %v", err)
	}
}

func TestDestroyRemovesEverythingTwice(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	for _, name := range []string{"identity/key.pem", "code/abc/bootstrap", "containerd/tmp/e.img", "lock"} {
		path := filepath.Join(cfg.DataDir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Controls, cfg.Zone = nil, "" // not needed for that
	for range 2 {
		a, destroyed := newAgent(t, cfg)
		if err := a.Destroy(t.Context()); err != nil || *destroyed != 1 {
			t.Fatalf("got %v, destroyed %d times", err, *destroyed)
		}
		if _, err := os.Stat(cfg.DataDir); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestDestroyKeepsWhatIsNotTheAgents(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	mine := filepath.Join(cfg.DataDir, "somebody-elses")
	if err := os.MkdirAll(mine, 0o755); err != nil {
		t.Fatal(err)
	}
	a, _ := newAgent(t, cfg)
	if err := a.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}

// taken keeps two tests from being given the same free port.
var taken sync.Map

func freeAddress(t *testing.T) string {
	t.Helper()
	for {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, again := taken.LoadOrStore(address, true); !again {
			return address
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
