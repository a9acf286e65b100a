package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/proto/frame"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

const (
	// maxMessage bounds one gRPC message: a 6 MB payload and its envelope.
	maxMessage = 8 << 20
	// streamWindow is how much of an answer is received before anybody reads it: a
	// 6 MB payload should not wait for a round trip every 64 KiB, and a caller that
	// reads nothing should not fill the memory.
	streamWindow = 512 << 10
	// windowSize is that of connections, and of sessions: gRPC receives it without
	// anybody reading.
	windowSize = 4 << 20
	// maxDataConns is the most data connections one instance may hold; further
	// ones replace the oldest.
	maxDataConns = 8
)

// dataConn is one connection an agent dialled, on which we are the client.
type dataConn struct {
	client   invokev1.InvokeServiceClient
	cc       *grpc.ClientConn
	inFlight atomic.Int64
	done     chan struct{} // closed when the connection broke
}

// watchedConn tells when gRPC gives the connection up.
type watchedConn struct {
	net.Conn

	once sync.Once
	gone func()
}

func (c *watchedConn) Close() error {
	c.once.Do(c.gone)
	return c.Conn.Close()
}

// newDataConn makes a gRPC client of conn. It must be closed.
func newDataConn(conn net.Conn) (*dataConn, error) {
	d := &dataConn{done: make(chan struct{})}
	watched := &watchedConn{Conn: conn, gone: func() { close(d.done) }}
	var used atomic.Bool
	cc, err := grpc.NewClient("passthrough:///agent",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // conn is mutual TLS already
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the agent dials, not we")
			}
			return watched, nil
		}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithStatsHandler(sentMarker{}),
		// An agent that hangs keeps its kernel's half of the connection alive:
		// whoever waits for it must hear of it long before a function's timeout.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(windowSize),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.ForceCodecV2(frame.New())),
	)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	d.cc, d.client = cc, invokev1.NewInvokeServiceClient(cc)
	cc.Connect()
	return d, nil
}

// pool holds the data connections of every instance. What is published is never
// changed, so that an invoke reads it without a lock.
type pool struct {
	conns atomic.Pointer[dataConns]
	// mu is held by whoever publishes the next state.
	mu sync.Mutex
}

type dataConns map[controlplane.InstanceID][]*dataConn

// of returns the connections of an instance, oldest first; not to be changed.
func (p *pool) of(id controlplane.InstanceID) []*dataConn {
	if all := p.conns.Load(); all != nil {
		return (*all)[id]
	}
	return nil
}

// publish replaces the connections of one instance.
func (p *pool) publish(id controlplane.InstanceID, conns []*dataConn) {
	next := dataConns{}
	if all := p.conns.Load(); all != nil {
		maps.Copy(next, *all)
	}
	if next[id] = conns; len(conns) == 0 {
		delete(next, id)
	}
	p.conns.Store(&next)
}

func (p *pool) add(id controlplane.InstanceID, d *dataConn) {
	p.mu.Lock()
	conns := append(slices.Clone(p.of(id)), d)
	var oldest *dataConn
	if len(conns) > maxDataConns {
		oldest, conns = conns[0], conns[1:]
	}
	p.publish(id, conns)
	p.mu.Unlock()
	if oldest != nil {
		_ = oldest.cc.Close()
	}
}

func (p *pool) remove(id controlplane.InstanceID, d *dataConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.of(id), d); i >= 0 {
		p.publish(id, slices.Delete(slices.Clone(p.of(id)), i, i+1))
	}
}

// pick returns the connection with the fewest calls, or nil.
func (p *pool) pick(id controlplane.InstanceID) *dataConn {
	var best *dataConn
	for _, c := range p.of(id) {
		if best == nil || c.inFlight.Load() < best.inFlight.Load() {
			best = c
		}
	}
	return best
}

// count is how many connections an instance has.
func (p *pool) count(id controlplane.InstanceID) int { return len(p.of(id)) }

// serveData keeps a data connection until it breaks or the server stops.
func (s *Server) serveData(id controlplane.InstanceID, conn net.Conn) {
	d, err := newDataConn(conn)
	if err != nil {
		s.log.Warn("data connection failed", "instance", string(id), "err", err)
		return
	}
	s.pool.add(id, d)
	s.changed()
	select {
	case <-d.done:
	case <-s.stopped:
	}
	s.pool.remove(id, d)
	_ = d.cc.Close()
	s.changed()
}

// sentKey is the context key of the *atomic.Bool that sentMarker sets.
type sentKey struct{}

// sentMarker notes when a call's headers went to the transport. A call whose
// mark is not set was provably never sent.
type sentMarker struct{}

// TagRPC implements stats.Handler.
func (sentMarker) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (sentMarker) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

// TagConn implements stats.Handler.
func (sentMarker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (sentMarker) HandleConn(context.Context, stats.ConnStats) {}

// errNoConnection says that nothing was sent because there is no connection.
func errNoConnection(id controlplane.InstanceID) error {
	return fmt.Errorf("no data connection to instance %s", id)
}
