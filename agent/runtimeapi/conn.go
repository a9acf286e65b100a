package runtimeapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
)

const (
	// smallHeader is what every request's header may have.
	smallHeader = 64 << 10
	// largeHeaders bounds what the headers of all requests of an environment have
	// beyond that, while they are read: a function could send the largest on every
	// connection it may open.
	largeHeaders = 16 * maxHeader
)

var errHeaders = errors.New("the headers of all requests are too large")

// meteredListener accepts connections that share a bound on their headers.
type meteredListener struct {
	net.Listener

	large atomic.Int64
}

// Accept implements net.Listener.
func (l *meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &meteredConn{Conn: c, large: &l.large}, nil
}

// meteredConn counts what is read while a request has not begun to be handled.
type meteredConn struct {
	net.Conn

	large *atomic.Int64
	// handling says that the header is complete.
	handling atomic.Bool
	// header is how much was read of it, taken how much of large that takes.
	header, taken atomic.Int64
}

// Read implements net.Conn.
func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.handling.Load() || c.header.Add(int64(n)) <= smallHeader {
		return n, err
	}
	c.taken.Add(int64(n))
	if c.large.Add(int64(n)) > largeHeaders {
		return 0, errHeaders
	}
	return n, err
}

// Close implements net.Conn.
func (c *meteredConn) Close() error {
	c.settle()
	return c.Conn.Close()
}

// settle gives back what the header took.
func (c *meteredConn) settle() {
	c.header.Store(0)
	c.large.Add(-c.taken.Swap(0))
}

// connKey is where a request's context has its connection.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// begun says that the header of a request is complete. What it took is held
// until the request is done with.
func begun(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*meteredConn); ok {
		c.handling.Store(true)
	}
}

// idle says that a request is done with.
func idle(c net.Conn, state http.ConnState) {
	if m, ok := c.(*meteredConn); ok && state == http.StateIdle {
		m.handling.Store(false)
		m.settle()
	}
}
