package lambdaapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hearth-compute/hearth/controlplane"
)

// BenchmarkInvoke is what the API adds to an invoke, over TCP.
func BenchmarkInvoke(b *testing.B) {
	s := bare()
	s.cfg.Invoker = router(func(req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
		return controlplane.InvokeResult{Executed: "1", Payload: req.Payload}, nil
	})
	lis, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	defer func() { _ = errors.Join(s.Close(), <-served) }()
	for _, size := range []int{2, 1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			conn, err := net.Dial("tcp", lis.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			in := bufio.NewReader(conn)
			request := fmt.Sprintf("POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n\"%s\"",
				size, strings.Repeat("x", size-2))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := io.WriteString(conn, request); err != nil {
					b.Fatal(err)
				}
				w, err := http.ReadResponse(in, nil)
				if err != nil || w.StatusCode != http.StatusOK {
					b.Fatalf("%+v %v", w, err)
				}
				if _, err := io.Copy(io.Discard, w.Body); err != nil {
					b.Fatal(err)
				}
				_ = w.Body.Close()
			}
		})
	}
}
