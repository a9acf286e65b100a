package runtimeapi_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// FuzzResponse answers an invocation, streamed or not, in every mode, with every
// trailer, cut at any place. Its caller gets exactly one end, a body only of what
// was sent, and the slot is free.
func FuzzResponse(f *testing.F) {
	for i, seed := range []struct{ mode, kind, errorType, errorBody, body string }{
		{"streaming", "text/plain", "", "", "whole"},
		{"streaming", "application/vnd.awslambda.http-integration-response", "Function.Midway", "e30=", "half"},
		{"", "application/json", "Runtime.\xff", "!", "{}"},
		{"buffered", "", "", "", ""},
		{"STREAMING", "\x00", "x", "e30=", strings.Repeat("x", 5000)},
	} {
		f.Add(i%2 == 0, i%3 != 0, seed.mode, seed.kind, seed.errorType, seed.errorBody, []byte(seed.body), i)
	}
	f.Fuzz(func(t *testing.T, stream, chunked bool, mode, kind, errorType, errorBody string, body []byte, cut int) {
		api := runtimeapi.New(runtimeapi.Config{Environment: "e", Concurrency: 1, Log: slog.New(slog.DiscardHandler)})
		lis := bufconn.Listen(64 << 10)
		served := make(chan error, 1)
		go func() { served <- api.Serve(t.Context(), steady{lis}) }()
		in := request(t, lis, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n")
		<-api.Ready()
		got := make(chan result, 1)
		go func() {
			out, err := api.Invoke(t.Context(), agent.Invocation{RequestID: "r", Timeout: time.Minute, Stream: stream}, nil)
			got <- result{out, err}
		}()
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		attack(t, lis, wire(chunked, mode, kind, errorType, errorBody, body, cut))
		// Whatever came of that: an answer that is not allowed any more, or the first.
		end := request(t, lis, "POST /2018-06-01/runtime/invocation/r/error HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		said, err := http.ReadResponse(end, nil)
		if err != nil || said.StatusCode != http.StatusAccepted && said.StatusCode != http.StatusBadRequest {
			t.Fatalf("got %v %v", said, err)
		}
		_ = said.Body.Close()
		r := <-got
		if r.err != nil {
			t.Fatal(r.err)
		}
		if r.out.Stream != nil && !stream {
			t.Error("got a stream nobody asked for")
		}
		holdsTogether(t, r.out, body)
	})
}

// holdsTogether wants an outcome that has nothing but what was sent.
func holdsTogether(t *testing.T, out agent.Outcome, body []byte) {
	t.Helper()
	sent, streamed := out.Payload, out.Stream != nil
	if streamed {
		text, last := all(out.Stream)
		sent, out = []byte(text), last
	}
	if out.FunctionError == "" && !bytes.Equal(sent, body) || streamed && !bytes.HasPrefix(body, sent) {
		t.Errorf("got %.100q of %.100q: %+v", sent, body, out)
	}
	if (out.FunctionError == "") != (out.ErrorType == "") {
		t.Errorf("got %+v", out)
	}
}

// wire is a response as it is sent, up to a place.
func wire(chunked bool, mode, kind, errorType, errorBody string, body []byte, cut int) []byte {
	var b bytes.Buffer
	_, _ = io.WriteString(&b, "POST /2018-06-01/runtime/invocation/r/response HTTP/1.1\r\nHost: x\r\nContent-Type: "+kind+"\r\n")
	if mode != "" {
		_, _ = io.WriteString(&b, "Lambda-Runtime-Function-Response-Mode: "+mode+"\r\n")
	}
	if !chunked {
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
		return b.Bytes()[:max(0, b.Len()-max(0, cut))]
	}
	_, _ = io.WriteString(&b, "Transfer-Encoding: chunked\r\nTrailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n")
	for rest := body; len(rest) > 0; {
		n := min(len(rest), 100)
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	fmt.Fprintf(&b, "0\r\nLambda-Runtime-Function-Error-Type: %s\r\nLambda-Runtime-Function-Error-Body: %s\r\n\r\n", errorType, errorBody)
	return b.Bytes()[:max(0, b.Len()-max(0, cut))]
}
