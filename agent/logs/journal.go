package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// blockBytes is what a file takes at least.
	blockBytes = 4 << 10
	// keepBuffer is the largest buffer kept between writes.
	keepBuffer = 64 << 10
)

// journal is the lines of one environment.
type journal struct {
	store *Store
	tags  Tags
	// users counts streams; the store's mutex guards it.
	users int

	// Run alone touches these.
	file *os.File
	// broken is set after a failed write: the segment may end with half a record.
	broken bool
	// counted says that records counts those of earlier processes, too.
	counted bool

	bufferMu sync.Mutex // guards what waits to be written
	pending  []byte
	spare    []byte
	missing  int64 // lines lost since pending began
	stamp    stamp

	mu       sync.Mutex // guards the fields below, which Run alone changes
	segments []segment
	// last is the number of the newest segment there ever was, records how many
	// lines, and marks of lost ones, were ever written.
	last, records int64
}

// segment is one file.
type segment struct {
	number int64
	// first is how many records the journal had before it.
	first, size int64
	// last is when it was last written.
	last time.Time
}

// blocks is what a segment takes of the disk.
func (s segment) blocks() int64 { return (s.size + blockBytes - 1) / blockBytes * blockBytes }

func (j *journal) dir() string { return filepath.Join(j.store.cfg.Dir, string(j.tags.Environment)) }

func (j *journal) path(number int64) string {
	return filepath.Join(j.dir(), fmt.Sprintf("%010d.log", number))
}

// append adds a line to what waits, or counts it as lost.
func (j *journal) append(at time.Time, source Source, request, text []byte) {
	j.bufferMu.Lock()
	before := len(j.pending)
	fits := before+len(text) <= maxPending
	if fits {
		if j.pending == nil {
			j.pending, j.spare = j.spare, nil
		}
		j.pending = appendRecord(j.pending, &j.stamp, at, source, request, text)
	} else {
		j.missing++
	}
	after := len(j.pending)
	j.bufferMu.Unlock()
	switch {
	case !fits:
		j.store.lostMemory.Add(1)
	case before == 0:
		nudged(j.store.nudge)
	}
	if after >= manyBytes && before < manyBytes {
		nudged(j.store.hurry)
	}
}

// take takes what waits, with a mark for the lines that were lost after it, and
// how many those are.
func (j *journal) take() (taken []byte, missing int64) {
	j.bufferMu.Lock()
	defer j.bufferMu.Unlock()
	taken, missing = j.pending, j.missing
	if missing > 0 {
		taken = appendRecord(taken, &j.stamp, time.Now(), lost, nil, fmt.Append(nil, missing))
	}
	j.pending, j.missing = nil, 0
	return taken, missing
}

// giveBack lets a buffer be used again.
func (j *journal) giveBack(buffer []byte) {
	if cap(buffer) > keepBuffer {
		return
	}
	j.bufferMu.Lock()
	defer j.bufferMu.Unlock()
	j.spare = buffer[:0]
}

// write writes what waits and reports whether there was any. After an error
// what was not written is lost.
func (j *journal) write() (bool, error) {
	taken, missing := j.take()
	if len(taken) == 0 {
		return false, nil
	}
	defer j.giveBack(taken)
	marks := min(missing, 1)
	for rest := taken; len(rest) > 0; {
		n, err := j.writeSome(rest)
		if err != nil {
			count := records(rest) - marks
			j.store.lostDisk.Add(count)
			j.bufferMu.Lock()
			j.missing += count + missing
			j.bufferMu.Unlock()
			return true, fmt.Errorf("writing lines of %s: %w", j.tags.Environment, err)
		}
		rest = rest[n:]
	}
	j.store.kept.Add(-marks)
	return true, nil
}

// records is how many records there are in a buffer of whole ones.
func records(buffer []byte) int64 { return int64(bytes.Count(buffer, []byte{'\n'})) }

// writeSome writes whole records, as many as the segment has room for.
func (j *journal) writeSome(buffer []byte) (int, error) {
	most := int64(j.store.cfg.PerEnvironment) / segments
	if j.file == nil || j.broken || j.newest().size >= most {
		if err := j.rotate(); err != nil {
			return 0, err
		}
	}
	n := int64(len(buffer))
	if room := max(0, most-j.newest().size); n > room {
		// Up to the end of the record that goes beyond.
		n = room + int64(bytes.IndexByte(buffer[room:], '\n')) + 1
	}
	if err := j.makeRoom(n); err != nil {
		return 0, err
	}
	if _, err := j.file.Write(buffer[:n]); err != nil {
		j.broken = true
		return 0, err
	}
	count := records(buffer[:n])
	j.store.kept.Add(count)
	j.grew(n, count)
	return int(n), nil
}

// newest is the segment that is written, if there is one.
func (j *journal) newest() segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segments) == 0 {
		return segment{}
	}
	return j.segments[len(j.segments)-1]
}

// grew notes what was written to the newest segment.
func (j *journal) grew(size, count int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := &j.segments[len(j.segments)-1]
	before := s.blocks()
	s.size += size
	s.last = time.Now()
	j.records += count
	j.store.bytes.Add(s.blocks() - before)
}

// makeRoom drops the oldest segments until n bytes more are within the bound.
func (j *journal) makeRoom(n int64) error {
	for {
		all := j.list()
		var sum int64
		for _, s := range all {
			sum += s.size
		}
		if sum+n <= int64(j.store.cfg.PerEnvironment) || len(all) < 2 {
			return nil
		}
		if err := j.dropOldest(); err != nil {
			return err
		}
	}
}

// rotate begins a new segment.
func (j *journal) rotate() error {
	if err := j.close(); err != nil {
		return err
	}
	if err := os.MkdirAll(j.dir(), 0o700); err != nil {
		return err
	}
	if err := j.count(); err != nil {
		return err
	}
	j.mu.Lock()
	next := segment{number: j.last + 1, first: j.records, last: time.Now()}
	j.mu.Unlock()
	f, err := os.OpenFile(j.path(next.number), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	header := appendHeader(nil, j.tags, next.first)
	if _, err := f.Write(header); err != nil {
		return errors.Join(err, f.Close(), os.Remove(j.path(next.number)))
	}
	j.file, j.broken = f, false
	next.size = int64(len(header))
	j.store.bytes.Add(next.blocks())
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segments = append(j.segments, next)
	j.last = next.number
	return nil
}

// count finds out how many records an earlier process wrote.
func (j *journal) count() error {
	if j.counted {
		return nil
	}
	last := j.newest()
	if last.number > 0 {
		content, err := os.ReadFile(j.path(last.number))
		if err != nil {
			return err
		}
		j.mu.Lock()
		j.records = last.first + max(0, records(content)-1) // the header is none
		j.mu.Unlock()
	}
	j.counted = true
	return nil
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// list is a copy of the list of segments, oldest first.
func (j *journal) list() []segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]segment(nil), j.segments...)
}

// dropOldest removes the oldest segment, and the directory with the last one.
func (j *journal) dropOldest() error {
	all := j.list()
	if len(all) == 1 {
		if err := j.close(); err != nil {
			return err
		}
	}
	if err := os.Remove(j.path(all[0].number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	j.store.bytes.Add(-all[0].blocks())
	j.mu.Lock()
	j.segments = j.segments[1:]
	j.mu.Unlock()
	if len(all) == 1 {
		_ = os.Remove(j.dir()) // unless there is something else in it
	}
	return nil
}

// isEmpty reports whether nothing waits to be written.
func (j *journal) isEmpty() bool {
	j.bufferMu.Lock()
	defer j.bufferMu.Unlock()
	return len(j.pending) == 0 && j.missing == 0
}
