// Package link is the language that the init process of a sandbox and the
// sandbox's owner speak over one connection: the owner says which processes to
// start and to signal, init says how they end and what they print. It imports
// little, because init is in every sandbox.
//
// # Model
//
// A sandbox has its command and, beside it, helpers: every file of one
// directory is one. Init dials before it starts anything.
//
//	init ──Found──► owner ──Start helper, …──► init ──Line, Exited──► owner
//	                      ──Start command────►
//	                      ──Signal, End──────►
//
// Where there are no helpers, init starts the command without being told.
//
// # Failure
//
// Init dials again for as long as it lives, and begins each connection with
// Found and every Exited there was: the owner must take them twice. Lines that
// were on their way are lost.
package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kind says what a frame means.
type Kind byte

// The kinds.
const (
	// Found begins every connection. List has the names of all helpers.
	Found Kind = 1 + iota
	// Exited says that the process Name ended, with Code and Signal, or could not be
	// started: Text says why then, and Code is NotPermitted, or something else.
	Exited
	// Line is a line that the helper Name printed: Text. The command prints to the
	// sandbox's own output.
	Line
	// Start starts the process Name. List is its environment; the command has
	// init's.
	Start
	// Signal sends Signal to the process Name, if it runs.
	Signal
	// End ends init and with it everything in the sandbox.
	End
)

// Command is the name of the sandbox's command; helpers are named as their
// files.
const Command = ""

// NotPermitted is the code of a helper that may not be executed.
const NotPermitted = 126

// MaxLine is the longest line in one piece.
const MaxLine = 256 << 10

// Bounds of one frame. A list may be long: it is an environment.
const (
	maxFrame = 2 << 20
	maxList  = 8 << 10
)

// Frame is one message.
type Frame struct {
	Kind Kind
	// Name is the process it is about.
	Name string
	List []string
	// Code is an exit code, 128+n if signal n ended the process.
	Code int
	// Signal is the number of a signal.
	Signal int
	// OutOfMemory says that, since the Exited before, the kernel killed a process
	// of the sandbox because its memory limit was reached.
	OutOfMemory bool
	Text        []byte
}

// Append adds the encoding of f to b.
func Append(b []byte, f Frame) []byte {
	body := []byte{byte(f.Kind), 0}
	if f.OutOfMemory {
		body[1] = 1
	}
	body = binary.AppendVarint(body, int64(f.Code))
	body = binary.AppendVarint(body, int64(f.Signal))
	body = appendText(body, f.Name)
	body = appendText(body, string(f.Text))
	body = binary.AppendUvarint(body, uint64(len(f.List)))
	for _, s := range f.List {
		body = appendText(body, s)
	}
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

var errMalformed = errors.New("malformed frame")

// Reader reads frames. Make it with NewReader.
type Reader struct {
	in  *bufio.Reader
	buf []byte
}

// NewReader returns a reader of the frames in r.
func NewReader(r io.Reader) *Reader { return &Reader{in: bufio.NewReader(r)} }

// Read returns the next frame, whose Text is valid until the next call. At the
// end of the stream the error is io.EOF.
func (r *Reader) Read() (Frame, error) {
	n, err := binary.ReadUvarint(r.in)
	if err != nil {
		return Frame{}, err
	}
	if n > maxFrame {
		return Frame{}, fmt.Errorf("%w: %d bytes", errMalformed, n)
	}
	if uint64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.in, r.buf); err != nil {
		return Frame{}, err
	}
	return decode(r.buf)
}

// cursor takes a frame apart. After a fault everything is zero.
type cursor struct {
	rest  []byte
	fault bool
}

func decode(b []byte) (Frame, error) {
	c := &cursor{rest: b}
	kind, flags := c.octet(), c.octet()
	f := Frame{Kind: Kind(kind), OutOfMemory: flags == 1, Code: c.number(), Signal: c.number()}
	f.Name, f.Text = string(c.text()), c.text()
	count := c.length()
	if count > maxList || count > len(c.rest) {
		return Frame{}, errMalformed
	}
	if count > 0 {
		f.List = make([]string, count)
	}
	for i := range f.List {
		f.List[i] = string(c.text())
	}
	if c.fault || len(c.rest) > 0 {
		return Frame{}, errMalformed
	}
	return f, nil
}

func (c *cursor) octet() byte {
	if len(c.rest) == 0 {
		c.fault = true
		return 0
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return b
}

func (c *cursor) number() int {
	v, n := binary.Varint(c.rest)
	if n <= 0 {
		c.fault = true
		return 0
	}
	c.rest = c.rest[n:]
	return int(v)
}

func (c *cursor) length() int {
	v, n := binary.Uvarint(c.rest)
	if n <= 0 || v > maxFrame {
		c.fault = true
		return 0
	}
	c.rest = c.rest[n:]
	return int(v)
}

func (c *cursor) text() []byte {
	n := c.length()
	if n > len(c.rest) {
		c.fault = true
		return nil
	}
	s := c.rest[:n:n]
	c.rest = c.rest[n:]
	return s
}
