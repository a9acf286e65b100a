package session

import (
	"context"
	"errors"
	"net"
	"sync"
)

// connListener is a listener of connections that were dialled.
type connListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newConnListener() *connListener {
	return &connListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// errListenerClosed is not net.ErrClosed, which a connection ends with that was
// given up while it was being made.
var errListenerClosed = errors.New("no more connections are served")

// serve hands conn to the server and returns nil when it has been closed.
func (l *connListener) serve(ctx context.Context, conn net.Conn) error {
	watched := &watchedConn{Conn: conn, gone: make(chan struct{})}
	select {
	case l.conns <- watched:
	case <-l.closed:
		_ = conn.Close()
		return errListenerClosed
	case <-ctx.Done():
		_ = conn.Close()
		return context.Cause(ctx)
	}
	select {
	case <-watched.gone:
		return nil
	case <-ctx.Done():
		_ = watched.Close()
		return context.Cause(ctx)
	}
}

// Accept implements net.Listener.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *connListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (*connListener) Addr() net.Addr { return dialled{} }

// dialled is the address of a listener that does not listen.
type dialled struct{}

// Network implements net.Addr.
func (dialled) Network() string { return "dialled" }

// String implements net.Addr.
func (dialled) String() string { return "dialled" }

// watchedConn says when it is closed.
type watchedConn struct {
	net.Conn

	once sync.Once
	gone chan struct{}
}

// Close implements net.Conn.
func (c *watchedConn) Close() error {
	defer c.once.Do(func() { close(c.gone) })
	return c.Conn.Close()
}
