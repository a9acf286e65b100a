package server

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
	"github.com/hearth-compute/hearth/controlplane/fleet/local"
	"github.com/hearth-compute/hearth/controlplane/fleet/static"
	"github.com/hearth-compute/hearth/controlplane/operator"
	"github.com/hearth-compute/hearth/controlplane/reconcile"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/proto"
	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

// wireLoop makes the fleet and the reconcile loop, and collects what runs.
func (s *Server) wireLoop(cfg Config, tokens *sessions.Tokens, route *router.Router, images runtimes, agentAddr string) error {
	policy := reconcile.DefaultPolicy()
	var cloud fleet.Cloud
	s.loops = append(s.loops, s.agents.Run)
	switch cfg.Fleet {
	case "local":
		f, err := newLocal(s, cfg, agentAddr)
		if err != nil {
			return err
		}
		cloud = f
		s.loops = append(s.loops, f.Run)
		policy.MaxInstances = cfg.Local.MaxInstances
		policy.Capacity.Size = controlplane.Resources{
			CPU: controlplane.MilliCPU(cfg.Local.VCPU) * 1000, Memory: cfg.Local.Memory,
		}
	default:
		cloud = static.New()
		policy.MaxInstances = 0
		policy.Capacity.Keep = true
	}
	loopMetrics, err := reconcile.NewMetrics(s.registry.Meter("controlplane/reconcile"))
	if err != nil {
		return err
	}
	s.loop = reconcile.New(reconcile.Config{
		DB: s.db, Agents: s.agents, Fleet: cloud, Tokens: tokens, Router: route, Image: images.Image,
		Policy: policy, Logger: s.log.With("part", "reconcile"), Metrics: loopMetrics,
	})
	s.loops = append(s.loops, s.loop.Run, s.sweepCode)
	return nil
}

func newLocal(s *Server, cfg Config, agentAddr string) (*local.Fleet, error) {
	pool, err := netip.ParsePrefix(cfg.Local.SubnetPool)
	if err != nil {
		return nil, fmt.Errorf("--local-subnet-pool: %w", err)
	}
	var args []string
	if cfg.OTLPEndpoint != "" {
		args = []string{"--otlp-endpoint", cfg.OTLPEndpoint}
	}
	return local.New(local.Config{
		DataDir: cfg.DataDir, Control: agentAddr, ContainerdAddress: cfg.Local.ContainerdAddress,
		SubnetPool: pool, MaxInstances: cfg.Local.MaxInstances, Region: cfg.Region,
		AgentArgs: args, Environ: cfg.Environ, Logger: s.log.With("part", "fleet"),
	})
}

// joinTokens adapts sessions.Tokens to what the operator service asks for.
type joinTokens struct {
	tokens *sessions.Tokens
	fleet  string
}

// NewJoinToken implements operator.Tokens.
func (t joinTokens) NewJoinToken(ctx context.Context, p controlplane.ProviderName, validFor time.Duration) (string, time.Time, error) {
	if t.fleet != "static" {
		return "", time.Time{}, fmt.Errorf("hosts join by themselves only with --fleet static, and this is %s: %w", t.fleet, errdefs.ErrFailedPrecondition)
	}
	return t.tokens.Mint(ctx, p, "", validFor, time.Now())
}

// newOperator makes the operators' gRPC server with health and reflection.
func newOperator(cfg operator.Config) (*grpc.Server, error) {
	g := grpc.NewServer()
	operatorv1.RegisterOperatorServiceServer(g, operator.New(cfg))
	status := health.NewServer()
	status.SetServingStatus(operatorv1.OperatorService_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(g, status)
	return g, proto.RegisterReflection(g)
}

// known tells whether a runtime has an image.
func (r runtimes) known(name string) bool {
	_, ok := r[name]
	return ok
}
