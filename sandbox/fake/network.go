package fake

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
)

// network is the loopback interface of one sandbox.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener // by place
	lastPort  int
	streams   []*stream
}

// firstPort is where ports for ":0" begin.
const firstPort = 32768

func newNetwork() *network {
	return &network{listeners: map[string]*listener{}, lastPort: firstPort}
}

// listen opens a listener that belongs to owner; nil means the sandbox's program.
func (n *network) listen(address string, owner *Runtime) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		n.lastPort++
		port = strconv.Itoa(n.lastPort)
	}
	for at, l := range n.listeners {
		if at == place(host, port) || l.port == port && (at == place("", port) || place(host, port) == place("", port)) {
			return nil, fmt.Errorf("address %s in use: %w", address, errdefs.ErrAlreadyExists)
		}
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, errdefs.ErrInvalidArgument)
	}
	l := &listener{
		net: n, port: port, place: place(host, port), owner: owner, addr: &net.TCPAddr{IP: net.ParseIP(host), Port: number},
		arriving: make(chan net.Conn), gone: make(chan struct{}), open: map[*conn]bool{},
	}
	n.listeners[l.place] = l
	return l, nil
}

// place is where a listener is found: by address and port, or by its port alone
// if it listens on every address.
func place(host, port string) string {
	switch host {
	case "0.0.0.0":
		host = ""
	case "localhost", "sandbox", "sandbox.localdomain":
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (n *network) dial(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	l := n.listeners[place(host, port)]
	if l == nil {
		l = n.listeners[place("", port)]
	}
	n.mu.Unlock()
	local := host == "localhost" || host == "sandbox" || host == "sandbox.localdomain" || net.ParseIP(host).IsLoopback()
	if l == nil || !local {
		return nil, refused(address)
	}
	near, far := net.Pipe()
	server := &conn{Conn: far, l: l, local: l.addr, remote: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}}
	client := &conn{Conn: near, local: server.remote, remote: l.addr}
	select {
	case l.arriving <- server:
		return client, nil
	case <-l.gone:
		return nil, refused(address)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func refused(address string) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s: %w", address, os.NewSyscallError("connect", syscall.ECONNREFUSED))}
}

// closeOf closes the listeners of owner with their connections.
func (n *network) closeOf(owner *Runtime) {
	n.close(func(l *listener) bool { return l.owner == owner })
}

// closeAll closes all listeners with their connections.
func (n *network) closeAll() { n.close(func(*listener) bool { return true }) }

func (n *network) close(which func(*listener) bool) {
	n.mu.Lock()
	var closing []*listener
	for _, l := range n.listeners {
		if which(l) {
			closing = append(closing, l)
		}
	}
	n.mu.Unlock()
	for _, l := range closing {
		_ = l.Close()
		l.hangUp()
	}
}

// listener hands out the far ends of pipes.
type listener struct {
	net      *network
	port     string
	place    string
	owner    *Runtime
	addr     *net.TCPAddr
	arriving chan net.Conn
	gone     chan struct{} // closed by Close
	once     sync.Once

	mu   sync.Mutex
	open map[*conn]bool
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.gone:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	default:
	}
	select {
	case c := <-l.arriving:
		if c, ok := c.(*conn); ok {
			l.mu.Lock()
			l.open[c] = true
			l.mu.Unlock()
		}
		return c, nil
	case <-l.gone:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
}

// Close implements net.Listener. Accepted connections stay open.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.gone)
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		delete(l.net.listeners, l.place)
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

// hangUp closes accepted connections, as the end of the process that has them
// does.
func (l *listener) hangUp() {
	l.mu.Lock()
	open := l.open
	l.open = map[*conn]bool{}
	l.mu.Unlock()
	for c := range open {
		_ = c.Close()
	}
}

// conn is one end of a pipe that looks like TCP.
type conn struct {
	net.Conn
	l             *listener // of the accepting end
	local, remote *net.TCPAddr
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// Close implements net.Conn.
func (c *conn) Close() error {
	if c.l != nil {
		c.l.mu.Lock()
		delete(c.l.open, c)
		c.l.mu.Unlock()
	}
	return c.Conn.Close()
}
