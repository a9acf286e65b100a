// Package server wires hearth-control: it makes every part, runs them together
// and stops them in order.
//
// # Shutdown
//
// A cancelled context begins it: the Lambda API and the operator service take
// nothing new and finish what runs, under a limit; then the loops stop; then
// the store closes. Agents and what they run are left as they are.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/artifact"
	"github.com/hearth-compute/hearth/controlplane/bucket"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/controlplane/operator"
	"github.com/hearth-compute/hearth/controlplane/reconcile"
	"github.com/hearth-compute/hearth/controlplane/registry"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
	"github.com/hearth-compute/hearth/metrics"
)

// drainLimit bounds how long running calls may take to finish at shutdown. The
// longest invoke is 15 minutes; who stops the service does not wait for it.
const drainLimit = 25 * time.Second

var (
	errDrained      = errors.New("shutting down")
	errDrainTooSlow = errors.New("calls still ran at the end of the shutdown limit")
)

// Server is one hearth-control. Use New, then Run.
type Server struct {
	log       *slog.Logger
	registry  *metrics.Registry
	traces    *metrics.Traces // nil when there is no collector
	db        store.DB
	artifacts *artifact.Store
	agents    *sessions.Server
	loop      *reconcile.Loop
	// loops run until shutdown.
	loops    []func(context.Context) error
	api      *lambdaapi.Server
	aux      *http.Server // metrics and probes
	operator *grpc.Server
	// draining is closed when shutdown begins.
	draining chan struct{}
	// Listeners of the above.
	apiLis, auxLis, operatorLis net.Listener
	// closers in order of opening.
	closers []func() error
}

// New opens the store and the listeners. On error everything is closed again.
func New(ctx context.Context, cfg Config) (_ *Server, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{log: cfg.Logger, draining: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.open(ctx, cfg); err != nil {
		return nil, err
	}
	if err := s.listen(ctx, cfg); err != nil {
		return nil, err
	}
	return s, s.wire(cfg)
}

// open makes what is kept on disk.
func (s *Server) open(ctx context.Context, cfg Config) error {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	var err error
	if s.registry, err = metrics.New(); err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { return s.registry.Close(context.WithoutCancel(ctx)) })
	hostname, _ := os.Hostname() // without one it is told apart by nothing
	if s.traces, err = metrics.NewTraces(ctx, metrics.TracesConfig{
		Endpoint: cfg.OTLPEndpoint, Service: "hearth-control", Version: cfg.Version, Instance: hostname, Ratio: cfg.TraceRatio, Logger: cfg.Logger,
	}); err != nil {
		return fmt.Errorf("--otlp-endpoint: %w", err)
	}
	s.closers = append(s.closers, func() error { return s.traces.Close(context.WithoutCancel(ctx)) })
	db, err := sqlite.Open(ctx, filepath.Join(cfg.DataDir, "hearth.db"))
	if err != nil {
		return err
	}
	s.db = db
	s.closers = append(s.closers, db.Close)
	s.artifacts, err = artifact.OpenDir(filepath.Join(cfg.DataDir, "artifacts"))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, s.artifacts.Close)
	return nil
}

// listen opens the plaintext listeners; the agents' is opened by wire.
func (s *Server) listen(ctx context.Context, cfg Config) error {
	for _, l := range []struct {
		flag, addr string
		to         *net.Listener
	}{
		{"listen", cfg.Listen, &s.apiLis},
		{"operator-listen", cfg.OperatorListen, &s.operatorLis},
		{"metrics-listen", cfg.MetricsListen, &s.auxLis},
	} {
		lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
		if err != nil {
			return fmt.Errorf("--%s: %w", l.flag, err)
		}
		*l.to = lis
		s.closers = append(s.closers, func() error { return ignoreClosed(lis.Close()) })
	}
	return nil
}

// wire makes the parts and connects them.
func (s *Server) wire(cfg Config) error {
	ca, err := sessions.OpenCA(filepath.Join(cfg.DataDir, "ca"), time.Now())
	if err != nil {
		return err
	}
	agentLis, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", cfg.AgentListen)
	if err != nil {
		return fmt.Errorf("--agent-listen: %w", err)
	}
	s.closers = append(s.closers, func() error { return ignoreClosed(agentLis.Close()) })

	tokens := sessions.NewTokens(s.db, ca, cfg.Fleet)
	err = s.newAgents(cfg, sessions.Config{
		Listener: agentLis, CA: ca, Tokens: tokens, Artifacts: s.artifacts,
		Changed: func() { s.loop.Nudge() }, AnswerMemory: bodyMemory(cfg.BodyMemory) / answerShare,
		Traces: s.traces, Logger: s.log.With("part", "sessions"),
	})
	if err != nil {
		return err
	}
	routerMetrics, err := router.NewMetrics(s.registry.Meter("controlplane/router"))
	if err != nil {
		return err
	}
	route := router.New(s.agents, routerMetrics, cfg.InvokeWait)
	images := newRuntimes(cfg.RuntimeImages)
	if err := s.wireLoop(cfg, tokens, route, images, agentLis.Addr().String()); err != nil {
		return err
	}
	if err := errors.Join(s.registry.OnScrape(route.Scrape), s.registry.OnScrape(s.loop.Scrape)); err != nil {
		return err
	}
	verifier, err := s.verifier(cfg)
	if err != nil {
		return err
	}
	s.api, err = lambdaapi.New(lambdaapi.Config{
		AccountID: cfg.AccountID, Region: cfg.Region, Strict: cfg.Strict,
		DefaultProvider: controlplane.ProviderName(cfg.DefaultProvider),
		DB:              s.db, Artifacts: s.artifacts, Images: registry.New(),
		Buckets: bucket.New(cfg.CodeBuckets, cfg.Region), Invoker: route, Changed: s.loop.Changed,
		Verifier: verifier, Traces: s.traces, Runtimes: images.known, BodyMemory: bodyMemory(cfg.BodyMemory), Logger: s.log.With("part", "lambdaapi"),
	})
	if err != nil {
		return err
	}
	s.aux = &http.Server{
		Handler: s.probes(), ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.operator, err = newOperator(operator.Config{
		State: s.loop, Drainer: s.loop, Tokens: joinTokens{tokens: tokens, fleet: cfg.Fleet}, Logs: s.agents,
		Stopping: s.draining, Log: s.log.With("part", "operator"),
	})
	return err
}

// probes serves metrics and health.
func (s *Server) probes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.registry.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.loop.Ready() {
			http.Error(w, "the routing table is not filled yet", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return mux
}

// Run serves until ctx is cancelled, then drains and closes. It returns nil
// after an orderly shutdown.
func (s *Server) Run(ctx context.Context) error {
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx)) // a signal starts the drain,
	defer stop(errDrained)
	g, gctx := errgroup.WithContext(work) // it does not stop the loops
	for _, loop := range s.loops {
		g.Go(func() error { return loop(gctx) })
	}
	g.Go(func() error { return ignoreClosed(s.api.Serve(s.apiLis)) })
	g.Go(func() error { return ignoreClosed(s.aux.Serve(s.auxLis)) })
	g.Go(func() error { return ignoreClosed(s.operator.Serve(s.operatorLis)) })
	s.log.InfoContext(ctx, "hearth-control is serving", "lambda_api", s.apiLis.Addr().String(),
		"agents", s.agents.Addr().String(), "operators", s.operatorLis.Addr().String(), "metrics", s.auxLis.Addr().String())

	var drained error
	select {
	case <-gctx.Done(): // a part failed: no drain
	case <-ctx.Done():
		dctx, cancel := context.WithTimeoutCause(gctx, drainLimit, errDrainTooSlow)
		drained = s.drain(dctx)
		cancel()
	}
	stop(errDrained)
	errs := []error{drained, s.api.Close(), s.aux.Close()}
	s.operator.Stop()
	errs = append(errs, g.Wait(), s.close())
	return errors.Join(errs...)
}

// drain takes nothing new and waits for what runs.
func (s *Server) drain(ctx context.Context) error {
	s.log.InfoContext(ctx, "shutting down: finishing what runs")
	close(s.draining)
	stopped := make(chan struct{})
	go func() { // ends with Stop at the latest, which Run calls next
		s.operator.GracefulStop()
		close(stopped)
	}()
	err := s.api.Shutdown(ctx)
	select {
	case <-stopped:
	case <-ctx.Done():
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// close closes in reverse order of opening.
func (s *Server) close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// Addresses are where the server listens.
type Addresses struct{ API, Agents, Operators, Metrics string }

// Addresses returns them; they are known once New returned.
func (s *Server) Addresses() Addresses {
	return Addresses{
		API: s.apiLis.Addr().String(), Agents: s.agents.Addr().String(),
		Operators: s.operatorLis.Addr().String(), Metrics: s.auxLis.Addr().String(),
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
