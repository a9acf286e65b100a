package telemetry

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// timeFormat is that of all times in events.
const timeFormat = "2006-01-02T15:04:05.000Z"

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
	b = now.UTC().AppendFormat(b, timeFormat)
	b = append(b, `","type":"`...)
	b = append(b, kind...)
	return append(b, `","record":`...)
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
	b = start.UTC().AppendFormat(b, timeFormat)
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
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		size := 1
		if c >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)])); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, s[start:i]...)
		switch {
		case c >= utf8.RuneSelf:
			b = append(b, "\ufffd"...)
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\n':
			b = append(b, `\n`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		}
		i += size
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
