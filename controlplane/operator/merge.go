package operator

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
)

const (
	// tailBytes bounds the lines that are held to find the last ones.
	tailBytes = 16 << 20
	// mergeEvery is how long lines of instances wait for earlier ones of others.
	mergeEvery = 200 * time.Millisecond
	// lookEvery is how often instances are looked for that came, or came back.
	lookEvery = time.Second
)

// merge reads the logs of many instances and emits the lines in the order of
// their times: strictly while it catches up, then as well as lines of the same
// fraction of a second can be. Its goroutine owns everything; one goroutine per
// instance reads and holds one batch at most, so that whoever takes lines too
// slowly slows down reading, not printing.
type merge struct {
	logs  Logs
	query controlplane.LogQuery
	emit  func(lines []controlplane.LogLine, notices []string) error
	// silent says what cannot be asked.
	silent func() []string
	// stopping ends following when it is closed.
	stopping <-chan struct{}

	batches chan received
	readers sync.WaitGroup
	sources map[controlplane.InstanceID]*source
	// behind says that some source has not caught up.
	behind  bool
	began   time.Time
	notices []string
	// held are the last lines so far while only those are wanted.
	held []controlplane.LogLine
}

// source is one instance.
type source struct {
	// more lets its reader go on.
	more  chan struct{}
	lines []controlplane.LogLine
	// caughtUp, or all there is was read.
	caughtUp bool
	// reading says that its reader runs, waiting that it waits for more.
	reading, waiting bool
	// failed says that its reader ended with an error, last is when its last line was
	// printed.
	failed bool
	last   time.Time
}

// received is what a reader read, or that it has ended.
type received struct {
	from  controlplane.InstanceID
	batch controlplane.LogBatch
	ended bool
	err   error
}

func newMerge(logs Logs, q controlplane.LogQuery, emit func([]controlplane.LogLine, []string) error) *merge {
	return &merge{
		logs: logs, query: q, emit: emit, silent: func() []string { return nil },
		batches: make(chan received), sources: map[controlplane.InstanceID]*source{}, behind: true, began: time.Now(),
	}
}

// wait waits for the readers, after their context has ended.
func (m *merge) wait() { m.readers.Wait() }

// run works until all is read, ctx ends or emitting fails. Who follows is not
// told of an end.
func (m *merge) run(ctx context.Context) error {
	m.look(ctx)
	m.notices = append(m.notices, m.silent()...)
	tick, look := time.NewTicker(mergeEvery), time.NewTicker(lookEvery)
	defer tick.Stop()
	defer look.Stop()
	for {
		if err := m.flush(false); err != nil {
			return err
		}
		if !m.behind && !m.query.Follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.stopping:
			return fmt.Errorf("the control service is stopping: %w", errdefs.ErrUnavailable)
		case r := <-m.batches:
			m.receive(r)
		case <-tick.C:
			if err := m.flush(true); err != nil {
				return err
			}
		case <-look.C:
			if m.query.Follow {
				m.look(ctx)
			}
		}
	}
}

// look begins to read instances that are not read.
func (m *merge) look(ctx context.Context) {
	for _, id := range m.logs.Reachable() {
		s := m.sources[id]
		q := m.query
		switch {
		case s == nil && m.behind:
			s = &source{more: make(chan struct{}, 1)}
		case s == nil: // it came later
			s = &source{more: make(chan struct{}, 1), caughtUp: true}
			q.Tail, q.Since = -1, latest(q.Since, m.began)
		case s.reading:
			continue
		default: // it came back
			q.Tail, q.Since = -1, latest(q.Since, latest(m.began, s.last.Add(1)))
		}
		s.reading = true
		m.sources[id] = s
		m.readers.Go(func() { m.read(ctx, id, q, s.more) })
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// read reads one instance, a batch whenever the one before has been taken.
func (m *merge) read(ctx context.Context, id controlplane.InstanceID, q controlplane.LogQuery, more <-chan struct{}) {
	hand := func(r received) error {
		select {
		case m.batches <- r:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := m.logs.ReadLogs(ctx, id, q, func(b controlplane.LogBatch) error {
		if err := hand(received{from: id, batch: b}); err != nil {
			return err
		}
		select {
		case <-more:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	_ = hand(received{from: id, ended: true, err: err}) // unless everything ends
}

// receive takes what a reader read.
func (m *merge) receive(r received) {
	s := m.sources[r.from]
	if r.ended {
		s.reading, s.caughtUp = false, true
		if r.err != nil && !s.failed {
			m.notices = append(m.notices, fmt.Sprintf("instance %s: %s", r.from, why(r.err)))
		}
		s.failed = r.err != nil
		return
	}
	if s.failed {
		s.failed = false
		m.notices = append(m.notices, fmt.Sprintf("instance %s is read again", r.from))
	}
	s.waiting = true
	s.lines = r.batch.Lines
	if n := len(s.lines); n > 0 {
		s.last = s.lines[n-1].Time
	}
	if r.batch.Lost > 0 {
		m.notices = append(m.notices, fmt.Sprintf("instance %s: %d lines are missing: they came faster than they could be kept or read", r.from, r.batch.Lost))
	}
	s.caughtUp = s.caughtUp || r.batch.CaughtUp
	if m.behind && m.query.Tail >= 0 {
		m.hold(s)
	}
}

func why(err error) string {
	switch {
	case errdefs.IsResourceExhausted(err):
		return "it has too many readers"
	case errdefs.IsUnavailable(err):
		return "it cannot be reached any more"
	}
	return "its logs cannot be read"
}

// hold keeps the last of the lines so far.
func (m *merge) hold(s *source) {
	m.held = append(m.held, s.lines...)
	s.lines = nil
	slices.SortStableFunc(m.held, byTime)
	drop, size := max(0, len(m.held)-m.query.Tail), 0
	for i, l := range slices.Backward(m.held) {
		if size += len(l.Text); size > tailBytes {
			drop = max(drop, i+1)
			break
		}
	}
	m.held = slices.Delete(m.held, 0, drop)
}

func byTime(a, b controlplane.LogLine) int { return a.Time.Compare(b.Time) }

// flush emits what can be emitted: once every source has caught up, all, if it is
// time or it is much; before, what no source can have anything before.
func (m *merge) flush(due bool) error {
	var lines []controlplane.LogLine
	if m.behind {
		lines = m.ordered()
		m.behind = slices.ContainsFunc(m.list(), func(s *source) bool { return !s.caughtUp })
		if !m.behind {
			lines = append(m.held, lines...)
			m.held, due = nil, true
		}
	}
	if !m.behind && (due || m.isMuch()) {
		first := len(lines)
		for _, s := range m.list() {
			lines = append(lines, s.lines...)
			s.lines = nil
		}
		slices.SortStableFunc(lines[first:], byTime)
	}
	for _, s := range m.list() {
		if s.waiting && len(s.lines) == 0 {
			s.waiting = false
			s.more <- struct{}{} // has room: its reader waits for it
		}
	}
	if len(lines) == 0 && len(m.notices) == 0 {
		return nil
	}
	notices := m.notices
	m.notices = nil
	return m.emit(lines, notices)
}

// isMuch says that a source has so many lines that waiting would hold it up.
func (m *merge) isMuch() bool {
	return slices.ContainsFunc(m.list(), func(s *source) bool { return len(s.lines) >= sendLines/2 })
}

// list is the sources in order of their instances.
func (m *merge) list() []*source {
	ids := make([]controlplane.InstanceID, 0, len(m.sources))
	for id := range m.sources {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	all := make([]*source, 0, len(ids))
	for _, id := range ids {
		all = append(all, m.sources[id])
	}
	return all
}

// ordered takes the lines that come first: as long as every source that may have
// earlier ones has some to compare.
func (m *merge) ordered() (lines []controlplane.LogLine) {
	all := m.list()
	for {
		var first *source
		for _, s := range all {
			switch {
			case len(s.lines) == 0 && !s.caughtUp:
				return lines
			case len(s.lines) > 0 && (first == nil || s.lines[0].Time.Before(first.lines[0].Time)):
				first = s
			}
		}
		if first == nil {
			return lines
		}
		lines = append(lines, first.lines[0])
		first.lines = first.lines[1:]
	}
}
