package main

import (
	"io"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/hearth-compute/hearth/sandbox/link"
)

// How often the owner is dialled again.
const (
	firstRedial = 20 * time.Millisecond
	lastRedial  = 2 * time.Second
)

// owner is the connection to whoever owns the sandbox, made again as often as it
// breaks.
type owner struct {
	address string
	// frames are what it says; states whether it is there.
	frames chan link.Frame
	states chan bool
	// exits are frames that every connection begins with, lines those that are said
	// once, flushes are closed when everything before has been said.
	exits   chan []byte
	lines   chan []byte
	flushes chan chan struct{}

	said []byte // the exits so far
}

func newOwner(address string) *owner {
	return &owner{
		address: address,
		frames:  make(chan link.Frame), states: make(chan bool),
		exits: make(chan []byte, 128), // more than there are processes: telling never waits
		lines: make(chan []byte), flushes: make(chan chan struct{}),
	}
}

// tell says something that must not be lost.
func (o *owner) tell(f link.Frame) { o.exits <- link.Append(nil, f) }

// pass passes on what a helper prints until it ends.
func (o *owner) pass(name string, output io.ReadCloser) {
	cut := &lines{deliver: func(line []byte) {
		o.lines <- link.Append(nil, link.Frame{Kind: link.Line, Name: name, Text: line})
	}}
	_, _ = io.Copy(cut, output)
	if len(cut.partial) > 0 {
		cut.flush()
	}
	_ = output.Close()
}

// flush waits until all was said, or limit has passed.
func (o *owner) flush(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	done := make(chan struct{})
	select {
	case o.flushes <- done:
	case <-timer.C:
		return
	}
	select {
	case <-done:
	case <-timer.C:
	}
}

// run keeps the connection up for as long as the process lives. The first is
// conn, unless it is nil.
func (o *owner) run(conn *os.File) {
	for wait := firstRedial; ; wait = min(2*wait, lastRedial) {
		if conn != nil {
			wait = firstRedial
			o.states <- true
			o.talk(conn)
			o.states <- false
		}
		o.collect(wait)
		conn, _ = dial(o.address) // again, if nobody answered
	}
}

// collect takes what is told while nobody listens.
func (o *owner) collect(wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case f := <-o.exits:
			o.said = append(o.said, f...)
		case done := <-o.flushes:
			close(done)
		case <-timer.C:
			return
		}
	}
}

// talk speaks over one connection until it breaks.
func (o *owner) talk(conn *os.File) {
	broken := make(chan struct{})
	go func() {
		defer close(broken)
		defer func() { _ = conn.Close() }() // wakes a writer
		in := link.NewReader(conn)
		for {
			f, err := in.Read()
			if err != nil {
				return
			}
			o.frames <- f
		}
	}()
	defer func() { <-broken }()
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(o.said); err != nil {
		return
	}
	for o.say(conn, broken) {
	}
}

// say writes what is to be said next and reports whether the connection is still
// good.
func (o *owner) say(conn *os.File, broken <-chan struct{}) bool {
	var frame []byte
	var flushed chan struct{}
	select {
	case frame = <-o.exits:
		o.said = append(o.said, frame...)
	case frame = <-o.lines:
	case flushed = <-o.flushes:
		frame = o.pending()
	case <-broken:
		return false
	}
	_, err := conn.Write(frame)
	if flushed != nil {
		close(flushed)
	}
	return err == nil
}

// pending is every exit that has not been said.
func (o *owner) pending() (frames []byte) {
	for {
		select {
		case f := <-o.exits:
			o.said = append(o.said, f...)
			frames = append(frames, f...)
		default:
			return frames
		}
	}
}

// dial connects to an IPv4 address of this host, where that takes no time.
func dial(address string) (*os.File, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()})
	if err == nil {
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	}
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "link"), nil
}
