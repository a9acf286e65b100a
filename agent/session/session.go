package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/agent"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// reportEvery is how often a report is sent when nothing changes.
const reportEvery = time.Second

// reportGap keeps a burst of changes from becoming a burst of reports.
const reportGap = 20 * time.Millisecond

// Node is what the session reports about and applies sets to.
type Node interface {
	// Apply makes a set what should run; an error says why it was refused.
	Apply(set agent.DesiredSet) error
	// Accepted is the set that is followed now, if there is one.
	Accepted() (agent.DesiredSet, bool)
	// Credentials takes a session of an execution role.
	Credentials(c agent.RoleCredentials)
	// Report is the state of the instance now.
	Report() agent.Report
}

// Registration is what an agent says about itself once per stream.
type Registration struct {
	Version          string
	ProcessID        string
	Allocatable      agent.Resources
	Architecture     string
	Zone             string
	CapacityProvider string
	Hostname         string
}

// Server serves data connections; *grpc.Server is one.
type Server interface {
	// Serve accepts connections until the listener or the server is closed.
	Serve(l net.Listener) error
}

// Config is what a session needs.
type Config struct {
	Client       *Client
	Node         Node
	Registration Registration
	// Data serves the data connections.
	Data Server
	// DataConnections is how many are kept open to each control service, at
	// least 1.
	DataConnections int
	Log             *slog.Logger
}

// Session follows every control service. Make it with New.
type Session struct {
	cfg Config

	mu     sync.Mutex // guards nudges
	nudges []chan struct{}
}

// New returns a session.
func New(cfg Config) *Session { return &Session{cfg: cfg} }

// Nudge makes every stream report soon, because something changed. It never
// blocks.
func (s *Session) Nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nudges {
		select {
		case n <- struct{}{}:
		default:
		}
	}
}

func (s *Session) addNudge() chan struct{} {
	n := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nudges = append(s.nudges, n)
	return n
}

// Run joins if need be and follows the control services until ctx is
// cancelled. It returns an error only if the instance cannot join.
func (s *Session) Run(ctx context.Context) error {
	switch err := s.cfg.Client.Connect(ctx); {
	case ctx.Err() != nil:
		return s.cfg.Client.Close() // asked to stop before it had joined
	case err != nil:
		return err
	}
	s.cfg.Log.InfoContext(ctx, "instance has an identity", "instance", string(s.cfg.Client.identity.Instance),
		"capacity_provider", s.cfg.Client.identity.CapacityProvider)
	var workers sync.WaitGroup
	conns := newConnListener()
	workers.Go(func() {
		if err := s.cfg.Data.Serve(conns); err != nil && ctx.Err() == nil {
			s.cfg.Log.DebugContext(ctx, "data server ended", "err", err)
		}
	})
	for _, c := range s.cfg.Client.controls {
		nudge := s.addNudge()
		workers.Go(func() { s.follow(ctx, c, nudge) })
		for range max(1, s.cfg.DataConnections) {
			workers.Go(func() { s.serveData(ctx, c.address, conns) })
		}
	}
	<-ctx.Done()
	err := errors.Join(conns.Close(), s.cfg.Client.Close())
	workers.Wait()
	return err
}

// follow keeps a stream to one control service.
func (s *Session) follow(ctx context.Context, c *control, nudge <-chan struct{}) {
	wait := newBackoff()
	for ctx.Err() == nil {
		began := time.Now()
		err := s.stream(ctx, c, nudge)
		if ctx.Err() != nil {
			return
		}
		s.cfg.Log.WarnContext(ctx, "session ended", "control", c.address, "err", err)
		if time.Since(began) > lastBackoff {
			wait.reset()
		}
		wait.sleep(ctx)
	}
}

// stream is one session from Register to its end.
func (s *Session) stream(ctx context.Context, c *control, nudge <-chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errStopped)
	stream, err := agentv1.NewAgentServiceClient(c.conn).Session(ctx)
	if status.Code(err) == codes.Unavailable {
		// Say why once, then leave the trying to the connection's own backoff.
		s.cfg.Log.WarnContext(ctx, "control service is out of reach", "control", c.address, "err", err)
		stream, err = agentv1.NewAgentServiceClient(c.conn).Session(ctx, grpc.WaitForReady(true))
	}
	if err != nil {
		return errgrpc.ToNative(err)
	}
	register := &agentv1.SessionRequest_Register{Register: s.register()}
	if err := stream.Send(&agentv1.SessionRequest{Message: register}); err != nil && !errors.Is(err, io.EOF) {
		return errgrpc.ToNative(err) // after EOF Recv says why
	}
	s.cfg.Log.InfoContext(ctx, "session open", "control", c.address)
	var malformed atomic.Pointer[string] // what is wrong with the last set, if it is no set
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.report(ctx, stream, nudge, &malformed) })
	g.Go(func() error { return s.receive(stream, &malformed) })
	return g.Wait()
}

func (s *Session) register() *agentv1.Register {
	set, has := s.cfg.Node.Accepted()
	r := registrationToProto(s.cfg.Registration)
	if has {
		r.Accepted = setToProto(set)
	}
	return r
}

// receive applies every set the control service sends, and keeps credentials.
func (s *Session) receive(stream agentv1.AgentService_SessionClient, malformed *atomic.Pointer[string]) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("control service ended the session: %w", errdefs.ErrUnavailable)
		}
		if err != nil {
			return errgrpc.ToNative(err)
		}
		if c := m.GetRoleCredentials(); c != nil {
			s.credentials(c)
			continue
		}
		set := m.GetDesiredSet()
		if set == nil {
			continue // of a newer version
		}
		err = checkSet(set)
		malformed.Store(nil)
		if err != nil {
			malformed.Store(new(err.Error()))
			s.Nudge()
		} else {
			err = s.cfg.Node.Apply(setFromProto(set))
		}
		if err != nil {
			s.cfg.Log.Warn("desired set refused", "epoch", set.GetEpoch(), "generation", set.GetGeneration(), "err", err)
		}
	}
}

// report sends the state of the instance every second and after changes.
func (s *Session) report(ctx context.Context, stream agentv1.AgentService_SessionClient, nudge <-chan struct{}, malformed *atomic.Pointer[string]) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		report := s.cfg.Node.Report()
		if why := malformed.Load(); why != nil {
			report.Refused = *why
		}
		m := &agentv1.SessionRequest_Report{Report: reportToProto(report)}
		if err := stream.Send(&agentv1.SessionRequest{Message: m}); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // receive says why
			}
			return errgrpc.ToNative(err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(reportGap):
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		case <-nudge:
		}
	}
}

// serveData keeps one data connection to a control service.
func (s *Session) serveData(ctx context.Context, address string, conns *connListener) {
	wait := newBackoff()
	for ctx.Err() == nil {
		began := time.Now()
		conn, err := s.cfg.Client.data(ctx, address)
		if err == nil {
			err = conns.serve(ctx, conn)
		}
		switch {
		case ctx.Err() != nil || errors.Is(err, errListenerClosed):
			return
		case err != nil:
			s.cfg.Log.DebugContext(ctx, "data connection failed", "control", address, "err", err)
		}
		if time.Since(began) > lastBackoff {
			wait.reset()
		}
		wait.sleep(ctx)
	}
}
