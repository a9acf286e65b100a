package logs

import (
	"bytes"
	"io"
	"os"
	"strconv"
)

// readBytes are read from a file at once, at first.
const readBytes = 32 << 10

// cursor is where a reader is in a journal.
type cursor struct {
	journal *journal
	// number is the segment, offset how much of it was read, next the number of the
	// record that comes next. file is the segment while there is more to read.
	number, offset, next int64
	file                 *os.File
	// buffer is the part of space that was read and not yet looked at.
	buffer, space []byte
	// lost counts lines that are missing.
	lost int64
	line Line
	has  bool
}

// begin decides where to start: late when only the last lines are wanted.
func (c *cursor) begin(q Query) {
	all := c.journal.list()
	if len(all) == 0 {
		return
	}
	start, newest := 0, all[len(all)-1]
	for i, s := range all[:len(all)-1] {
		// How many records the newest segment has is not known: it is read anyway.
		enough := q.Tail >= 0 && q.RequestID == "" && newest.first-all[i+1].first >= int64(q.Tail)
		if enough || s.last.Before(q.Since) {
			start = i + 1
		}
	}
	c.number, c.next = all[start].number, all[start].first
}

// before orders lines by time, then environment.
func (c *cursor) before(other *cursor) bool {
	if !c.line.Time.Equal(other.line.Time) {
		return c.line.Time.Before(other.line.Time)
	}
	return c.journal.tags.Environment < other.journal.tags.Environment
}

func (c *cursor) take() Line {
	c.has = false
	return c.line
}

func (c *cursor) takeLost() int64 {
	n := c.lost
	c.lost = 0
	return n
}

// peek makes the next line that is wanted c.line and reports whether there is
// one now.
func (c *cursor) peek(q Query) bool {
	for !c.has {
		record, ok := c.record()
		if !ok {
			return false
		}
		c.next++
		line, err := parseRecord(record)
		switch {
		case err != nil: // the header, or damage
		case line.Source == lost:
			if n, err := strconv.ParseInt(string(line.Text), 10, 64); err == nil && n > 0 && !line.Time.Before(q.Since) {
				c.lost += n
			}
		case q.wants(line):
			line.Tags, line.Text = c.journal.tags, bytes.Clone(line.Text)
			c.line, c.has = line, true
		}
	}
	return true
}

// record returns the next record, if it is there now.
func (c *cursor) record() ([]byte, bool) {
	for {
		if i := bytes.IndexByte(c.buffer, '\n'); i >= 0 {
			record := c.buffer[:i]
			c.buffer = c.buffer[i+1:]
			return record, true
		}
		if !c.fill() {
			return nil, false
		}
	}
}

// fill reads more and reports whether there was some.
func (c *cursor) fill() bool {
	for {
		// A segment has ended if there was a newer one before its end was seen.
		all := c.journal.list()
		if c.file == nil && !c.open(all) {
			return false
		}
		if n := c.read(); n > 0 {
			return true
		}
		c.close()
		if len(all) == 0 || all[len(all)-1].number <= c.number {
			return false
		}
		// Half a record that a crash left is nothing.
		c.number, c.offset, c.buffer = c.number+1, 0, nil
	}
}

// read reads from the open file behind what is in the buffer.
func (c *cursor) read() int {
	if len(c.buffer) > len(c.space)/2 || c.space == nil {
		c.space = append(make([]byte, 0, max(readBytes, 4*len(c.buffer))), c.buffer...)
		c.space = c.space[:cap(c.space)]
	} else {
		copy(c.space, c.buffer)
	}
	n, _ := c.file.Read(c.space[len(c.buffer):]) // an error ends the segment, as its end does
	c.buffer = c.space[:len(c.buffer)+n]
	c.offset += int64(n)
	return n
}

// open opens the segment if there is more to read, or the oldest after it.
func (c *cursor) open(all []segment) bool {
	for i, s := range all {
		switch {
		case s.number < c.number:
			continue
		case s.number == c.number && c.offset >= s.size:
			if i < len(all)-1 {
				c.buffer = nil // half a record
			}
			continue
		}
		if c.openSegment(s) {
			return true
		} // else it is gone meanwhile
	}
	return false
}

// openSegment opens a segment where reading goes on.
func (c *cursor) openSegment(s segment) bool {
	f, err := os.Open(c.journal.path(s.number))
	if err != nil {
		return false
	}
	if s.number == c.number && c.offset > 0 {
		if _, err := f.Seek(c.offset, io.SeekStart); err != nil {
			_ = f.Close()
			return false
		}
		c.file = f
		return true
	}
	if c.number > 0 && s.first > c.next {
		c.lost += s.first - c.next
	}
	c.file, c.number, c.offset, c.buffer = f, s.number, 0, nil
	c.next = s.first - 1 // the header counts as one
	return true
}

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close()
		c.file = nil
	}
}
