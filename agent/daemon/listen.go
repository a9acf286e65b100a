package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/hearth-compute/hearth/agent/invoke"
)

const (
	maxMessage = 8 << 20
	// window lets a 6 MB payload travel without waiting for round trips.
	window = 4 << 20
	// streamWorkers serve calls on stacks that are as large as they need already:
	// growing a new one for each call costs a tenth of it. More calls than that get
	// goroutines of their own.
	streamWorkers = 64

	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
	headerTimeout    = 10 * time.Second
)

// dataServer is the gRPC server of the data connections.
func (a *Agent) dataServer() *grpc.Server {
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
	s := grpc.NewServer(slices.Concat(options, invoke.Recover(a.cfg.Log), []grpc.ServerOption{invoke.Pieces()})...)
	a.invoke.Register(s)
	a.printed.server.Register(s)
	describe(s)
	return s
}

// describe adds health and reflection to a server.
func describe(s *grpc.Server) {
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	reflection.Register(s)
}

// listen opens the agent's own listeners and returns the loops that serve them.
func (a *Agent) listen(ctx context.Context) (loops []func(context.Context) error, err error) {
	for _, l := range []struct {
		flag, address string
		serve         func(context.Context, net.Listener) error
	}{
		{"--listen", a.cfg.Listen, a.serveHealth},
		{"--metrics-listen", a.cfg.MetricsListen, a.serveMetrics},
	} {
		if l.address == "" {
			continue
		}
		lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.address)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w: %w", l.flag, l.address, err, errdefs.ErrInvalidArgument)
		}
		a.cfg.Log.InfoContext(ctx, "listening", "flag", l.flag, "address", lis.Addr().String())
		loops = append(loops, func(ctx context.Context) error { return l.serve(ctx, lis) })
	}
	return loops, nil
}

// serveHealth answers grpcurl and health probes.
func (a *Agent) serveHealth(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer(invoke.Recover(a.cfg.Log)...)
	describe(s)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	return s.Serve(l)
}

// serveMetrics answers scrapes, and whether the agent lives and can do all that
// it is for.
func (a *Agent) serveMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics.registry.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if a.stopping.Load() {
			http.Error(w, "the agent is stopping", http.StatusServiceUnavailable)
		} else if err := a.driver.Away(); err != nil {
			http.Error(w, "nothing new can be started: "+err.Error(), http.StatusServiceUnavailable)
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}
