package sigv4

import (
	"bytes"
	"crypto/sha256"
	"strconv"
	"strings"
)

// maxChunkHeader is how long the line before a piece may be.
const maxChunkHeader = 256

// unchunk takes a body of signed pieces apart, in place:
//
//	SIZE;chunk-signature=SIGNATURE\r\n
//	content\r\n
//
// Each signature covers the one before, the first that of the request. The last
// piece is empty.
func (q *Request) unchunk(body []byte) ([]byte, error) {
	out, before := body[:0], q.signature
	for {
		content, signature, rest, err := chunk(body)
		if err != nil {
			return nil, err
		}
		if err := q.checkChunk(content, before, signature); err != nil {
			return nil, err
		}
		before = signature
		if len(content) == 0 {
			return q.decoded(out, rest)
		}
		out, body = append(out, content...), rest
	}
}

// decoded checks what a request says about the body without its signatures.
func (q *Request) decoded(content, rest []byte) ([]byte, error) {
	length := q.r.Header.Get("X-Amz-Decoded-Content-Length")
	switch {
	case len(rest) > 0:
		return nil, broken("there is more after its last chunk")
	case length != "" && length != strconv.Itoa(len(content)):
		return nil, broken("it is not as long as X-Amz-Decoded-Content-Length says")
	}
	return content, nil
}

// chunk cuts the first piece off. The signature is a copy: the piece before
// moves over it.
func chunk(body []byte) (content []byte, signature string, rest []byte, err error) {
	end := bytes.Index(body[:min(len(body), maxChunkHeader)], []byte("\r\n"))
	if end < 0 {
		return nil, "", nil, broken("a chunk has no header")
	}
	text, signature, ok := strings.Cut(string(body[:end]), ";chunk-signature=")
	size, err := strconv.ParseUint(text, 16, 31)
	if !ok || err != nil {
		return nil, "", nil, broken("a chunk has a strange header")
	}
	body = body[end+2:]
	if uint64(len(body)) < size+2 || body[size] != '\r' || body[size+1] != '\n' {
		return nil, "", nil, broken("a chunk is not as long as it says")
	}
	return body[:size], signature, body[size+2:], nil
}

func broken(why string) error {
	return incomplete("The body is not a sequence of signed chunks: %s.", why)
}

// checkChunk compares the signature of a piece.
func (q *Request) checkChunk(content []byte, before, signature string) error {
	sum := sha256.Sum256(content)
	b := append([]byte(nil), algorithm+"-PAYLOAD\n"...)
	b = append(append(b, q.date...), '\n')
	b = append(q.appendScope(b), '\n')
	b = append(append(b, before...), '\n')
	b = append(b, emptyHash+"\n"...)
	return q.signer.check(appendHex(b, sum[:]), signature)
}
