package runtimeapi_test

import (
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/test/bufconn"
)

// steady is a listener in memory whose connections keep to their read deadlines.
// Those of bufconn may time out although a deadline that had passed was lifted
// since, which net/http does between requests.
type steady struct{ *bufconn.Listener }

// Accept implements net.Listener.
func (s steady) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &steadyConn{Conn: conn}, nil
}

type steadyConn struct {
	net.Conn

	mu       sync.Mutex // guards deadline
	deadline time.Time
}

// SetReadDeadline implements net.Conn.
func (c *steadyConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *steadyConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Read implements net.Conn.
func (c *steadyConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if !isTimeout(err) || !c.lift() {
			return n, err
		}
	}
}

// lift reports whether the deadline has not passed, and sets it anew.
func (c *steadyConn) lift() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		return false
	}
	return c.Conn.SetReadDeadline(c.deadline) == nil
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
