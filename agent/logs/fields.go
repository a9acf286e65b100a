package logs

import (
	"bytes"
	"time"
)

// fields are what the platform reads in a line. All point into the line.
type fields struct {
	request, level, time []byte
	// object says that the line is a JSON object, or looks like one.
	object bool
}

// uuidLength is that of a request id.
const uuidLength = len("8476a536-e9f4-11e8-9739-2dfe598c3fcd")

// isUUID reports whether text is a UUID as request ids are written.
func isUUID(text []byte) bool {
	if len(text) != uuidLength {
		return false
	}
	for i, c := range text {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

// scan reads a line.
func scan(line []byte) fields {
	if trimmed := bytes.TrimLeft(line, " \t"); len(trimmed) > 0 && trimmed[0] == '{' {
		return scanObject(trimmed)
	}
	return fields{request: textRequest(line)}
}

// textFields is how many fields of a line a request id is looked for in: Node
// writes it second, Python third.
const textFields = 4

// textRequest finds the request id of a line of text: after "RequestId: ", as
// the platform and Java's logger write it, or as a field between tabs.
func textRequest(line []byte) []byte {
	if _, after, ok := bytes.Cut(line, []byte("RequestId:")); ok {
		after = bytes.TrimPrefix(after, []byte{' '})
		if len(after) >= uuidLength && isUUID(after[:uuidLength]) {
			return after[:uuidLength]
		}
	}
	rest := line
	for range textFields {
		field, after, more := bytes.Cut(rest, []byte{'\t'})
		if isUUID(field) {
			return field
		}
		if !more {
			return nil
		}
		rest = after
	}
	return nil
}

// scanObject reads the members of a JSON object that mean something here, in one
// pass: it does not care whether the rest is valid. Members of "record" and
// "lambda_context" count, too.
func scanObject(line []byte) fields {
	o := object{fields: fields{object: true}}
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '{', '[':
			o.open(line[i])
		case '}', ']':
			o.close()
		case ',':
			o.key = nil
		case '"':
			end := closing(line, i+1)
			if end < 0 {
				return o.fields
			}
			o.text(line[i+1:end], isKey(line, end+1))
			i = end
		}
	}
	return o.fields
}

// object is an object that is being read.
type object struct {
	fields

	depth int
	// inside is the depth whose members count.
	inside int
	// key is that of the member whose value comes.
	key []byte
}

func (o *object) open(bracket byte) {
	o.depth++
	if bracket == '{' && (o.depth == 1 || o.inside == o.depth-1 && nests(o.key)) {
		o.inside = o.depth
	}
	o.key = nil
}

func (o *object) close() {
	if o.depth == o.inside {
		o.inside = min(o.inside-1, 1)
	}
	o.depth--
	o.key = nil
}

func (o *object) text(text []byte, isKey bool) {
	switch {
	case o.key != nil:
		o.member(o.key, text, o.depth)
		o.key = nil
	case isKey && o.depth == o.inside:
		o.key = text
	}
}

// closing finds the quote that ends the string that begins at i; -1 if none.
func closing(line []byte, i int) int {
	for i < len(line) {
		n := bytes.IndexByte(line[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		escapes := 0
		for j := i - 1; line[j] == '\\'; j-- {
			escapes++
		}
		if escapes%2 == 0 {
			return i
		}
		i++
	}
	return -1
}

// isKey reports whether a colon follows.
func isKey(line []byte, i int) bool {
	for ; i < len(line); i++ {
		switch line[i] {
		case ' ', '\t', '\r', '\n':
		default:
			return line[i] == ':'
		}
	}
	return false
}

// nests says whether the members of a member count as the line's own.
func nests(key []byte) bool {
	switch string(key) {
	case "record", "lambda_context", "lambdaContext":
		return true
	}
	return false
}

// member takes one member with a string for its value; the first of several
// counts.
func (f *fields) member(key, value []byte, depth int) {
	switch string(key) {
	case "requestId", "AWSRequestId", "request_id", "awsRequestId", "aws_request_id", "function_request_id", "RequestId", "lambdaRequestId":
		if f.request == nil && isUUID(value) {
			f.request = value
		}
	case "level":
		if f.level == nil && depth == 1 {
			f.level = value
		}
	case "timestamp", "time", "@timestamp":
		if f.time == nil && depth == 1 {
			f.time = value
		}
	}
}

// AWS's levels, in order. The zero value is none of them.
type level int

const (
	levelTrace level = iota + 1
	levelDebug
	levelInfo
	levelWarn
	levelError
	levelFatal
)

// String is the level as AWS writes it; empty if it is none.
func (l level) String() string {
	return [...]string{levelTrace: "TRACE", levelDebug: "DEBUG", levelInfo: "INFO", levelWarn: "WARN", levelError: "ERROR", levelFatal: "FATAL"}[l]
}

// parseLevel reads a level as runtimes write it; zero if it is none.
func parseLevel(text string) level {
	for l, names := range [...][]string{
		levelTrace: {"trace"}, levelDebug: {"debug"}, levelInfo: {"info", "information"}, levelWarn: {"warn", "warning"},
		levelError: {"error"}, levelFatal: {"fatal", "critical"},
	} {
		for _, name := range names {
			if len(name) == len(text) && equalFold(text, name) {
				return level(l)
			}
		}
	}
	return 0
}

// equalFold compares ASCII; lower is in lower case.
func equalFold(text, lower string) bool {
	for i := range len(text) {
		if text[i]|0x20 != lower[i] {
			return false
		}
	}
	return true
}

// wanted reports whether a function's line is kept at a level, as AWS decides for
// functions that log JSON: by the member "level", which counts as INFO when it is
// missing, invalid or without a valid time. Here a level counts without a time,
// too, when that keeps the line. What is no JSON object is always kept.
func (f *fields) wanted(least level) bool {
	if !f.object || least <= levelTrace {
		return true
	}
	said := parseLevel(string(f.level))
	asAWS := said
	if said == 0 || !isTime(f.time) {
		asAWS = levelInfo
	}
	return max(said, asAWS) >= least
}

// isTime reports whether text is a time as RFC 3339 has it.
func isTime(text []byte) bool {
	const shortest = "2006-01-02T15:04:05Z"
	if len(text) < len(shortest) || text[10] != 'T' && text[10] != 't' {
		return false
	}
	_, err := time.Parse(time.RFC3339Nano, string(text))
	return err == nil
}
