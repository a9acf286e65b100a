// Package sigv4 verifies that requests were signed with AWS Signature Version 4
// by the holder of a known access key: in headers, in the query of a presigned
// URL, and piece by piece in the body ("aws-chunked").
//
// # Model
//
// Verification has two halves. Begin checks everything that needs no body: the
// form, the time, the scope, the key, and the signature too if the request says
// the hash of its body. Finish gets the body. A stranger is refused before
// anything of a body is read.
//
// # Invariants
//
//  1. What Finish returns without an error was signed, all of it, by the holder
//     of the key, unless its client said UNSIGNED-PAYLOAD, and signed that.
//  2. Signatures and tokens are compared in constant time. Errors do not repeat
//     what clients sent as a secret.
//
// # Concurrency
//
// A Verifier may be called from everywhere at once; it takes no lock. Requests
// belong to their caller.
package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	terminator = "aws4_request"
	timeFormat = "20060102T150405Z"
	// skew is how far the clocks of client and service may be apart.
	skew = 5 * time.Minute
	// maxExpires is how long a presigned URL may be valid.
	maxExpires = 7 * 24 * time.Hour

	unsignedPayload = "UNSIGNED-PAYLOAD"
	signedChunks    = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	emptyHash       = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// Verifier verifies requests to one service in one region.
type Verifier struct {
	keys            *Keys
	region, service string
	// buffers are what canonical requests are written to.
	buffers sync.Pool
}

// New returns a Verifier. keys may change while it is used.
func New(keys *Keys, region, service string) *Verifier {
	return &Verifier{keys: keys, region: region, service: service, buffers: sync.Pool{New: func() any { return new([]byte) }}}
}

// Request is a request on its way through verification.
type Request struct {
	v   *Verifier
	r   *http.Request
	key *key
	claim
	signer *signer
	// payload is what the client says the hash of the body is; empty if it does
	// not.
	payload string
}

// Caller is the access key the request says it is signed with, and the name that
// the key has in the file.
func (q *Request) Caller() (accessKey, name string) { return q.key.id, q.key.name }

// Begin checks what can be checked before the body is read. Errors: *Error.
func (v *Verifier) Begin(r *http.Request, now time.Time) (*Request, error) {
	c, err := read(r)
	if err != nil {
		return nil, err
	}
	q := &Request{v: v, r: r, claim: c, payload: r.Header.Get("X-Amz-Content-Sha256")}
	if err := q.checkTime(now); err != nil {
		return nil, err
	}
	if err := q.checkForm(r); err != nil {
		return nil, err
	}
	if err := q.checkScope(v.region, v.service); err != nil {
		return nil, err
	}
	if q.key = v.keys.find(q.accessKey); q.key == nil || !q.key.hasToken(q.token) {
		return nil, &Error{"UnrecognizedClientException", "The security token included in the request is invalid."}
	}
	q.signer = q.key.signer(q.day, v.region, v.service)
	if q.payload == "" {
		return q, nil
	}
	if strings.HasPrefix(q.payload, "STREAMING-") && q.payload != signedChunks {
		return nil, incomplete("x-amz-content-sha256 %q is not supported.", q.payload)
	}
	return q, q.check(q.payload)
}

// Finish checks the body, nil if there is none, and returns it without the
// signatures that may be in it. The body is changed. Errors: *Error.
func (q *Request) Finish(body []byte) ([]byte, error) {
	switch q.payload {
	case "":
		return body, q.check(hashOf(body))
	case unsignedPayload:
		return body, nil
	case signedChunks:
		return q.unchunk(body)
	}
	if !hmac.Equal([]byte(q.payload), []byte(hashOf(body))) {
		return nil, mismatch()
	}
	return body, nil
}

// check compares the signature of the whole request.
func (q *Request) check(payload string) error {
	buffer, _ := q.v.buffers.Get().(*[]byte)
	defer q.v.buffers.Put(buffer)
	b := q.canonical((*buffer)[:0], payload)
	sum := sha256.Sum256(b)
	b = append(b[:0], algorithm+"\n"...)
	b = append(b, q.date...)
	b = q.appendScope(append(b, '\n'))
	b = appendHex(append(b, '\n'), sum[:])
	*buffer = b
	return q.signer.check(b, q.signature)
}

// appendScope appends the credential scope.
func (q *Request) appendScope(b []byte) []byte {
	b = append(b, q.day...)
	b = append(append(b, '/'), q.v.region...)
	b = append(append(b, '/'), q.v.service...)
	return append(b, "/"+terminator...)
}

// signer signs with the key of a day.
type signer struct {
	day string
	// macs are keyed.
	macs sync.Pool
}

func newSigner(secret, day, region, service string) *signer {
	derived := []byte("AWS4" + secret)
	for _, text := range []string{day, region, service, terminator} {
		m := hmac.New(sha256.New, derived)
		_, _ = m.Write([]byte(text)) // does not fail
		derived = m.Sum(nil)
	}
	return &signer{day: day, macs: sync.Pool{New: func() any { return hmac.New(sha256.New, derived) }}}
}

// check compares a signature, in hexadecimal, with that of text.
func (s *signer) check(text []byte, signature string) error {
	m, _ := s.macs.Get().(hash.Hash)
	defer s.macs.Put(m)
	m.Reset()
	_, _ = m.Write(text) // does not fail
	var sum [sha256.Size]byte
	var want [2 * sha256.Size]byte
	if !hmac.Equal(appendHex(want[:0], m.Sum(sum[:0])), []byte(signature)) {
		return mismatch()
	}
	return nil
}

// key is one access key.
type key struct {
	id, secret, token, name string
	// last is the signer of the day that was asked for last: at midnight two days
	// may take turns for some minutes.
	last atomic.Pointer[signer]
}

// signer returns the signer of a day.
func (k *key) signer(day, region, service string) *signer {
	if s := k.last.Load(); s != nil && s.day == day {
		return s
	}
	s := newSigner(k.secret, day, region, service)
	k.last.Store(s)
	return s
}

// hasToken reports whether a session token is that of the key: none, mostly.
func (k *key) hasToken(token string) bool { return hmac.Equal([]byte(k.token), []byte(token)) }

func hashOf(body []byte) string {
	if len(body) == 0 {
		return emptyHash
	}
	sum := sha256.Sum256(body)
	return string(appendHex(nil, sum[:]))
}

func appendHex(b, sum []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range sum {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}
