package metrics

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// TraceHeader is an X-Amzn-Trace-Id.
type TraceHeader struct {
	// Root is the trace: "1-", eight digits, "-" and 24 digits. Parent is the
	// segment of the sender. Both may be empty.
	Root, Parent string
	// Sampled is "1", "0", or anything else when nobody has decided.
	Sampled string
	// Rest is everything else as it was, Lineage for example.
	Rest string
}

// ParseTraceHeader reads a header. What it does not understand is in Rest.
func ParseTraceHeader(text string) (h TraceHeader) {
	var rest []string
	for field := range strings.SplitSeq(text, ";") {
		field = strings.TrimSpace(field)
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "Root":
			h.Root = value
		case "Parent":
			h.Parent = value
		case "Sampled":
			h.Sampled = value
		case "":
		default:
			rest = append(rest, field)
		}
	}
	h.Rest = strings.Join(rest, ";")
	return h
}

// String returns the header; empty if it has no root.
func (h TraceHeader) String() string {
	if h.Root == "" {
		return ""
	}
	text := "Root=" + h.Root
	if h.Parent != "" {
		text += ";Parent=" + h.Parent
	}
	if h.Sampled != "" {
		text += ";Sampled=" + h.Sampled
	}
	if h.Rest != "" {
		text += ";" + h.Rest
	}
	return text
}

// Segment returns the header for what is called next: in a segment of its own,
// of a new trace if there is none.
func (h TraceHeader) Segment() TraceHeader {
	var id [20]byte
	_, _ = rand.Read(id[:]) // never fails
	if h.Root == "" {
		var at [4]byte
		binary.BigEndian.PutUint32(at[:], uint32(time.Now().Unix())) //nolint:gosec // until 2106
		h.Root = "1-" + hex.EncodeToString(at[:]) + "-" + hex.EncodeToString(id[8:])
	}
	h.Parent = hex.EncodeToString(id[:8])
	return h
}

// traceID is the root as OpenTelemetry has it.
func (h TraceHeader) traceID() (trace.TraceID, bool) {
	at, rest, ok := strings.Cut(strings.TrimPrefix(h.Root, "1-"), "-")
	if !ok || len(at) != 8 || len(h.Root) != len("1-")+8+1+24 {
		return trace.TraceID{}, false
	}
	id, err := trace.TraceIDFromHex(at + rest)
	return id, err == nil
}
