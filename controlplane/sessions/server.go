package sessions

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"golang.org/x/sync/errgroup"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/metrics"
	"github.com/hearth-compute/hearth/proto"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// Keepalive of all connections, whichever end is the server; the agent does the
// same. A peer that vanished without a word, or hangs, is given up after time +
// timeout.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// maxSessionMessage bounds what an agent may send at once: a report of some
// thousands of environments.
const maxSessionMessage = 16 << 20

// Artifacts opens code archives by content.
type Artifacts interface {
	// Open returns the archive. Errors: NotFound.
	Open(ctx context.Context, sha256 string) (io.ReadCloser, error)
}

// Config is what a Server needs.
type Config struct {
	Listener  net.Listener
	CA        *CA
	Tokens    *Tokens
	Artifacts Artifacts
	// Changed is called, often, after anything an agent said or did; it must
	// not block.
	Changed func()
	// Credentials has the sessions of execution roles; nil means that functions
	// get none.
	Credentials Credentials
	// AnswerMemory is how many bytes answers larger than 64 KiB may take at once;
	// further ones stay with their agents for as long. At least, and unless it is
	// set, 16 MiB.
	AnswerMemory int64
	// Traces makes the spans of calls; nil makes none.
	Traces *metrics.Traces
	Logger *slog.Logger
}

// Server serves agents. Use New, then Run.
type Server struct {
	agentv1.UnimplementedAgentServiceServer

	cfg      Config
	log      *slog.Logger
	changed  func()
	splitter *splitter
	grpc     *grpc.Server
	pool     pool
	// answers has the bytes that large answers may take.
	answers *semaphore.Weighted
	stopped chan struct{}

	// mu guards agents and what they point to.
	mu     sync.Mutex
	agents map[controlplane.InstanceID]*agentState

	// conns waits for the goroutines of data connections.
	conns sync.WaitGroup
}

// New returns a server that accepts once Run is called.
func New(cfg Config) (*Server, error) {
	cert, err := cfg.CA.serverCertificate(time.Now())
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, changed: cfg.Changed,
		answers: semaphore.NewWeighted(max(cfg.AnswerMemory, 2*maxMessage)),
		stopped: make(chan struct{}),
		agents:  map[controlplane.InstanceID]*agentState{},
	}
	s.splitter = newSplitter(cfg.Listener, &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{alpnData, alpnSession},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    cfg.CA.pool(),
	}, s.onData, cfg.Logger)
	s.grpc = grpc.NewServer(
		grpc.Creds(established{}),
		grpc.MaxRecvMsgSize(maxSessionMessage),
		grpc.InitialWindowSize(windowSize),
		grpc.InitialConnWindowSize(windowSize),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 4, PermitWithoutStream: true}),
	)
	agentv1.RegisterAgentServiceServer(s.grpc, s)
	grpc_health_v1.RegisterHealthServer(s.grpc, health.NewServer())
	return s, proto.RegisterReflection(s.grpc)
}

// Addr is the address agents dial.
func (s *Server) Addr() net.Addr { return s.splitter.Addr() }

// Run serves until ctx is cancelled. Calls that run are cut then: agents
// finish what they run and connect again.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.splitter.Run(ctx) })
	g.Go(func() error {
		err := s.grpc.Serve(s.splitter)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped) {
			return nil
		}
		return err
	})
	g.Go(func() error {
		<-ctx.Done()
		close(s.stopped)
		s.grpc.Stop()
		return nil
	})
	err := g.Wait()
	s.conns.Wait()
	return err
}

// onData takes a data connection over.
func (s *Server) onData(id controlplane.InstanceID, conn net.Conn) {
	s.conns.Go(func() { s.serveData(id, conn) })
}

// Join implements AgentService.
func (s *Server) Join(ctx context.Context, req *agentv1.JoinRequest) (*agentv1.JoinResponse, error) {
	now := time.Now()
	csr, key, err := parseRequest(req.GetCsr())
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	who, err := s.cfg.Tokens.redeem(ctx, req.GetToken(), key, now)
	if err != nil {
		s.log.WarnContext(ctx, "join refused", "err", err)
		return nil, errgrpc.ToGRPC(err)
	}
	cert, err := s.cfg.CA.issueAgent(csr, who.instance, who.provider, now)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.log.InfoContext(ctx, "instance joined", "instance", string(who.instance), "capacity_provider", string(who.provider))
	s.changed()
	return &agentv1.JoinResponse{
		InstanceId: string(who.instance), CapacityProvider: string(who.provider),
		Certificate: cert, Ca: s.cfg.CA.PEM(),
	}, nil
}

// caller reads the verified identity of a call.
func caller(ctx context.Context) (controlplane.InstanceID, controlplane.ProviderName, error) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return "", "", status.Error(codes.Unauthenticated, "no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", "", status.Error(codes.Unauthenticated, "no TLS")
	}
	id, provider, ok := peer(info.State)
	if !ok {
		return "", "", status.Error(codes.Unauthenticated, "a client certificate is required: join first")
	}
	return id, provider, nil
}

// DownloadArtifact implements AgentService.
func (s *Server) DownloadArtifact(req *agentv1.DownloadArtifactRequest, stream agentv1.AgentService_DownloadArtifactServer) error {
	id, _, err := caller(stream.Context())
	if err != nil {
		return err
	}
	if !s.mayRead(id, req.GetSha256()) {
		return status.Errorf(codes.PermissionDenied, "nothing assigned to %s uses %q", id, req.GetSha256())
	}
	r, err := s.cfg.Artifacts.Open(stream.Context(), req.GetSha256())
	if err != nil {
		return errgrpc.ToGRPC(err)
	}
	defer func() { _ = r.Close() }()
	buf := make([]byte, chunkSize)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := stream.Send(&agentv1.DownloadArtifactResponse{Chunk: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			s.log.Error("reading an artifact failed", "sha256", req.GetSha256(), "err", err)
			return status.Error(codes.Unavailable, "the archive cannot be read")
		}
	}
}
