package telemetry

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Status is how an invocation or an initialisation ended.
type Status string

// The statuses.
const (
	Success Status = "success"
	// Timeout: the deadline passed.
	Timeout Status = "timeout"
	// Error: the function, its runtime or an extension is to blame.
	Error Status = "error"
	// Failure: the platform is.
	Failure Status = "failure"
)

// level is that of an event that is worth otherwise when all went well.
func (s Status) level(otherwise slog.Level) slog.Level {
	if s != Success {
		return slog.LevelWarn
	}
	return otherwise
}

// InitStart reports that the initialisation begins. The log stream names the
// environment.
func (h *Hub) InitStart(logStream string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	h.begun = time.Now()
	h.mu.Unlock()
	h.initialising.Store(true)
	const level = slog.LevelInfo
	if !h.reports(level) {
		return
	}
	h.report(Event{Type: "platform.initStart", Level: level}, func(b []byte) []byte {
		b = appendField(b, `{"initializationType":`, h.initializationType())
		b = appendField(b, `,"runtimeVersion":`, h.cfg.Runtime)
		b = appendField(b, `,"runtimeVersionArn":`, "")
		b = appendField(b, `,"functionName":`, h.cfg.FunctionName)
		b = appendField(b, `,"functionVersion":`, h.cfg.Version)
		b = appendField(b, `,"instanceId":`, logStream)
		b = appendInt(b, `,"instanceMaxMemory":`, h.cfg.Memory)
		return append(b, `,"phase":"init"}`...)
	}, func(b []byte) []byte {
		return fmt.Appendf(b, "INIT_START Runtime Version: %s\tRuntime Version ARN: ", h.cfg.Runtime)
	})
}

func (h *Hub) initializationType() string {
	if h.cfg.OnDemand {
		return "on-demand"
	}
	return "lambda-managed-instances"
}

// InitRuntimeDone reports that the runtime is initialised, or that it is not going
// to be. The error type is empty after a success. Without an InitStart before it
// this, like InitReport and ExtensionState, does nothing: an environment that is
// adopted was initialised before.
func (h *Hub) InitRuntimeDone(status Status, errorType string) {
	level := status.level(slog.LevelDebug)
	if h == nil || !h.initialising.Load() || !h.reports(level) {
		return
	}
	h.report(Event{Type: "platform.initRuntimeDone", Level: level}, func(b []byte) []byte {
		b = appendField(b, `{"initializationType":`, h.initializationType())
		b = appendField(b, `,"status":`, string(status))
		b = append(b, `,"phase":"init"`...)
		return append(appendErrorType(b, errorType), '}')
	}, nil)
}

// InitReport reports that the initialisation, extensions included, is over.
func (h *Hub) InitReport(status Status, errorType string) {
	level := status.level(slog.LevelInfo)
	if h == nil || !h.initialising.CompareAndSwap(true, false) || !h.reports(level) {
		return
	}
	took := h.sinceInitStart()
	text := func(b []byte) []byte {
		b = fmt.Appendf(b, "INIT_REPORT Init Duration: %.2f ms\tPhase: init\tStatus: %s", milliseconds(took), status)
		return appendTextError(b, errorType)
	}
	if status == Success {
		text = nil
	}
	h.report(Event{Type: "platform.initReport", Level: level}, func(b []byte) []byte {
		b = appendField(b, `{"initializationType":`, h.initializationType())
		b = appendMilliseconds(b, `,"metrics":{"durationMs":`, took)
		b = appendField(b, `},"phase":"init","status":`, string(status))
		return append(appendErrorType(b, errorType), '}')
	}, text)
}

func (h *Hub) sinceInitStart() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.begun)
}

// ExtensionState reports how far an extension came in the initialisation: a state
// of AWS's ("Ready"), the events it gets, and the type of its error if it has one.
func (h *Hub) ExtensionState(name, state string, events []string, errorType string) {
	level := slog.LevelInfo
	if errorType != "" {
		level = slog.LevelWarn
	}
	if h == nil || !h.initialising.Load() || !h.reports(level) {
		return
	}
	h.report(Event{Type: "platform.extension", Level: level}, func(b []byte) []byte {
		b = appendField(b, `{"name":`, name)
		b = appendField(b, `,"state":`, state)
		b = appendStrings(b, `,"events":`, events)
		return append(appendErrorType(b, errorType), '}')
	}, func(b []byte) []byte {
		b = fmt.Appendf(b, "EXTENSION\tName: %s\tState: %s\tEvents: [%s]", name, state, strings.Join(events, ", "))
		return appendTextError(b, errorType)
	})
}

// subscribed reports a subscription.
func (h *Hub) subscribed(name string, to category) {
	const level = slog.LevelInfo
	if !h.reports(level) {
		return
	}
	h.report(Event{Type: "platform.telemetrySubscription", Level: level}, func(b []byte) []byte {
		b = appendField(b, `{"name":`, name)
		b = append(b, `,"state":"Subscribed"`...)
		return append(appendStrings(b, `,"types":`, to.names()), '}')
	}, func(b []byte) []byte {
		return fmt.Appendf(b, "TELEMETRY\tName: %s\tState: Subscribed\tTypes: [%s]", name, strings.Join(to.names(), ", "))
	})
}

// Tracing is the X-Ray context of an invocation.
type Tracing struct {
	// SpanID is that of the segment the platform made; empty if it made none.
	SpanID string
	// Header is the trace header; without one that is sampled there is no context.
	Header string
}

// Start reports an invocation that the runtime is about to be handed.
func (h *Hub) Start(requestID string, tracing Tracing) {
	const level = slog.LevelDebug
	if !h.reports(level) {
		return
	}
	h.report(Event{Type: "platform.start", RequestID: requestID, Level: level}, func(b []byte) []byte {
		b = appendField(b, `{"requestId":`, requestID)
		b = appendFieldUnless(b, `,"version":`, h.cfg.Version)
		b = appendFieldUnless(b, `,"functionArn":`, h.cfg.FunctionARN)
		return append(tracing.append(b), '}')
	}, func(b []byte) []byte {
		return append(append(append(append(b, "START RequestId: "...), requestID...), " Version: "...), h.cfg.Version...)
	})
}

// Report is an invocation that has ended.
type Report struct {
	RequestID string
	Status    Status
	// ErrorType is empty after a success.
	ErrorType string
	Tracing   Tracing
	// Handed is when the runtime was given the event, Answered when its answer
	// began, Done when it was complete, or given up. Answered is zero if it never
	// began.
	Handed, Answered, Done time.Time
	// ProducedBytes is the size of the answer.
	ProducedBytes int64
}

// Report reports an invocation that has ended; on demand also that the runtime is
// done with it.
func (h *Hub) Report(e Report) {
	if level := e.Status.level(slog.LevelDebug); h != nil && h.cfg.OnDemand && h.reports(level) {
		h.report(Event{Type: "platform.runtimeDone", RequestID: e.RequestID, Level: level}, e.appendRuntimeDone, nil)
	}
	level := e.Status.level(slog.LevelInfo)
	if !h.reports(level) {
		return
	}
	h.report(Event{Type: "platform.report", RequestID: e.RequestID, Level: level}, e.append, e.appendText)
}

func (e Report) append(b []byte) []byte {
	b = appendField(b, `{"requestId":`, e.RequestID)
	b = appendField(b, `,"status":`, string(e.Status))
	b = appendFixed(b, `,"metrics":{"durationMs":`, e.Done.Sub(e.Handed))
	return e.appendRest(append(b, '}'))
}

func (e Report) appendRuntimeDone(b []byte) []byte {
	b = appendField(b, `{"requestId":`, e.RequestID)
	b = appendField(b, `,"status":`, string(e.Status))
	b = appendInt(b, `,"metrics":{"producedBytes":`, e.ProducedBytes)
	b = appendMilliseconds(b, `,"durationMs":`, e.Done.Sub(e.Handed))
	return e.appendRest(append(b, '}'))
}

// appendRest is what both records end with.
func (e Report) appendRest(b []byte) []byte {
	b = e.Tracing.append(b)
	if !e.Answered.IsZero() {
		b = appendSpan(append(b, `,"spans":[`...), "responseLatency", e.Handed, e.Answered)
		b = appendSpan(append(b, ','), "responseDuration", e.Answered, e.Done)
		b = append(b, ']')
	}
	return append(appendErrorType(b, e.ErrorType), '}')
}

func (e Report) appendText(b []byte) []byte {
	b = append(append(append(b, "END RequestId: "...), e.RequestID...), '\n')
	b = fmt.Appendf(b, "REPORT RequestId: %s\tDuration: %.2f ms", e.RequestID, milliseconds(e.Done.Sub(e.Handed)))
	if e.Status == Success {
		return b
	}
	return appendTextError(append(append(b, "\tStatus: "...), e.Status...), e.ErrorType)
}

func appendTextError(b []byte, errorType string) []byte {
	if errorType == "" {
		return b
	}
	return append(append(b, "\tError Type: "...), errorType...)
}

// append renders the context if it is sampled, as AWS does.
func (t Tracing) append(b []byte) []byte {
	if !strings.Contains(t.Header, "Root=") || !strings.Contains(t.Header, "Sampled=1") {
		return b
	}
	b = append(b, `,"tracing":{`...)
	if t.SpanID != "" {
		b = append(appendField(b, `"spanId":`, t.SpanID), ',')
	}
	return append(appendField(b, `"type":"X-Amzn-Trace-Id","value":`, t.Header), '}')
}

// logDropped tells the function's log that events of a subscriber were dropped.
func (h *Hub) logDropped(l loss, reason string) {
	const level = slog.LevelWarn
	if !h.logs(level) {
		return
	}
	e := Event{Type: "platform.logsDropped", Level: level, Text: droppedEvent(time.Now(), l, reason)}
	if !h.cfg.JSON {
		e.Text = fmt.Appendf(nil, "LOGS_DROPPED Records: %d\tBytes: %d\tReason: %s", l.records, l.bytes, reason)
	}
	h.cfg.Sink(e)
}

// droppedEvent is what a subscriber is told.
func droppedEvent(now time.Time, l loss, reason string) []byte {
	b := appendHead(make([]byte, 0, noteBytes), now, "platform.logsDropped")
	b = appendInt(b, `{"droppedBytes":`, int64(l.bytes))
	b = appendInt(b, `,"droppedRecords":`, int64(l.records))
	b = appendField(b, `,"reason":`, reason)
	return append(b, "}}"...)
}

// logs tells whether the function's log takes an event of a level.
func (h *Hub) logs(level slog.Level) bool {
	return h != nil && h.cfg.Sink != nil && (!h.cfg.JSON || level >= h.cfg.SystemLevel)
}

// reports tells whether anybody takes a platform event of a level.
func (h *Hub) reports(level slog.Level) bool { return h.wants(platform) || h.logs(level) }

// report gives an event to subscribers and the log. Record renders it as an object,
// text as plain text; a nil text has none.
func (h *Hub) report(e Event, record, text func([]byte) []byte) {
	now := time.Now()
	buf := h.buffer()
	defer h.recycle(buf)
	wanted, logged := h.wants(platform), h.logs(e.Level)
	if wanted || logged && h.cfg.JSON {
		buf.b = append(record(appendHead(buf.b[:0], now, e.Type)), '}')
		e.Text = buf.b
	}
	if wanted {
		h.publish(platform, buf.b, now)
	}
	switch {
	case !logged:
		return
	case !h.cfg.JSON && text == nil:
		return
	case !h.cfg.JSON:
		buf.b = text(buf.b[:0])
		e.Text = buf.b
	}
	h.cfg.Sink(e)
}
