// Command noop is the function that benchmarks run: it answers every event with
// itself, after the time in SLEEP. By itself it is an ordinary aws-lambda-go function; with CLIENT=keep it
// speaks the Runtime API over as many connections as it may run invocations at
// once, and keeps them, as the clients of other languages do.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	if os.Getenv("CLIENT") != "keep" {
		pause, _ := time.ParseDuration(os.Getenv("SLEEP")) // none is none
		lambda.Start(func(_ context.Context, event json.RawMessage) (json.RawMessage, error) {
			time.Sleep(pause)
			return event, nil
		})
		return
	}
	n, err := strconv.Atoi(os.Getenv("AWS_LAMBDA_MAX_CONCURRENCY"))
	if err != nil {
		n = 1
	}
	var workers sync.WaitGroup
	for range n {
		workers.Go(func() {
			_, _ = fmt.Fprintln(os.Stderr, "noop:", work(os.Getenv("AWS_LAMBDA_RUNTIME_API")))
			os.Exit(1)
		})
	}
	workers.Wait()
}

const (
	next   = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: runtime\r\nUser-Agent: noop\r\n\r\n"
	answer = "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: runtime\r\nUser-Agent: noop\r\n" +
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)

// work takes and answers events over one connection until it breaks.
func work(address string) error {
	conn, err := net.Dial("tcp", address) //nolint:gosec,noctx // G704: the address is the platform's; it lives as long as the process
	if err != nil {
		return err
	}
	in := bufio.NewReader(conn)
	out := []byte(next)
	for {
		if _, err := conn.Write(out); err != nil {
			return err
		}
		event, err := read(in, "200")
		if err != nil {
			return err
		}
		out = append(fmt.Appendf(out[:0], answer, event.id, len(event.body)), event.body...)
		if _, err := conn.Write(out); err != nil {
			return err
		}
		if _, err := read(in, "202"); err != nil {
			return err
		}
		out = append(out[:0], next...)
	}
}

type response struct {
	id   string
	body []byte
}

// read reads one response of that status.
func read(in *bufio.Reader, status string) (r response, err error) {
	length := 0
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return r, err
		}
		text := string(line[:max(0, len(line)-len("\r\n"))])
		if first && !strings.HasPrefix(text, "HTTP/1.1 "+status) {
			return r, errors.New("got " + text)
		}
		if text == "" {
			break
		}
		switch name, value, _ := strings.Cut(text, ": "); name {
		case "Lambda-Runtime-Aws-Request-Id":
			r.id = value
		case "Content-Length":
			if length, err = strconv.Atoi(value); err != nil {
				return r, err
			}
		}
	}
	r.body = make([]byte, length)
	_, err = io.ReadFull(in, r.body)
	return r, err
}
