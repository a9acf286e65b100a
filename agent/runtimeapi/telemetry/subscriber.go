package telemetry

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// attempts is how often a batch is sent before it is given up.
	attempts = 3
	// attemptLimit bounds one attempt.
	attemptLimit = 3 * time.Second
	// firstPause is between the first attempt and the second; then it doubles.
	firstPause = 100 * time.Millisecond
	// noteBytes is more than a platform.logsDropped takes.
	noteBytes = 1 << 10
)

// reasonSlow is why most events are dropped, in the words of AWS.
const reasonSlow = "Some logs were dropped because the downstream consumer is slower than the logs production rate"

// loss counts what was dropped.
type loss struct{ records, bytes int }

func (l *loss) add(records, bytes int) {
	l.records += records
	l.bytes += bytes
}

// subscriber is one subscription. The mutex of the hub guards what changes,
// except what is the sender's own.
type subscriber struct {
	hub        *Hub
	name       string
	categories category
	buffering  buffering
	to         destination
	// wake is nudged when the sender may have something to do.
	wake chan struct{}

	// cancel ends the sender; nil before it runs.
	cancel context.CancelCauseFunc
	// share is how many bytes may wait, held how many do.
	share, held int
	// full are batches to be sent at once, open the one that fills up until due.
	full []*batch
	open *batch
	due  time.Time
	// added and settled count events that were accepted, and those of them that
	// were sent or given up.
	added, settled uint64
	flushing       []flush
	// lost was dropped and not told to the subscriber, untold not to the log.
	lost, untold loss
	reason       string
}

// flush is somebody who waits until settled reaches target.
type flush struct {
	target uint64
	done   chan struct{}
}

// batch is what is sent at once.
type batch struct {
	// body is an array, or lines, as the destination wants it.
	body          []byte
	events, bytes int
	// told is the loss that the batch tells of.
	told loss
}

// addLocked appends an event to the batch that fills up, or drops it.
func (s *subscriber) addLocked(event []byte, now time.Time) {
	if s.held+len(event) > s.share {
		s.dropLocked(1, len(event), reasonSlow)
		return
	}
	limit := min(s.buffering.maxBytes, s.share/2)
	if s.open != nil && s.open.bytes+len(event) > limit {
		s.sealLocked()
	}
	if s.open == nil {
		s.open, s.due = &batch{}, now.Add(s.buffering.timeout)
		s.nudge()
	}
	s.open.body = s.to.frame(s.open.body, event)
	s.open.events++
	s.open.bytes += len(event)
	s.held += len(event)
	s.added++
	if s.open.events >= s.buffering.maxItems || s.open.bytes >= limit {
		s.sealLocked()
	}
}

func (s *subscriber) sealLocked() {
	s.full = append(s.full, s.open)
	s.open = nil
	s.nudge()
}

func (s *subscriber) dropLocked(records, bytes int, reason string) {
	s.lost.add(records, bytes)
	s.untold.add(records, bytes)
	s.reason = reason
}

func (s *subscriber) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// endLocked ends the sender, or what it would have ended if it never ran; closing
// a connection does not block.
func (s *subscriber) endLocked(cause error) {
	if s.cancel != nil {
		s.cancel(cause)
		return
	}
	s.to.close()
}

// flushLocked returns what is closed once all events so far are settled.
func (s *subscriber) flushLocked() <-chan struct{} {
	f := flush{target: s.added, done: make(chan struct{})}
	s.flushing = append(s.flushing, f)
	s.nudge()
	return f.done
}

// run sends batches until ctx ends.
func (s *subscriber) run(ctx context.Context) {
	defer s.to.close()
	for ctx.Err() == nil {
		b, wait := s.take(time.Now())
		if b == nil {
			s.sleep(ctx, wait)
			continue
		}
		s.settle(b, s.send(ctx, b))
	}
}

// sleep waits for a nudge, for at most wait if that is not zero.
func (s *subscriber) sleep(ctx context.Context, wait time.Duration) {
	var due <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-s.wake:
	case <-due:
	case <-ctx.Done():
	}
}

// take returns the batch to send now; nil if there is none, and when there will
// be one (zero: not known).
func (s *subscriber) take(now time.Time) (b *batch, wait time.Duration) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	switch wait = s.due.Sub(now); {
	case len(s.full) > 0:
		b, s.full = s.full[0], s.full[1:]
	case s.open != nil && (wait <= 0 || len(s.flushing) > 0):
		b, s.open = s.open, nil
	case s.open != nil:
		return nil, wait
	case len(s.flushing) > 0 && s.tellsLocked():
		b = &batch{}
	default:
		s.flushedLocked()
		return nil, 0
	}
	if s.tellsLocked() {
		b.told = s.lost
		b.body = s.to.frame(b.body, droppedEvent(now, s.lost, s.reason))
	}
	b.body = s.to.end(b.body)
	return b, 0
}

// tellsLocked tells whether there is a loss the subscriber wants to know of.
func (s *subscriber) tellsLocked() bool {
	return s.lost.records > 0 && s.categories&platform != 0
}

// settle records what became of a batch.
func (s *subscriber) settle(b *batch, err error) {
	untold, reason := s.record(b, err)
	if untold.records > 0 {
		s.hub.logDropped(untold, reason)
	}
}

func (s *subscriber) record(b *batch, err error) (untold loss, reason string) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.held -= b.bytes
	s.settled += uint64(b.events) //nolint:gosec // G115: counts
	if err == nil {
		s.lost.add(-b.told.records, -b.told.bytes)
	} else {
		s.dropLocked(b.events, b.bytes, failed(err))
	}
	s.flushedLocked()
	untold, s.untold = s.untold, loss{}
	return untold, s.reason
}

// failed is why events that could not be sent were dropped.
func failed(err error) string {
	const enough = 200
	message := "could not send events: " + cause(err).Error()
	return message[:min(len(message), enough)]
}

// flushedLocked ends the waits that are over.
func (s *subscriber) flushedLocked() {
	waiting := s.flushing[:0]
	for _, f := range s.flushing {
		if s.settled < f.target {
			waiting = append(waiting, f)
			continue
		}
		close(f.done)
	}
	s.flushing = waiting
}

// send delivers a batch, in several attempts if need be.
func (s *subscriber) send(ctx context.Context, b *batch) error {
	for attempt, pause := 1, firstPause; ; attempt, pause = attempt+1, 2*pause {
		err := s.attempt(ctx, b)
		if err == nil || attempt == attempts {
			return err
		}
		s.hub.cfg.Log.DebugContext(ctx, "telemetry was not taken", "extension", s.name, "err", err)
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // jitter
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

func (s *subscriber) attempt(ctx context.Context, b *batch) error {
	ctx, cancel := context.WithTimeoutCause(ctx, attemptLimit, errNoAnswer)
	defer cancel()
	return s.to.send(ctx, b.body)
}
