package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

const (
	// protocolData is the ALPN of connections on which the agent is the server.
	protocolData = "hearth-data/1"

	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
	dialLimit    = 10 * time.Second
	// keepaliveTime and keepaliveLimit find a peer that vanished.
	keepaliveTime  = 10 * time.Second
	keepaliveLimit = 5 * time.Second
	maxMessage     = 8 << 20
	window         = 1 << 20
	// controlMessage is the largest desired set: thousands of environments with
	// their variables.
	controlMessage = 64 << 20
)

var (
	errDialTooLong = errors.New("dialling took too long")
	errStopped     = errors.New("session is stopped")
)

// Dialer opens a plain connection.
type Dialer func(ctx context.Context, address string) (net.Conn, error)

// ClientConfig says where the control services are and how to join them.
type ClientConfig struct {
	// Controls are the addresses of the control services' agent listeners, at
	// least one.
	Controls []string
	// Dir keeps the identity.
	Dir string
	// Token returns the join token. It is called only while there is no
	// identity.
	Token func() (string, error)
	// Dial opens connections; nil means TCP.
	Dial Dialer
	Log  *slog.Logger
}

// Client is the agent's connection to its control services. Make it with
// NewClient, then Connect.
type Client struct {
	cfg ClientConfig
	// connected is closed when the fields below are set.
	connected chan struct{}
	identity  Identity
	controls  []*control
	close     sync.Once
}

// control is one control service.
type control struct {
	address string
	conn    *grpc.ClientConn
}

// NewClient returns a client that is not connected.
func NewClient(cfg ClientConfig) *Client {
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{KeepAlive: keepaliveTime}).DialContext(ctx, "tcp", address)
		}
	}
	return &Client{cfg: cfg, connected: make(chan struct{})}
}

// Connect loads the identity, joining first if there is none, for as long as it
// takes. Errors: Unauthenticated or InvalidArgument (the token), Internal (the
// stored identity), or the cause of ctx.
func (c *Client) Connect(ctx context.Context) error {
	id, err := loadIdentity(c.cfg.Dir)
	if errdefs.IsNotFound(err) {
		id, err = c.join(ctx)
	}
	if err != nil {
		return err
	}
	controls := make([]*control, 0, len(c.cfg.Controls))
	for _, address := range c.cfg.Controls {
		conn, err := c.grpc(address, id.tls("h2"))
		if err != nil {
			return err
		}
		controls = append(controls, &control{address: address, conn: conn})
	}
	c.identity, c.controls = id, controls
	close(c.connected)
	return nil
}

// Close closes every connection.
func (c *Client) Close() error {
	var errs []error
	c.close.Do(func() {
		select {
		case <-c.connected:
		default:
			return
		}
		for _, control := range c.controls {
			errs = append(errs, control.conn.Close())
		}
	})
	return errors.Join(errs...)
}

// join tries every control service in turn until one answers for good.
func (c *Client) join(ctx context.Context) (Identity, error) {
	text, err := c.cfg.Token()
	if err != nil {
		return Identity{}, fmt.Errorf("reading the join token: %w", err)
	}
	t, err := parseToken(text)
	if err != nil {
		return Identity{}, err
	}
	if _, _, err := privateKey(c.cfg.Dir); err != nil {
		return Identity{}, err // no control service can help
	}
	for wait := newBackoff(); ; {
		for _, address := range c.cfg.Controls {
			id, err := c.joinAt(ctx, address, t)
			if err == nil || errdefs.IsUnauthorized(err) || errdefs.IsInvalidArgument(err) {
				return id, err
			}
			c.cfg.Log.WarnContext(ctx, "joining failed", "control", address, "err", err)
		}
		if !wait.sleep(ctx) {
			return Identity{}, context.Cause(ctx)
		}
	}
}

func (c *Client) joinAt(ctx context.Context, address string, t token) (id Identity, err error) {
	conn, err := c.grpc(address, t.tls())
	if err != nil {
		return Identity{}, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, errDialTooLong)
	defer cancel()
	return join(ctx, conn, t, c.cfg.Dir)
}

// grpc returns a connection to a control service; nothing is dialled yet.
func (c *Client) grpc(address string, cfg *tls.Config) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithContextDialer(c.cfg.Dial),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.3, MaxDelay: lastBackoff},
			MinConnectTimeout: dialLimit,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveLimit, PermitWithoutStream: true}),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(controlMessage), grpc.MaxCallSendMsgSize(controlMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("control service %s: %w: %w", address, err, errdefs.ErrInvalidArgument)
	}
	return conn, nil
}

// data opens a data connection to a control service.
func (c *Client) data(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, errDialTooLong)
	defer cancel()
	plain, err := c.cfg.Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("dialling %s: %w", address, err)
	}
	conn := tls.Client(plain, c.identity.tls(protocolData))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("dialling %s: %w", address, err), plain.Close())
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != protocolData {
		return nil, errors.Join(fmt.Errorf("dialling %s: server speaks %q, not %q: %w", address, got, protocolData, errdefs.ErrUnavailable), conn.Close())
	}
	return conn, nil
}

// Fetch writes a code archive to w. It asks one control service after the
// other until one has begun to answer; it implements code.Fetcher.
func (c *Client) Fetch(ctx context.Context, sha256 string, w io.Writer) error {
	select {
	case <-c.connected:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	var errs []error
	for _, control := range c.controls {
		n, err := control.fetch(ctx, sha256, w)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		if n > 0 {
			break // w has a part of it
		}
	}
	return errors.Join(errs...)
}

func (c *control) fetch(ctx context.Context, sha256 string, w io.Writer) (int64, error) {
	stream, err := agentv1.NewAgentServiceClient(c.conn).DownloadArtifact(ctx, &agentv1.DownloadArtifactRequest{Sha256: sha256})
	if err != nil {
		return 0, fmt.Errorf("downloading %s from %s: %w", sha256, c.address, errgrpc.ToNative(err))
	}
	var sum int64
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err != nil {
			return sum, fmt.Errorf("downloading %s from %s: %w", sha256, c.address, errgrpc.ToNative(err))
		}
		n, err := w.Write(m.GetChunk())
		sum += int64(n)
		if err != nil {
			return sum, err
		}
	}
}

// waiter doubles its wait from firstBackoff to lastBackoff, with jitter.
type waiter struct{ next time.Duration }

func newBackoff() *waiter { return &waiter{next: firstBackoff} }

func (b *waiter) reset() { b.next = firstBackoff }

// sleep waits and reports whether ctx let it.
func (b *waiter) sleep(ctx context.Context) bool {
	wait := b.next/2 + rand.N(b.next/2+1) //nolint:gosec // jitter
	b.next = min(2*b.next, lastBackoff)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
