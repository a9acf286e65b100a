package sigv4

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// canonical appends the canonical request: all that is signed but the time.
func (q *Request) canonical(b []byte, payload string) []byte {
	b = append(append(b, q.r.Method...), '\n')
	b = append(appendPath(b, q.r), '\n')
	b = append(appendQuery(b, q.r.URL.RawQuery, q.presigned), '\n')
	for name := range strings.SplitSeq(q.headers, ";") {
		b = append(append(b, name...), ':')
		b = append(appendHeader(b, q.r, name), '\n')
	}
	b = append(append(b, '\n'), q.headers...)
	return append(append(b, '\n'), payload...)
}

// appendPath appends the path as it came, escaped once more, as every service
// but S3 has it.
func appendPath(b []byte, r *http.Request) []byte {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if !strings.HasPrefix(path, "/") { // "GET http://host/path", or not from a server
		path = r.URL.EscapedPath()
	}
	if path == "" {
		return append(b, '/')
	}
	return appendEscaped(b, path, true)
}

// appendQuery appends the parameters in the order of their encoded names and
// values, without the signature of a presigned request.
func appendQuery(b []byte, raw string, presigned bool) []byte {
	if raw == "" {
		return b
	}
	var pairs []string
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if pair == "" || presigned && name == "X-Amz-Signature" {
			continue
		}
		pairs = append(pairs, encodedAgain(name)+"="+encodedAgain(value))
	}
	// "=" sorts after "-" and digits, which names may go on with.
	slices.SortFunc(pairs, func(x, y string) int {
		xName, xValue, _ := strings.Cut(x, "=")
		yName, yValue, _ := strings.Cut(y, "=")
		if c := strings.Compare(xName, yName); c != 0 {
			return c
		}
		return strings.Compare(xValue, yValue)
	})
	for i, pair := range pairs {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(b, pair...)
	}
	return b
}

// encodedAgain is text as SigV4 encodes it, however the client did.
func encodedAgain(text string) string {
	plain, err := url.QueryUnescape(text)
	if err != nil {
		plain = text // the API refuses it
	}
	return string(appendEscaped(nil, plain, false))
}

func appendEscaped(b []byte, text string, path bool) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(text) {
		c := text[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~", c) >= 0 || path && c == '/' {
			b = append(b, c)
			continue
		}
		b = append(b, '%', digits[c>>4], digits[c&15])
	}
	return b
}

// appendHeader appends the values of a header, without spaces around them and
// with single ones within.
func appendHeader(b []byte, r *http.Request, name string) []byte {
	values := r.Header[textproto.CanonicalMIMEHeaderKey(name)]
	switch {
	case name == "host":
		return appendTrimmed(b, r.Host)
	case name == "content-length" && len(values) == 0:
		return strconv.AppendInt(b, r.ContentLength, 10)
	}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendTrimmed(b, v)
	}
	return b
}

func appendTrimmed(b []byte, value string) []byte {
	start, space := len(b), false
	for i := range len(value) {
		c := value[i]
		if c == ' ' || c == '\t' {
			space = true
			continue
		}
		if space && len(b) > start {
			b = append(b, ' ')
		}
		space = false
		b = append(b, c)
	}
	return b
}
