package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/hearth-compute/hearth/cmd/internal/stack"
)

// request is one POST as it goes over the wire, the same every time: what it
// costs to make it is not what is measured.
type request struct {
	address string
	bytes   []byte
}

// newRequest makes a request, and signs it if it is signed.
func newRequest(address, path string, signed bool) (request, error) {
	r, err := http.NewRequest(http.MethodPost, "http://"+address+path, strings.NewReader(event)) //nolint:noctx // it is only written down
	if err != nil {
		return request{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	if signed {
		hash := sha256.Sum256([]byte(event))
		key := aws.Credentials{AccessKeyID: stack.AccessKey, SecretAccessKey: stack.SecretKey}
		if err := v4.NewSigner().SignHTTP(context.Background(), key, r, hex.EncodeToString(hash[:]), "lambda", stack.Region, time.Now()); err != nil {
			return request{}, fmt.Errorf("signing a request: %w", err)
		}
	}
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		return request{}, fmt.Errorf("writing a request: %w", err)
	}
	return request{address, b.Bytes()}, nil
}

// caller sends the request over a connection of its own and keeps it.
func (r request) caller() (call func(context.Context) error, hangUp func()) {
	var conn net.Conn
	var in *bufio.Reader
	hangUp = func() {
		if conn != nil {
			_ = conn.Close()
			conn = nil
		}
	}
	return func(ctx context.Context) (err error) {
		defer func() {
			if err != nil {
				hangUp()
			}
		}()
		if conn == nil {
			if conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", r.address); err != nil {
				return err
			}
			in = bufio.NewReader(conn)
		}
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return err
		}
		if _, err := conn.Write(r.bytes); err != nil {
			return err
		}
		return readAnswer(in)
	}, hangUp
}

var errNotAnAnswer = errors.New("not an answer to a benchmark's request")

// readAnswer reads one response and requires that it is the event.
func readAnswer(in *bufio.Reader) error {
	length, failed := -1, ""
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("reading an answer: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch {
		case first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")):
			failed = string(line)
		case len(line) == 0:
			return readBody(in, length, failed)
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return fmt.Errorf("content length: %w", err)
			}
		case bytes.EqualFold(name, []byte("X-Amz-Function-Error")):
			failed = string(line)
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			length = -2
		}
	}
}

func readBody(in *bufio.Reader, length int, failed string) error {
	const chunked, most = -2, 64 << 10
	var body []byte
	var err error
	switch {
	case length == chunked:
		body, err = readChunks(in)
	case length < 0 || length > most:
		return fmt.Errorf("content length %d: %w", length, errNotAnAnswer)
	default:
		body = make([]byte, length)
		_, err = io.ReadFull(in, body)
	}
	if err == nil && (failed != "" || string(body) != event) {
		err = fmt.Errorf("%s %.200q: %w", failed, body, errNotAnAnswer)
	}
	return err
}

func readChunks(in *bufio.Reader) (body []byte, err error) {
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(strings.TrimSpace(line), 16, 16)
		if err != nil {
			return nil, err
		}
		piece := make([]byte, n+2)
		if _, err := io.ReadFull(in, piece); err != nil {
			return nil, err
		}
		if n == 0 {
			return body, nil
		}
		body = append(body, piece[:n]...)
	}
}
