// Package telemetry is the Telemetry API of one execution environment: its
// extensions subscribe to what the platform does (platform.* events) and to what
// the function and the extensions print, and are sent it in batches.
//
// # Model
//
//	platform events ──┐            ┌─► subscriber: batch ─► sender ──POST, TCP──► extension
//	lines printed  ───┴─► [Hub] ───┼─► subscriber: …
//	                               └─► Sink: the function's log (platform events)
//
// Subscriptions are taken until the environment is initialised. What happened
// before a subscription is kept until then, and sent to it first.
//
// # Invariants
//
//  1. Whoever reports an event never waits for a subscriber: what does not fit is
//     dropped, counted, and told with platform.logsDropped.
//  2. All that waits for the subscribers of one environment together is bounded.
//  3. A subscriber gets events in the order they happened, each in one batch; a
//     batch may come twice, with the same Sequence-Id, when its answer was lost.
//  4. One subscriber's trouble costs nothing but its own events.
//
// # Concurrency
//
// All methods may be called from anywhere. A nil *Hub is one that nobody listens
// to. The one mutex is held for moments.
//
// # Failure
//
// Subscriptions are in memory: after a restart of the agent the environments it
// adopts have none.
package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"math/bits"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxHeld is what may wait for all subscribers of an environment together, but
	// for leastShare each: the largest batch twice.
	maxHeld    = 2 << 20
	leastShare = 512 << 10
	// maxEarly is how much of what happens before the end of the initialisation is
	// kept for those who subscribe later.
	maxEarly = 128 << 10
	// flushLimit bounds Flush, as on AWS.
	flushLimit = time.Second
	// maxSpare is the largest buffer that is kept for the next event.
	maxSpare = 64 << 10
)

var (
	errReplaced = errors.New("the extension subscribed anew")
	errStopped  = errors.New("the environment has ended")
	errFlush    = errors.New("telemetry could not be delivered within a second")
)

// category is one of the streams there are to subscribe to, as a bit.
type category uint32

const (
	platform category = 1 << iota
	function
	extension

	everything = platform | function | extension
)

// Config describes one environment to its hub.
type Config struct {
	// FunctionName, Version and FunctionARN name the function's version; Runtime,
	// which may be empty, what it runs on.
	FunctionName, Version, FunctionARN, Runtime string
	// Memory is the limit in bytes.
	Memory int64
	// JSON says that the function's log format is JSON: printed lines that are
	// objects are sent as objects.
	JSON bool
	// OnDemand functions find the events of default Lambda: platform.runtimeDone
	// too.
	OnDemand bool
	// Dial connects to a TCP address inside the environment.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Sink, if set, takes the platform events for the function's log: those of at
	// least SystemLevel if the format is JSON, those AWS writes in plain text
	// otherwise. It must not block.
	Sink        func(Event)
	SystemLevel slog.Level
	// Log is required.
	Log *slog.Logger
}

// Event is a platform event for the function's log.
type Event struct {
	// Type is for example "platform.report".
	Type string
	// RequestID is empty for events of no invocation.
	RequestID string
	Level     slog.Level
	// Text is valid during the call only: the event as an object, or lines of plain
	// text.
	Text []byte
}

// Hub distributes the telemetry of one environment. Make it with New.
type Hub struct {
	cfg Config

	// initialising is true between InitStart and InitReport.
	initialising atomic.Bool
	// wanted has the categories somebody wants, or may still subscribe to.
	wanted  atomic.Uint32
	buffers sync.Pool // of *buffer
	// arrived is nudged when there is a new subscriber.
	arrived chan struct{}

	mu          sync.Mutex // guards the fields below and those of subscribers
	subscribers []*subscriber
	// early is what happened so far, until closed; missed is what was too much.
	early  []early
	kept   int
	missed loss
	closed bool
	// begun is when the initialisation began.
	begun time.Time
	// stopped says that nothing is sent any more.
	stopped bool
}

// early is an event for subscribers that come later.
type early struct {
	category category
	event    []byte
}

// New returns the hub of an environment that is about to be initialised.
func New(cfg Config) *Hub {
	h := &Hub{cfg: cfg, arrived: make(chan struct{}, 1)}
	h.wanted.Store(uint32(everything))
	return h
}

// Run sends to subscribers until ctx ends.
func (h *Hub) Run(ctx context.Context) {
	if h == nil {
		return
	}
	var senders sync.WaitGroup
	defer senders.Wait()
	defer h.stop()
	for {
		h.begin(ctx, &senders)
		select {
		case <-ctx.Done():
			return
		case <-h.arrived:
		}
	}
}

// begin starts the senders of subscribers that have none.
func (h *Hub) begin(ctx context.Context, senders *sync.WaitGroup) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.subscribers {
		if s.cancel == nil {
			ctx, cancel := context.WithCancelCause(ctx)
			s.cancel = cancel
			senders.Go(func() { s.run(ctx) })
		}
	}
}

func (h *Hub) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	for _, s := range h.subscribers {
		s.endLocked(errStopped)
	}
	h.subscribers, h.early = nil, nil
	h.wanted.Store(0)
}

// Close ends subscribing: the environment is initialised.
func (h *Hub) Close() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed, h.early = true, nil
	h.wanted.Store(uint32(h.categoriesLocked()))
}

func (h *Hub) categoriesLocked() (all category) {
	for _, s := range h.subscribers {
		all |= s.categories
	}
	return all
}

// Flush waits until all that happened so far is delivered, a second at most.
func (h *Hub) Flush(ctx context.Context) {
	if h == nil {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, flushLimit, errFlush)
	defer cancel()
	for _, flushed := range h.flushes() {
		select {
		case <-flushed:
		case <-ctx.Done():
			h.cfg.Log.DebugContext(ctx, "telemetry was not delivered", "err", context.Cause(ctx))
			return
		}
	}
}

func (h *Hub) flushes() (all []<-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.subscribers {
		all = append(all, s.flushLocked())
	}
	return all
}

// Function takes a line the function's runtime printed.
func (h *Hub) Function(line []byte) { h.line(function, "function", line) }

// Extension takes a line an extension printed.
func (h *Hub) Extension(line []byte) { h.line(extension, "extension", line) }

func (h *Hub) line(c category, kind string, line []byte) {
	if !h.wants(c) {
		return
	}
	now := time.Now()
	buf := h.buffer()
	defer h.recycle(buf)
	b := appendHead(buf.b[:0], now, kind)
	if h.cfg.JSON && isObject(line) {
		b = append(b, line...)
	} else {
		b = appendString(b, line)
	}
	buf.b = append(b, '}')
	h.publish(c, buf.b, now)
}

// wants tells whether events of a category are of any use to subscribers.
func (h *Hub) wants(c category) bool {
	return h != nil && h.wanted.Load()&uint32(c) != 0
}

// publish gives an event to all that want it, and keeps it for those to come.
func (h *Hub) publish(c category, event []byte, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.subscribers {
		if s.categories&c != 0 {
			s.addLocked(event, now)
		}
	}
	switch {
	case h.closed || h.stopped:
	case h.kept+len(event) > maxEarly:
		h.missed.add(1, len(event))
	default:
		h.early = append(h.early, early{c, slices.Clone(event)})
		h.kept += len(event)
	}
}

// enter makes s a subscriber, in place of an earlier one of its name. It reports
// false if it comes too late.
func (h *Hub) enter(s *subscriber) bool {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.stopped {
		return false
	}
	h.subscribers = slices.DeleteFunc(h.subscribers, func(old *subscriber) bool {
		if old.name == s.name {
			old.endLocked(errReplaced)
		}
		return old.name == s.name
	})
	h.subscribers = append(h.subscribers, s)
	for _, other := range h.subscribers {
		other.share = max(maxHeld/len(h.subscribers), leastShare)
	}
	for _, e := range h.early {
		if s.categories&e.category != 0 {
			s.addLocked(e.event, now)
		}
	}
	if h.missed.records > 0 {
		s.lost.add(h.missed.records, h.missed.bytes)
		s.reason = reasonSlow
	}
	select {
	case h.arrived <- struct{}{}:
	default:
	}
	return true
}

// names are what the categories are called in requests and events.
func (c category) names() []string {
	all := [...]string{"platform", "function", "extension"}
	var names []string
	for rest := uint32(c); rest != 0; rest &= rest - 1 {
		names = append(names, all[bits.TrailingZeros32(rest)])
	}
	return names
}
