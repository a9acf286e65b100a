package sessions

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/hearth-compute/hearth/controlplane"
)

// The two protocols agents speak on one port, told apart by ALPN.
const (
	alpnSession = "h2"
	alpnData    = "hearth-data/1"
)

// Bounds of the handshake, before anybody is known.
const (
	handshakeTimeout = 10 * time.Second
	// maxHandshakes run at once; further connections wait in the kernel's queue.
	maxHandshakes = 128
)

// splitter accepts TLS connections and sends each where its protocol belongs:
// sessions to the gRPC server, data connections to onData.
type splitter struct {
	lis    net.Listener
	config *tls.Config
	onData func(id controlplane.InstanceID, conn net.Conn)
	log    *slog.Logger

	// sessions hands connections to the gRPC server; unbuffered.
	sessions chan net.Conn
	done     chan struct{}
	close    sync.Once
}

func newSplitter(lis net.Listener, config *tls.Config, onData func(controlplane.InstanceID, net.Conn), log *slog.Logger) *splitter {
	return &splitter{
		lis: lis, config: config, onData: onData, log: log,
		sessions: make(chan net.Conn), done: make(chan struct{}),
	}
}

// Run accepts until ctx is cancelled.
func (s *splitter) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	defer func() { _ = s.Close() }()
	var handshakes sync.WaitGroup
	defer handshakes.Wait()
	slots := make(chan struct{}, maxHandshakes) // one token a running handshake
	for {
		conn, err := s.lis.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.log.WarnContext(ctx, "accepting agent connection failed", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond): // out of file descriptors: do not spin
			}
			continue
		}
		slots <- struct{}{}
		handshakes.Go(func() {
			defer func() { <-slots }()
			s.handshake(ctx, conn)
		})
	}
}

func (s *splitter) handshake(ctx context.Context, raw net.Conn) {
	conn := tls.Server(raw, s.config)
	hctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, errors.New("TLS handshake took too long"))
	defer cancel()
	if err := conn.HandshakeContext(hctx); err != nil {
		s.log.DebugContext(ctx, "handshake failed", "remote", raw.RemoteAddr().String(), "err", err)
		_ = raw.Close()
		return
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != alpnData {
		select {
		case s.sessions <- conn:
		case <-s.done:
			_ = conn.Close()
		}
		return
	}
	id, _, ok := peer(state)
	if !ok {
		s.log.WarnContext(ctx, "data connection without certificate refused", "remote", raw.RemoteAddr().String())
		_ = conn.Close()
		return
	}
	s.onData(id, conn)
}

// peer reads the identity from a verified client certificate.
func peer(state tls.ConnectionState) (controlplane.InstanceID, controlplane.ProviderName, bool) {
	if len(state.VerifiedChains) == 0 {
		return "", "", false
	}
	subject := state.VerifiedChains[0][0].Subject
	if subject.CommonName == "" || len(subject.Organization) != 1 {
		return "", "", false
	}
	return controlplane.InstanceID(subject.CommonName), controlplane.ProviderName(subject.Organization[0]), true
}

// Accept, Close and Addr make the splitter the gRPC server's listener.
func (s *splitter) Accept() (net.Conn, error) {
	select {
	case c := <-s.sessions:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close stops accepting.
func (s *splitter) Close() error {
	s.close.Do(func() { close(s.done) })
	return s.lis.Close()
}

// Addr is the address listened on.
func (s *splitter) Addr() net.Addr { return s.lis.Addr() }

// established are the transport credentials of connections whose handshake
// the splitter has done already.
type established struct {
	credentials.TransportCredentials
}

// ServerHandshake returns what the handshake found.
func (established) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := conn.(*tls.Conn)
	if !ok {
		return nil, nil, fmt.Errorf("connection of type %T is not TLS", conn)
	}
	return conn, credentials.TLSInfo{
		State:          t.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// Info describes the credentials.
func (established) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone returns a copy.
func (e established) Clone() credentials.TransportCredentials { return e }
