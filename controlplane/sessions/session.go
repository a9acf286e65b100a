package sessions

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/controlplane"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// agentState is what one agent said last and what it should hear.
type agentState struct {
	// session is the running one, nil when disconnected.
	session *session
	heard   Heard
	// desired is the last set given to Desire, nil if none was.
	desired *agentv1.DesiredSet
	// archives are the code archives desired uses.
	archives map[string]bool
	// roles are the execution roles it needs, each with a name for its session.
	roles map[string]string
}

// nudgeLocked says that the agent should hear something new.
func (a *agentState) nudgeLocked() {
	if a.session == nil {
		return
	}
	select {
	case a.session.nudge <- struct{}{}:
	default:
	}
}

// session is one stream.
type session struct {
	// nudge says that desired or credentials changed; capacity 1: a fact, not data.
	nudge chan struct{}
	end   context.CancelCauseFunc
}

// Heard is everything one agent said.
type Heard struct {
	Instance controlplane.InstanceID
	Provider controlplane.ProviderName
	// Connected says that a session and at least one data connection are open.
	Connected bool
	// At is when it last said anything.
	At           time.Time
	Zone         controlplane.Zone
	Architecture string
	AgentVersion string
	Hostname     string
	Allocatable  controlplane.Resources
	Stopping     bool
	// Accepted is the set it had accepted when it registered.
	Accepted controlplane.DesiredSet
	// Epoch and Generation of the set it reports as accepted; Refused says why
	// it refused the last one it received.
	Epoch, Generation uint64
	Refused           string
	// Reported says that at least one report came in this session.
	Reported     bool
	Host         controlplane.HostHeat
	Environments []controlplane.EnvironmentStatus
}

var (
	errReplaced = errors.New("a newer session of the same instance began")
	errSilent   = errors.New("the agent said nothing for too long")

	errTerminated = errors.New("the instance was terminated")
)

// silence is how long a session may go without a message: agents report every
// second.
const silence = 15 * time.Second

// Session implements AgentService.
func (s *Server) Session(stream agentv1.AgentService_SessionServer) error {
	id, provider, err := caller(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	reg := first.GetRegister()
	if reg == nil {
		return status.Error(codes.InvalidArgument, "the first message must be Register")
	}
	if p := reg.GetCapacityProvider(); p != "" && p != string(provider) {
		return status.Errorf(codes.FailedPrecondition, "instance %s joined capacity provider %q, not %q", id, provider, p)
	}
	if err := checkRegister(reg); err != nil {
		return errgrpc.ToGRPC(err)
	}
	if err := s.cfg.Tokens.known(stream.Context(), id); err != nil {
		return errgrpc.ToGRPC(err)
	}

	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(errors.New("session ended"))
	sess := &session{nudge: make(chan struct{}, 1), end: cancel}
	s.begin(id, provider, sess, reg)
	defer s.finish(id, sess)
	s.log.Info("agent connected", "instance", string(id), "agent_version", reg.GetAgentVersion(), "zone", reg.GetZone())

	heard := make(chan struct{}, 1) // "something arrived": a fact, not data
	// Neither may be joined before the stream ends, which may block them, and it
	// ends only when this function returns: results are collected, not waited for.
	ended := make(chan error, 2)
	go func() { ended <- s.receive(id, sess, stream, heard) }()
	go func() { ended <- s.send(ctx, id, sess, stream) }()
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	err = listen(ctx, quiet, heard, ended)
	s.log.Info("agent disconnected", "instance", string(id), "reason", reason(err))
	if errors.Is(err, errReplaced) || errors.Is(err, errSilent) || errors.Is(err, errTerminated) {
		return status.Error(codes.Aborted, err.Error())
	}
	return err
}

func reason(err error) string {
	if err == nil {
		return "the agent closed the session"
	}
	return err.Error()
}

// receive takes reports until the stream ends.
func (s *Server) receive(id controlplane.InstanceID, sess *session, stream agentv1.AgentService_SessionServer, heard chan<- struct{}) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errAgentClosed
		}
		if err != nil {
			return err
		}
		select {
		case heard <- struct{}{}:
		default:
		}
		if r := m.GetReport(); r != nil {
			if err := checkReport(r); err != nil {
				return errgrpc.ToGRPC(err)
			}
			s.report(id, sess, r)
		}
	}
}

var errAgentClosed = errors.New("the agent closed the session")

// listen returns how the session ends: as one of its two halves does, because
// the agent said nothing for too long, or because somebody else ended it.
func listen(ctx context.Context, quiet *time.Timer, heard <-chan struct{}, ended <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-ended:
			return err
		case <-heard:
			quiet.Reset(silence)
		case <-quiet.C:
			// After a pause of this process both may be so: what arrived counts.
			select {
			case <-heard:
				quiet.Reset(silence)
			default:
				return errSilent
			}
		}
	}
}

// send sends the desired set whenever it changed, and before it the credentials
// it needs.
func (s *Server) send(ctx context.Context, id controlplane.InstanceID, sess *session, stream agentv1.AgentService_SessionServer) error {
	var last *agentv1.DesiredSet
	credentials := ledger{}
	for {
		set := s.desiredFor(id)
		if err := s.sendCredentials(set, credentials, stream); err != nil {
			return err
		}
		if set != nil && set != last {
			err := stream.Send(&agentv1.SessionResponse{Message: &agentv1.SessionResponse_DesiredSet{DesiredSet: set}})
			if err != nil {
				return err
			}
			last = set
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-sess.nudge:
		}
	}
}

func (s *Server) begin(id controlplane.InstanceID, provider controlplane.ProviderName, sess *session, reg *agentv1.Register) {
	heard := fromRegister(reg)
	heard.Instance, heard.Provider, heard.At = id, provider, time.Now()
	s.mu.Lock()
	a := s.agents[id]
	if a == nil {
		a = &agentState{}
		s.agents[id] = a
	}
	old := a.session
	a.session, a.heard = sess, heard
	s.mu.Unlock()
	if old != nil {
		old.end(errReplaced)
	}
	s.changed()
}

func (s *Server) finish(id controlplane.InstanceID, sess *session) {
	s.mu.Lock()
	if a := s.agents[id]; a != nil && a.session == sess { // nil: forgotten meanwhile
		a.session = nil
	}
	s.mu.Unlock()
	s.changed()
}

func (s *Server) report(id controlplane.InstanceID, sess *session, r *agentv1.Report) {
	s.mu.Lock()
	a := s.agents[id]
	if a == nil || a.session != sess {
		s.mu.Unlock()
		return // the instance was forgotten, or a newer session speaks for it
	}
	news := applyReport(&a.heard, r)
	a.heard.At = time.Now()
	s.mu.Unlock()
	if news {
		s.changed()
	}
}

// Heard returns the latest words of every agent heard since this process
// started, in no order.
func (s *Server) Heard() []Heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Heard, 0, len(s.agents))
	for id, a := range s.agents {
		h := a.heard
		h.Connected = a.session != nil && s.pool.count(id) > 0
		out = append(out, h)
	}
	return out
}

// Desire sets what an instance should run. It is sent now if the agent is
// connected and again whenever it connects. A set older than the last is
// ignored.
func (s *Server) Desire(id controlplane.InstanceID, set controlplane.DesiredSet) {
	msg := toDesiredSet(set)
	s.withhold(msg)
	if s.desire(id, msg) && s.cfg.Credentials != nil {
		s.cfg.Credentials.Nudge()
	}
}

// desire reports whether the set is newer than the last.
func (s *Server) desire(id controlplane.InstanceID, msg *agentv1.DesiredSet) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[id]
	if a == nil {
		a = &agentState{heard: Heard{Instance: id}}
		s.agents[id] = a
	}
	if d := a.desired; d != nil && (d.GetEpoch() > msg.GetEpoch() || d.GetEpoch() == msg.GetEpoch() && d.GetGeneration() >= msg.GetGeneration()) {
		return false
	}
	a.desired, a.archives, a.roles = msg, archivesOf(msg), rolesOf(msg)
	a.nudgeLocked()
	return true
}

// Forget drops what is known of an instance that no longer exists, and ends
// its session.
func (s *Server) Forget(id controlplane.InstanceID) {
	s.mu.Lock()
	a := s.agents[id]
	delete(s.agents, id)
	var sess *session
	if a != nil {
		sess = a.session
	}
	s.mu.Unlock()
	if sess != nil {
		sess.end(errTerminated)
	}
}

func (s *Server) desiredFor(id controlplane.InstanceID) *agentv1.DesiredSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.agents[id]; a != nil {
		return a.desired
	}
	return nil
}

func (s *Server) mayRead(id controlplane.InstanceID, sha256 string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[id]
	return a != nil && a.archives[sha256]
}

func archivesOf(set *agentv1.DesiredSet) map[string]bool {
	archives := map[string]bool{}
	for _, e := range set.GetEnvironments() {
		if c := e.GetAssignment().GetCode(); c != nil {
			archives[c.GetSha256()] = true
		}
		for _, l := range e.GetAssignment().GetLayers() {
			archives[l.GetSha256()] = true
		}
	}
	return archives
}
