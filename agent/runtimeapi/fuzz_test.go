package runtimeapi_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// FuzzRequest sends what a hostile function might: bytes on a connection while
// an invocation runs. Whatever they are, the API stays up, the invocation is
// answered at most once and no slot is lost.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /2018-06-01/ping HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /2018-06-01/runtime/invocation/r/response HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok",
		"POST /2018-06-01/runtime/invocation/r/response HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nshort",
		"POST /2018-06-01/runtime/invocation/r/response HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Lambda-Runtime-Function-Error-Type\r\n\r\n2\r\nok\r\n0\r\nLambda-Runtime-Function-Error-Type: Function.X\r\nLambda-Runtime-Function-Error-Body: !\r\n\r\n",
		"POST /2018-06-01/runtime/invocation/r/error HTTP/1.1\r\nHost: x\r\nLambda-Runtime-Function-Error-Type: Function.\xff\r\nContent-Length: 0\r\n\r\n",
		"POST /2018-06-01/runtime/invocation/r/response HTTP/1.1\r\nHost: x\r\nLambda-Runtime-Function-Response-Mode: odd\r\nContent-Length: 0\r\n\r\n",
		"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{",
		"POST //2018-06-01/runtime//invocation/%2F/response HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, hostile []byte) {
		api := runtimeapi.New(runtimeapi.Config{Environment: "e", Concurrency: 2, Log: slog.New(slog.DiscardHandler)})
		lis := bufconn.Listen(64 << 10)
		ctx, cancel := context.WithCancelCause(t.Context())
		served := make(chan error, 1)
		go func() { served <- api.Serve(ctx, steady{lis}) }()
		in := request(t, lis, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n")
		<-api.Ready()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, err := api.Invoke(ctx, agent.Invocation{RequestID: "r", Timeout: time.Minute}, []byte("{}"))
			if err != nil {
				t.Errorf("got %v", err)
			}
		}()
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.Header.Get("Lambda-Runtime-Aws-Request-Id") != "r" {
			t.Fatalf("got %v %v", resp, err)
		}
		_ = resp.Body.Close()
		attack(t, lis, hostile)
		in = request(t, lis, "GET /2018-06-01/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if resp, err = http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("got %v %v", resp, err)
		}
		_ = resp.Body.Close()
		api.Exited(runtimeapi.Exit{Code: 1})
		<-done
		if api.InFlight() != 0 {
			t.Fatalf("got %d in flight", api.InFlight())
		}
		cancel(nil)
		if err := <-served; err != nil {
			t.Fatal(err)
		}
	})
}

// dial opens a connection that does not last long.
func dial(t *testing.T, lis *bufconn.Listener) net.Conn {
	t.Helper()
	conn, err := lis.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// request sends a request on a connection of its own and returns what answers.
func request(t *testing.T, lis *bufconn.Listener, text string) *bufio.Reader {
	t.Helper()
	conn := dial(t, lis)
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(conn)
}

// attack sends hostile bytes and leaves.
func attack(t *testing.T, lis *bufconn.Listener, hostile []byte) {
	t.Helper()
	conn := dial(t, lis)
	_, _ = conn.Write(hostile) // the server may hang up midway
	_ = conn.Close()
}
