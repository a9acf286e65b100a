package runtimeapi

import (
	"bytes"
	"math"
)

// hot is one of the requests that every invocation needs, complete and in the
// form that runtime clients send it.
type hot struct {
	// answer tells POST …/response from GET …/next.
	answer bool
	// id, contentType and body are of an answer. They lie in the buffer, but for a
	// body that came in several chunks.
	id, contentType, body []byte
	// chunked says that its head is complete and does not tell how long it is.
	chunked bool
	// size is how many bytes of the buffer it took.
	size int
}

// parsed is what became of parsing.
type parsed int

// The ways it can go.
const (
	// partial: more of it must come.
	partial parsed = iota
	// whole: it is a hot request, and complete.
	whole
	// other: it is any other request, or looks unusual. net/http knows.
	other
)

const (
	lineNext     = "GET " + pathBase + pathNext + " HTTP/1.1\r\n"
	lineAnswer   = "POST " + pathBase + pathInvocation
	lineResponse = "/response HTTP/1.1\r\n"
	// goTrailer is what aws-lambda-go announces, and sends only after an error.
	goTrailer = headerErrorBody + "," + headerErrorType
	// maxID is the longest request id there is.
	maxID = 128
)

// parseHot reads the request b begins with. It accepts less than net/http does:
// what it accepts, net/http would have read in the same way.
func parseHot(b []byte) (req hot, what parsed) {
	rest, what := req.line(b)
	if what != whole {
		return req, what
	}
	var f framing
	for {
		line, after, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok {
			return req, partial
		}
		rest = after
		if len(line) == 0 {
			break
		}
		if !f.header(line) {
			return req, other
		}
	}
	switch {
	case !f.host, f.said && f.chunked, !req.answer && (f.said || f.chunked), req.answer && !f.said && !f.chunked:
		return req, other
	}
	req.contentType, req.chunked = f.contentType, f.chunked
	switch {
	case f.length > smallAnswer:
		return req, other
	case f.chunked:
		req.body, rest, what = chunks(rest)
		if what != whole {
			return req, what
		}
	case f.length > len(rest):
		return req, partial
	case f.length > 0:
		req.body, rest = rest[:f.length], rest[f.length:]
	}
	req.size = len(b) - len(rest)
	return req, whole
}

// line reads the request line.
func (req *hot) line(b []byte) (rest []byte, what parsed) {
	if n := min(len(b), len(lineNext)); string(b[:n]) == lineNext[:n] {
		if n < len(lineNext) {
			return nil, partial
		}
		return b[n:], whole
	}
	n := min(len(b), len(lineAnswer))
	if string(b[:n]) != lineAnswer[:n] {
		return nil, other
	}
	b = b[n:]
	id := bytes.IndexByte(b, '/')
	switch {
	case id < 0 && len(b) <= maxID:
		return nil, partial
	case id <= 0 || id > maxID || bytes.ContainsFunc(b[:id], unusual):
		return nil, other
	}
	req.answer, req.id = true, b[:id]
	b = b[id:]
	n = min(len(b), len(lineResponse))
	if string(b[:n]) != lineResponse[:n] {
		return nil, other
	}
	if n < len(lineResponse) {
		return nil, partial
	}
	return b[n:], whole
}

// unusual tells characters that no request id has.
func unusual(c rune) bool {
	return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_'
}

// framing is what the header says about the body.
type framing struct {
	length int
	// said tells that there was a Content-Length.
	said, chunked bool
	host, typed   bool
	contentType   []byte
}

// header takes one line and reports whether it changes nothing that parseHot
// does not know.
func (f *framing) header(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 || bytes.ContainsFunc(line[:colon], unusual) {
		return false
	}
	value := bytes.Trim(line[colon+1:], " \t")
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	switch name := line[:colon]; {
	case is(name, "content-length"):
		n, ok := number(value, 10)
		ok = ok && !f.said
		f.length, f.said = n, true
		return ok
	case is(name, "transfer-encoding"):
		ok := !f.chunked && is(value, "chunked")
		f.chunked = true
		return ok
	case is(name, "host"):
		ok := !f.host && len(value) > 0 && !bytes.ContainsFunc(value, notOfHost)
		f.host = true
		return ok
	case is(name, "content-type"):
		ok := !f.typed
		f.contentType, f.typed = value, true
		return ok
	case is(name, "trailer"):
		return is(value, goTrailer)
	case is(name, "connection"):
		return is(value, "keep-alive")
	}
	return !changes(line[:colon])
}

func notOfHost(c rune) bool { return unusual(c) && c != '.' && c != ':' }

// changes tells headers that change how a request is to be answered.
func changes(name []byte) bool {
	for _, known := range [...]string{"expect", "upgrade", headerResponseMode, "te", "proxy-connection", "http2-settings"} {
		if is(name, known) {
			return true
		}
	}
	return false
}

// is compares without regard to the case of ASCII letters.
func is(b []byte, s string) bool { return len(b) == len(s) && bytes.EqualFold(b, []byte(s)) }

// number reads digits alone; it fits into 31 bits.
func number(b []byte, base int) (n int, ok bool) {
	if len(b) == 0 || len(b) > 9 {
		return 0, false
	}
	for _, c := range b {
		digit := 99
		switch {
		case c >= '0' && c <= '9':
			digit = int(c - '0')
		case c >= 'a' && c <= 'f':
			digit = int(c-'a') + 10
		case c >= 'A' && c <= 'F':
			digit = int(c-'A') + 10
		}
		if digit >= base {
			return 0, false
		}
		n = n*base + digit
	}
	return n, n <= math.MaxInt32
}

// chunks reads a chunked body without trailers.
func chunks(b []byte) (body, rest []byte, what parsed) {
	for pieces := 0; ; pieces++ {
		line, after, ok := bytes.Cut(b, []byte("\r\n"))
		if !ok && len(b) <= 9 {
			return nil, nil, partial
		}
		n, valid := number(line, 16)
		switch {
		case !ok || !valid:
			return nil, nil, other
		case n == 0 && len(after) < 2:
			return nil, nil, partial
		case n == 0 && after[0] == '\r' && after[1] == '\n':
			return body, after[2:], whole
		case n == 0: // trailers
			return nil, nil, other
		case len(after) < n+2:
			return nil, nil, partial
		case after[n] != '\r' || after[n+1] != '\n':
			return nil, nil, other
		}
		switch pieces {
		case 0:
			body = after[:n:n]
		default: // the first of them is copied here
			body = append(body, after[:n]...)
		}
		b = after[n+2:]
	}
}
