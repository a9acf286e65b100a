package lambdaapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
)

// How connections are bounded. What of a request is not its body must be there
// within headerTime; a connection nobody uses is closed after idleTime. No
// answer takes longer than exchangeTime, which leaves time for the longest
// invoke; the pieces of an answer have deadlines of their own.
const (
	maxHeader      = 64 << 10
	maxConnections = 10_000
	headerTime     = 10 * time.Second
	idleTime       = 2 * time.Minute
	exchangeTime   = 2 * time.Hour
	lingerTime     = 500 * time.Millisecond
)

// Serve answers the connections of l until Shutdown or Close. Unlike a
// net/http.Server it answers what is no HTTP, or too much of it, as AWS does
// too. Connections beyond 10,000 wait to be accepted.
func (s *Server) Serve(l net.Listener) error {
	return s.http.Serve(&listener{Listener: l, places: make(chan struct{}, maxConnections), closed: make(chan struct{})})
}

// Shutdown stops accepting and waits for what runs, until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close closes the listener and every connection.
func (s *Server) Close() error { return s.http.Close() }

func (s *Server) httpServer() *http.Server {
	return &http.Server{
		Handler: s, DisableGeneralOptionsHandler: true, MaxHeaderBytes: maxHeader - 4096, // net/http adds as much
		ReadHeaderTimeout: headerTime, IdleTimeout: idleTime, WriteTimeout: exchangeTime,
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if ours, ok := c.(*conn); ok && state == http.StateIdle {
				ours.handling = false
			}
		},
	}
}

// listener accepts connections as long as it has places for them.
type listener struct {
	net.Listener

	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}: // free again when a connection closes
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &conn{Conn: c, release: sync.OnceFunc(func() { <-l.places })}, nil
}

// connKey is where a request's context has its connection.
type connKey struct{}

// conn replaces what net/http answers by itself, in plain text, to requests that
// never reach a handler.
type conn struct {
	net.Conn

	release func()
	// handling says that a handler has a request, or its answer is not all
	// written: what is written is the handler's. It belongs to the goroutine
	// that serves the connection.
	handling bool
}

// handled says that a handler has the request whose context this is.
func handled(ctx context.Context) {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		c.handling = true
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	rest, ok := bytes.CutPrefix(p, []byte("HTTP/1."))
	if c.handling || !ok {
		return c.Conn.Write(p)
	}
	status := http.StatusBadRequest
	if fields := bytes.Fields(rest[:min(len(rest), 16)]); len(fields) > 1 {
		if n, err := strconv.Atoi(string(fields[1])); err == nil {
			status = n
		}
	}
	_ = c.SetWriteDeadline(time.Now().Add(pieceTime))
	if _, err := c.Conn.Write(unhandled(status)); err != nil {
		return 0, err
	}
	c.linger()
	return len(p), nil
}

// linger lets the client read the answer to a request that was not read to its
// end: closing at once would take it back.
func (c *conn) linger() {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, c.Conn, 4*maxHeader)
}

// CloseWrite says that nothing more is sent, where the network can.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.release()
	return c.Conn.Close()
}

// unhandled is the answer to a request that is not HTTP as it should be, for
// which net/http would have answered status.
func unhandled(status int) []byte {
	message := "The request is not valid HTTP."
	switch status {
	case http.StatusRequestHeaderFieldsTooLarge:
		message = fmt.Sprintf("The headers of the request are larger than %d bytes.", maxHeader)
	case http.StatusExpectationFailed:
		message = "The expectation of the request cannot be met."
	default:
		status = http.StatusBadRequest
	}
	text, _ := json.Marshal(map[string]string{"Type": "User", "message": message}) // strings do not fail
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(text))}, "Connection": {"close"},
		"Date": {time.Now().UTC().Format(http.TimeFormat)}, "X-Amzn-Requestid": {uuid.NewString()},
		"X-Amzn-Errortype": {"MalformedHttpRequestException"},
	}.Write(&b) // buffers do not fail either
	b.WriteString("\r\n")
	b.Write(text)
	return b.Bytes()
}
