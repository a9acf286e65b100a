package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	// stampLength is that of the time in a record.
	stampLength = len("2026-11-23T21:02:13.123456789Z")
	// longestRequest is the longest request id that is kept.
	longestRequest = 128
	headerStart    = "hearth-log 1 "
)

// stamp remembers the second it last wrote.
type stamp struct {
	second int64
	text   [stampLength]byte
}

// append appends a time as RFC 3339 with nine digits.
func (s *stamp) append(b []byte, at time.Time) []byte {
	if second := at.Unix(); second != s.second || s.text[0] == 0 {
		s.second = second
		copy(s.text[:], at.UTC().AppendFormat(make([]byte, 0, 64), "2006-01-02T15:04:05.000000000Z"))
	}
	nanos := at.Nanosecond()
	for i := stampLength - 2; i > stampLength-11; i-- {
		s.text[i] = byte('0' + nanos%10)
		nanos /= 10
	}
	return append(b, s.text[:]...)
}

// appendRecord appends one record. Line endings in the text become spaces.
func appendRecord(b []byte, s *stamp, at time.Time, source Source, request, text []byte) []byte {
	b = s.append(b, at)
	b = append(b, ' ', byte(source), ' ')
	if len(request) == 0 {
		b = append(b, '-')
	}
	b = append(b, request...)
	b = append(b, ' ')
	begin := len(b)
	b = append(b, text...)
	for rest := b[begin:]; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		rest[i] = ' '
		rest = rest[i+1:]
	}
	return append(b, '\n')
}

var errRecord = errors.New("not a record")

// parseRecord reads a record without its line ending. The line shares its text.
func parseRecord(record []byte) (Line, error) {
	if len(record) < stampLength+5 || record[stampLength] != ' ' || record[stampLength+2] != ' ' {
		return Line{}, errRecord
	}
	at, err := parseStamp(record[:stampLength])
	if err != nil {
		return Line{}, err
	}
	request, text, ok := bytes.Cut(record[stampLength+3:], []byte{' '})
	if !ok || len(request) > longestRequest {
		return Line{}, errRecord
	}
	line := Line{Time: at, Source: Source(record[stampLength+1]), Text: text}
	if !bytes.Equal(request, []byte{'-'}) {
		line.RequestID = string(request)
	}
	switch line.Source {
	case Stdout, Stderr, Extension, Platform, lost:
		return line, nil
	}
	return Line{}, errRecord
}

// parseStamp is the inverse of stamp.append, quicker than time.Parse.
func parseStamp(text []byte) (time.Time, error) {
	const layout = "0000-00-00T00:00:00.000000000Z"
	var fields [7]int
	field := 0
	for i, c := range text {
		switch {
		case layout[i] == '0' && c >= '0' && c <= '9':
			fields[field] = 10*fields[field] + int(c-'0')
		case layout[i] != '0' && layout[i] == c:
			field++
		default:
			return time.Time{}, errRecord
		}
	}
	return time.Date(fields[0], time.Month(fields[1]), fields[2], fields[3], fields[4], fields[5], fields[6], time.UTC), nil
}

// header is what a segment begins with.
type header struct {
	Tags

	// First is how many records the journal had before this segment.
	First int64 `json:"first"`
}

func appendHeader(b []byte, tags Tags, first int64) []byte {
	text, err := json.Marshal(header{tags, first})
	if err != nil {
		panic(err) // strings and a number
	}
	return append(append(append(b, headerStart...), text...), '\n')
}

// parseHeader reads a header without its line ending.
func parseHeader(line []byte) (h header, err error) {
	text, ok := bytes.CutPrefix(line, []byte(headerStart))
	if !ok {
		return h, errRecord
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return h, fmt.Errorf("%w: %w", errRecord, err)
	}
	return h, nil
}
