package runtimeapi

import (
	"bytes"
	"strconv"
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
	if rest, what = f.head(rest); what != whole {
		return req, what
	}
	if !f.fits(req.answer) {
		return req, other
	}
	req.contentType, req.chunked = f.contentType, f.chunked
	switch {
	case f.chunked:
		if req.body, rest, what = chunks(rest); what != whole {
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

// head takes all lines of a header and the empty one behind them.
func (f *framing) head(b []byte) (rest []byte, what parsed) {
	for {
		line, after, ok := bytes.Cut(b, []byte("\r\n"))
		switch {
		case !ok:
			return nil, partial
		case len(line) == 0:
			return after, whole
		case !f.header(line):
			return nil, other
		}
		b = after
	}
}

// fits tells whether the body is said to be as a hot request's is.
func (f *framing) fits(answer bool) bool {
	if !f.host || f.length > smallAnswer {
		return false
	}
	if answer {
		return f.said != f.chunked
	}
	return !f.said && !f.chunked
}

// header takes one line and reports whether it changes nothing that parseHot
// does not know.
func (f *framing) header(line []byte) bool {
	name, value, ok := bytes.Cut(line, []byte(":"))
	value = bytes.Trim(value, " \t")
	if !ok || len(name) == 0 || bytes.ContainsFunc(name, unusual) || bytes.ContainsFunc(value, control) {
		return false
	}
	return f.known(name, value)
}

// known is header for a line that is well formed.
func (f *framing) known(name, value []byte) bool {
	switch {
	case is(name, "content-length"):
		return once(&f.said) && number(&f.length, value, 10)
	case is(name, "transfer-encoding"):
		return once(&f.chunked) && is(value, "chunked")
	case is(name, "host"):
		return once(&f.host) && len(value) > 0 && !bytes.ContainsFunc(value, notOfHost)
	case is(name, "content-type"):
		f.contentType = value
		return once(&f.typed)
	case is(name, "trailer"):
		return is(value, goTrailer)
	case is(name, "connection"):
		return is(value, "keep-alive")
	}
	return !changes(name)
}

// once sets b and reports whether it was not set.
func once(b *bool) bool {
	first := !*b
	*b = true
	return first
}

func control(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }

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

// number reads digits alone into n; it fits into 31 bits.
func number(n *int, b []byte, base int) bool {
	const longest = 7
	if len(b) == 0 || len(b) > longest || b[0] == '+' || b[0] == '-' {
		return false
	}
	v, err := strconv.ParseInt(string(b), base, 32)
	*n = int(v)
	return err == nil
}

// chunks reads a chunked body without trailers.
func chunks(b []byte) (body, rest []byte, what parsed) {
	for pieces := 0; ; pieces++ {
		piece, after, what := chunk(b)
		switch {
		case what != whole:
			return nil, nil, what
		case piece == nil:
			return body, after, whole
		case pieces == 0:
			body = piece
		default: // the first of them is copied here
			body = append(body, piece...)
		}
		b = after
	}
}

// chunk reads one chunk; the last, which is empty, is nil.
func chunk(b []byte) (piece, rest []byte, what parsed) {
	const longest = 8 // the digits, and one more
	line, after, ok := bytes.Cut(b, []byte("\r\n"))
	if !ok && len(b) <= longest {
		return nil, nil, partial
	}
	n := 0
	valid := number(&n, line, 16)
	switch {
	case !ok || !valid:
		return nil, nil, other
	case len(after) < n+2:
		return nil, nil, partial
	case after[n] != '\r' || after[n+1] != '\n': // trailers are other, too
		return nil, nil, other
	case n == 0:
		return nil, after[2:], whole
	}
	return after[:n:n], after[n+2:], whole
}
