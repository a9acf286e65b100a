package runtimeapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Serve answers the runtime and its extensions on l until ctx is cancelled, then
// closes l and every connection and returns nil.
func (a *API) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           a,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(a.cfg.Log.Handler(), slog.LevelDebug),
		ConnContext:       withConn,
		ConnState:         idle,
	}
	// A client keeps one connection per pending /next and may open one more per
	// answer; aws-lambda-go opens new ones all the time.
	s := &acceptor{
		api: a, listener: l,
		places: make(chan struct{}, 4*a.cfg.Concurrency+64),
		over:   &crossing{conns: make(chan net.Conn), addr: l.Addr(), closed: make(chan struct{})},
		conns:  map[net.Conn]struct{}{},
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() { _ = srv.Serve(&meteredListener{Listener: s.over}) })
	stop := context.AfterFunc(ctx, s.close)
	err := s.accept(&serving)
	if stop() {
		s.close()
	}
	_ = srv.Close()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serving the runtime api of %s: %w", a.cfg.Environment, err)
}

// acceptor has the connections of one environment.
type acceptor struct {
	api      *API
	listener net.Listener
	// places has one for each connection that may be open.
	places chan struct{}
	over   *crossing

	mu     sync.Mutex // guards the fields below
	conns  map[net.Conn]struct{}
	closed bool
}

// accept serves connections until accepting fails.
func (s *acceptor) accept(serving *sync.WaitGroup) error {
	for {
		select {
		case s.places <- struct{}{}:
		case <-s.over.closed:
			return net.ErrClosed
		}
		c, err := s.listener.Accept()
		if err != nil {
			<-s.places
			if wait, ok := temporary(err); ok {
				time.Sleep(wait)
				continue
			}
			return err
		}
		if !s.track(c) {
			<-s.places
			continue
		}
		serving.Go(func() { s.serve(c) })
	}
}

// temporary tells errors of Accept that pass, such as too many open files, and
// how long to wait before trying again.
func temporary(err error) (time.Duration, bool) {
	var e interface{ Temporary() bool }
	return acceptPause, errors.As(err, &e) && e.Temporary()
}

const acceptPause = 5 * time.Millisecond

func (s *acceptor) serve(c net.Conn) {
	f := newFast(s.api, c)
	if !f.serve() {
		f.close()
		s.done(c)
		return
	}
	_ = c.SetDeadline(time.Time{})
	s.over.send(&crossed{Conn: c, rest: f.in, done: sync.OnceFunc(func() { s.done(c) })})
}

// track records an open connection unless it is too late for that.
func (s *acceptor) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *acceptor) done(c net.Conn) {
	_ = c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	<-s.places
}

func (s *acceptor) close() {
	_ = s.listener.Close()
	_ = s.over.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
}

// crossing is a listener for net/http: it accepts the connections that go over.
type crossing struct {
	conns  chan net.Conn
	addr   net.Addr
	once   sync.Once
	closed chan struct{}
}

func (l *crossing) send(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (l *crossing) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *crossing) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *crossing) Addr() net.Addr { return l.addr }

// crossed is a connection of which rest was read already.
type crossed struct {
	net.Conn

	rest []byte
	done func()
}

// Read implements net.Conn.
func (c *crossed) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		c.rest = nil
		return c.Conn.Read(p)
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Close implements net.Conn.
func (c *crossed) Close() error {
	c.done()
	return nil
}
