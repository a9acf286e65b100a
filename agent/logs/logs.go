// Package logs keeps what functions print: in files on the instance, within
// bounds, and lets readers follow them.
//
// # Model
//
// A [Stream] takes the lines of one sandbox and finds out which request each
// belongs to. The lines of an environment, whichever sandbox served it, make a
// journal: a directory of segments, files of whole records that are only ever
// appended to. A record is one line of text,
//
//	2026-11-23T21:02:13.123456789Z o 8476a536-e9f4-11e8-9739-2dfe598c3fcd hello
//
// the time, who wrote it (o and e for the two standard streams, x for an
// extension, p for the platform), the request or "-", and what was written. "!"
// stands for a number of lines that were lost there.
//
// # Invariants
//
//  1. Whoever prints never waits for a disk: lines that find no room in memory, or
//     on the disk, are lost and counted.
//  2. A journal takes no more than the bound per environment and all journals no
//     more than the bound per instance, but for what is being written, and there are
//     at most 2,048; the oldest segment goes first.
//  3. A reader holds nothing up. One that is so slow that segments go before it has
//     read them is told how many lines it missed.
//
// # Concurrency
//
// Everything may be called from anywhere. One goroutine, Run, owns the files.
// Environments share no lock on the way of a line.
//
// # Failure
//
// Nothing is synced: a crash of the agent loses what was printed in the last
// moments, and may leave half a record, which readers skip. The next process
// begins new segments and keeps the old ones.
package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
)

// Source is who wrote a line.
type Source byte

// The sources; on disk each is this letter.
const (
	Stdout    Source = 'o'
	Stderr    Source = 'e'
	Extension Source = 'x'
	Platform  Source = 'p'
	// lost marks a number of lines that are missing.
	lost Source = '!'
)

// Tags say where a line comes from.
type Tags struct {
	Function    string              `json:"function"`
	Version     string              `json:"version"`
	Environment agent.EnvironmentID `json:"environment"`
}

// Line is one line that was kept.
type Line struct {
	Tags

	Time   time.Time
	Source Source
	// RequestID is the request it belongs to; empty when that is not known.
	RequestID string
	// Text is without its line ending.
	Text []byte
	// Level is one of AWS's, if the line has one; it is not kept.
	Level string
}

// The smallest bounds.
const (
	LeastPerEnvironment = 1 << 20
	LeastTotal          = 8 << 20
)

const (
	// segments is how many files the lines of an environment are divided into: a
	// part of that size goes at once.
	segments = 8
	// maxJournals is how many environments lines are kept of.
	maxJournals = 2048
	// writeEvery is how long lines are gathered before they are written, unless
	// they are many.
	writeEvery = 50 * time.Millisecond
	// manyBytes of an environment are written at once, maxPending wait at most.
	manyBytes  = 128 << 10
	maxPending = 1 << 20
	// complainEvery bounds how often a fault of the disk is logged.
	complainEvery = time.Minute
)

// Config is what a store needs.
type Config struct {
	// Dir is the store's own.
	Dir string
	// PerEnvironment and Total bound what is kept.
	PerEnvironment, Total agent.Bytes
	// Ship, if set, returns what is given each line of a stream, too. That must
	// neither block nor keep the text.
	Ship func(Options) func(Line)
	// Log is required.
	Log *slog.Logger
}

// Counts is what happened to lines so far.
type Counts struct {
	// Kept counts lines, LostMemory and LostDisk those that found no room.
	Kept, LostMemory, LostDisk int64
	// Bytes are on disk now.
	Bytes int64
}

// Store keeps lines. Make it with New and run Run.
type Store struct {
	cfg Config
	// nudge says that there is something to write, hurry that it is much.
	nudge, hurry chan struct{}

	kept, lostMemory, lostDisk, bytes atomic.Int64
	readers                           atomic.Int64
	complained                        time.Time // Run's

	mu sync.Mutex // guards the fields below
	// journals by environment, those of environments that ended too.
	journals map[agent.EnvironmentID]*journal
	// open are those that are written to.
	open map[*journal]struct{}
	// wake is closed, and another made, when something was written.
	wake chan struct{}
}

// New opens the store and finds what earlier processes kept. Errors:
// InvalidArgument.
func New(cfg Config) (*Store, error) {
	if cfg.PerEnvironment < LeastPerEnvironment || cfg.Total < LeastTotal {
		return nil, fmt.Errorf("keeping logs: at least %d bytes per environment and %d in all: %w", LeastPerEnvironment, LeastTotal, errdefs.ErrInvalidArgument)
	}
	s := &Store{
		cfg:      cfg,
		nudge:    make(chan struct{}, 1),
		hurry:    make(chan struct{}, 1),
		journals: map[agent.EnvironmentID]*journal{},
		open:     map[*journal]struct{}{},
		wake:     make(chan struct{}),
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("opening logs in %s: %w: %w", cfg.Dir, err, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// Counts is what happened so far.
func (s *Store) Counts() Counts {
	return Counts{
		Kept: s.kept.Load(), LostMemory: s.lostMemory.Load(), LostDisk: s.lostDisk.Load(), Bytes: s.bytes.Load(),
	}
}

// Run writes lines until ctx is cancelled, then what is left, and returns nil.
func (s *Store) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			s.write()
			s.closeAll()
			return nil
		case <-s.nudge:
		}
		s.write()
		timer := time.NewTimer(writeEvery)
		select {
		case <-timer.C:
		case <-s.hurry:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// matching lists the journals a query is about.
func (s *Store) matching(q Query) ([]*journal, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []*journal
	for _, j := range s.journals {
		if q.matches(j.tags) {
			found = append(found, j)
		}
	}
	return found, s.wake
}

// busy lists the journals that somebody writes to, or did a moment ago.
func (s *Store) busy() []*journal {
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := make([]*journal, 0, len(s.open))
	for j := range s.open {
		busy = append(busy, j)
	}
	return busy
}

// write writes all that waits and enforces the bounds.
func (s *Store) write() {
	wrote := false
	for _, j := range s.busy() {
		some, err := j.write()
		wrote = wrote || some
		if err == nil && !some {
			err = s.rest(j)
		}
		if err != nil {
			s.complain(err)
		}
	}
	s.trim()
	if !wrote {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.wake)
	s.wake = make(chan struct{})
}

// rest closes a journal with nothing to write if nobody writes to it any more.
func (s *Store) rest(j *journal) error {
	s.mu.Lock()
	resting := j.users == 0 && j.isEmpty()
	if resting {
		delete(s.open, j)
	}
	s.mu.Unlock()
	if !resting {
		return nil
	}
	return j.close()
}

func (s *Store) closeAll() {
	for _, j := range s.busy() {
		if err := j.close(); err != nil {
			s.complain(err)
		}
	}
}

// complain logs a fault of the disk, not too often.
func (s *Store) complain(err error) {
	if now := time.Now(); now.Sub(s.complained) >= complainEvery {
		s.complained = now
		s.cfg.Log.Warn("lines of functions cannot be kept", "lost", s.lostDisk.Load(), "err", err)
	}
}

// trim removes the oldest segments once there are too many bytes or journals, a
// few more than needed so that it is not always done.
func (s *Store) trim() {
	most, left := int64(s.cfg.Total), s.count()
	if s.bytes.Load() <= most && left <= maxJournals {
		return
	}
	most -= most / trimShare
	for _, oldest := range s.segments() {
		if s.bytes.Load() <= most && left <= maxJournals-maxJournals/trimShare {
			return
		}
		if err := oldest.journal.dropOldest(); err != nil {
			s.complain(err)
			return
		}
		if s.forget(oldest.journal) {
			left--
		}
	}
}

// trimShare is the part of a bound by which it is undercut.
const trimShare = 32

// oldSegment is one of all segments there are.
type oldSegment struct {
	journal *journal
	last    time.Time
}

// segments lists all, the oldest first.
func (s *Store) segments() (all []oldSegment) {
	journals, _ := s.matching(Query{})
	for _, j := range journals {
		for _, found := range j.list() {
			all = append(all, oldSegment{j, found.last})
		}
	}
	slices.SortStableFunc(all, func(a, b oldSegment) int { return a.last.Compare(b.last) })
	return all
}

func (s *Store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.journals)
}

// forget removes a journal that has nothing and nobody, and reports whether it
// did.
func (s *Store) forget(j *journal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.users > 0 || !j.isEmpty() || len(j.list()) > 0 {
		return false
	}
	delete(s.journals, j.tags.Environment)
	delete(s.open, j)
	return true
}

// nudged tells a goroutine without waiting for it.
func nudged(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

var errTooManyReaders = errors.New("too many readers of logs")
