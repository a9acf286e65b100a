package telemetry

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// buffer is what events are rendered into.
type buffer struct{ b []byte }

// buffer returns one with anything in it.
func (h *Hub) buffer() *buffer {
	if buf, ok := h.buffers.Get().(*buffer); ok {
		return buf
	}
	return &buffer{b: make([]byte, 0, 512)}
}

// recycle gives a buffer back.
func (h *Hub) recycle(buf *buffer) {
	if cap(buf.b) <= maxSpare {
		h.buffers.Put(buf)
	}
}

// appendHead begins an event; its record and a closing brace follow.
func appendHead(b []byte, now time.Time, kind string) []byte {
	b = append(b, `{"time":"`...)
	b = appendTime(b, now)
	b = append(b, `","type":"`...)
	b = append(b, kind...)
	return append(b, `","record":`...)
}

// appendTime appends a time as "2006-01-02T15:04:05.000Z". The standard library is
// much faster at RFC 3339.
func appendTime(b []byte, t time.Time) []byte {
	b = t.UTC().AppendFormat(b, time.RFC3339)
	const second = 1000 // in place of the Z, for its zeros
	b = strconv.AppendInt(b[:len(b)-1], int64(second+t.Nanosecond()/int(time.Millisecond)), 10)
	b[len(b)-len("000")-1] = '.'
	return append(b, 'Z')
}

// appendField appends what comes before a value, and the value as a string.
func appendField(b []byte, before, value string) []byte {
	return appendString(append(b, before...), value)
}

func appendFieldUnless(b []byte, before, value string) []byte {
	if value == "" {
		return b
	}
	return appendField(b, before, value)
}

func appendErrorType(b []byte, errorType string) []byte {
	return appendFieldUnless(b, `,"errorType":`, errorType)
}

func appendInt(b []byte, before string, value int64) []byte {
	return strconv.AppendInt(append(b, before...), value, 10)
}

func appendStrings(b []byte, before string, values []string) []byte {
	b = append(append(b, before...), '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, v)
	}
	return append(b, ']')
}

// milliseconds has microseconds, as all durations in events.
func milliseconds(d time.Duration) float64 {
	return float64(max(0, d).Microseconds()) / 1000 //nolint:mnd // per millisecond
}

func appendMilliseconds(b []byte, before string, d time.Duration) []byte {
	return strconv.AppendFloat(append(b, before...), milliseconds(d), 'f', -1, 64)
}

// appendFixed always has three decimals.
func appendFixed(b []byte, before string, d time.Duration) []byte {
	return strconv.AppendFloat(append(b, before...), milliseconds(d), 'f', 3, 64)
}

func appendSpan(b []byte, name string, start, end time.Time) []byte {
	b = appendField(b, `{"name":`, name)
	b = append(b, `,"start":"`...)
	b = appendTime(b, start)
	return append(appendMilliseconds(b, `","durationMs":`, end.Sub(start)), '}')
}

// isObject tells whether a line is a JSON object.
func isObject(line []byte) bool {
	trimmed := bytes.TrimLeft(line, " \t")
	return len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(line)
}

// appendString appends a string of JSON. What is not UTF-8 becomes the replacement
// character, as in encoding/json.
func appendString[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			if _, size := utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)])); size > 1 {
				i += size
				continue
			}
		}
		b = appendEscaped(append(b, s[start:i]...), c)
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// appendEscaped appends a byte that cannot stand in a string as it is.
func appendEscaped(b []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	switch {
	case c >= utf8.RuneSelf:
		return append(b, "\ufffd"...)
	case c == '"' || c == '\\':
		return append(b, '\\', c)
	case c == '\t':
		return append(b, `\t`...)
	case c == '\n':
		return append(b, `\n`...)
	}
	return append(append(b, `\u00`...), hex[c>>4], hex[c&15])
}
