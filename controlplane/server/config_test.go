package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane/server"
)

func TestTheDefaultsAreValid(t *testing.T) {
	t.Parallel()
	cfg := server.Default()
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

func TestEachMistakeNamesItsFlag(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flag string
		edit func(*server.Config)
	}{
		{"--listen", func(c *server.Config) { c.Listen = "0.0.0.0:9000" }},
		{"--listen", func(c *server.Config) { c.Listen = ":9000" }},
		{"--listen", func(c *server.Config) { c.Listen = "example.com:9000" }},
		{"--listen", func(c *server.Config) { c.Listen = "9000" }},
		{"--operator-listen", func(c *server.Config) { c.OperatorListen = "[::]:9101" }},
		{"--metrics-listen", func(c *server.Config) { c.MetricsListen = "192.0.2.1:9190" }},
		{"--agent-listen", func(c *server.Config) { c.AgentListen = "nonsense" }},
		{"--data-dir", func(c *server.Config) { c.DataDir = "" }},
		{"--fleet", func(c *server.Config) { c.Fleet = "cloud" }},
		{"--account-id", func(c *server.Config) { c.AccountID = "12" }},
		{"--region", func(c *server.Config) { c.Region = "nowhere" }},
		{"--default-capacity-provider", func(c *server.Config) { c.DefaultProvider = "a b" }},
		{"--body-memory", func(c *server.Config) { c.BodyMemory = 1 << 20 }},
		{"--code-bucket", func(c *server.Config) { c.CodeBuckets = map[string]string{"code": "/srv/code"} }},
		{"--runtime-image", func(c *server.Config) { c.RuntimeImages = map[string]string{"x": ""} }},
		{"--otlp-endpoint", func(c *server.Config) { c.OTLPEndpoint = "collector:4317" }},
		{"--trace-ratio", func(c *server.Config) { c.TraceRatio = math.NaN() }},
		{"--trace-ratio", func(c *server.Config) { c.TraceRatio = 1.1 }},
		{"--invoke-wait", func(c *server.Config) { c.InvokeWait = -1 }},
		{"--invoke-wait", func(c *server.Config) { c.InvokeWait = time.Minute }},
		{"--local-instance-vcpu", func(c *server.Config) { c.Local.VCPU = 0 }},
		{"--local-instance-memory", func(c *server.Config) { c.Local.Memory = 1 }},
		{"--local-max-instances", func(c *server.Config) { c.Local.MaxInstances = 0 }}, // the fleet would take it for its default
		{"--local-subnet-pool", func(c *server.Config) { c.Local.SubnetPool = "10.0.0.0" }},
	} {
		cfg := server.Default()
		c.edit(&cfg)
		err := cfg.Validate()
		if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(fmt.Sprint(err), c.flag+":") {
			t.Errorf("got %v, want an InvalidArgument about %s", err, c.flag)
		}
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	cfg := server.Default()
	cfg.Fleet, cfg.AccountID = "x", "y"
	err := fmt.Sprint(cfg.Validate())
	if !strings.Contains(err, "--fleet") || !strings.Contains(err, "--account-id") {
		t.Errorf("got %s; want both", err)
	}
}

func TestInsecureAllowsPlaintextEverywhere(t *testing.T) {
	t.Parallel()
	cfg := server.Default()
	cfg.Listen, cfg.Insecure, cfg.SigV4 = "0.0.0.0:9000", true, server.SigV4Off
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

// TestServesAndStops boots a control service, asks its probes and metrics, and
// stops it.
func TestServesAndStops(t *testing.T) {
	t.Parallel()
	cfg := server.Default()
	cfg.Listen, cfg.AgentListen, cfg.OperatorListen, cfg.MetricsListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.DataDir, cfg.Fleet, cfg.Logger = t.TempDir(), "static", slog.New(slog.DiscardHandler)
	for range 2 { // the second finds what the first left
		s, err := server.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		base := "http://" + s.Addresses().Metrics
		await(t, base+"/readyz")
		if body := get(t, base+"/healthz"); body != "ok\n" {
			t.Errorf("healthz: %q", body)
		}
		if body := get(t, base+"/metrics"); !strings.Contains(body, "hearth_reconcile_step_seconds_count") {
			t.Errorf("metrics lack the loop's: %.300s", body)
		}
		stop(errors.New("enough"))
		if err := <-done; err != nil {
			t.Errorf("stopped with %v", err)
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func await(t *testing.T, url string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for get(t, url) != "ok\n" {
		if time.Now().After(deadline) {
			t.Fatalf("%s was never ok", url)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
