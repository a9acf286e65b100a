package logs

import (
	"bytes"
	"os"
	"strconv"
)

// readBytes are read from a file at once, unless a line is longer.
const readBytes = 16 << 10

// cursor is where a reader is in a journal.
type cursor struct {
	journal *journal
	// number is the segment, offset how much of it was read, next the number of the
	// record that comes next.
	number, offset, next int64
	// entered is the segment that was begun last.
	entered int64
	// buffer is what was read and not yet looked at.
	buffer []byte
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

// fill reads more and reports whether there was some. No file stays open: a
// reader has a cursor for each environment there ever was.
func (c *cursor) fill() bool {
	for {
		s, newest, ok := c.segment()
		if !ok {
			return false
		}
		if s.number != c.entered {
			c.enter(s)
		}
		if c.read(s) {
			return true
		}
		// Gone meanwhile, or broken there.
		if s.number == newest {
			return false
		}
		c.number, c.offset = s.number+1, 0
	}
}

// segment is where there is more to read: the segment, or the oldest after it.
// Half a record at the end of one, which a crash left, is nothing.
func (c *cursor) segment() (found segment, newest int64, ok bool) {
	c.journal.mu.Lock()
	defer c.journal.mu.Unlock()
	for _, s := range c.journal.segments {
		if s.number > c.number || s.number == c.number && c.offset < s.size {
			return s, c.journal.last, true
		}
	}
	return found, 0, false
}

// enter begins a segment.
func (c *cursor) enter(s segment) {
	if c.number > 0 && s.first > c.next {
		c.lost += s.first - c.next
	}
	c.number, c.entered, c.offset, c.buffer = s.number, s.number, 0, nil
	c.next = s.first - 1 // the header counts as one
}

// read reads from a segment, behind what is in the buffer, and reports whether
// there was something.
func (c *cursor) read(s segment) bool {
	f, err := os.Open(c.journal.path(s.number))
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	more := int(min(s.size-c.offset, int64(max(readBytes, len(c.buffer)))))
	buffer := make([]byte, len(c.buffer)+more)
	begin := copy(buffer, c.buffer)
	n, _ := f.ReadAt(buffer[begin:], c.offset) // an error ends the segment, as its end does
	c.buffer = buffer[:begin+n]
	c.offset += int64(n)
	return n > 0
}
