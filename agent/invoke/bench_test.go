package invoke_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/invoke"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

var errBenchDone = errors.New("benchmark is over")

// poll is a runtime client that keeps its connection and answers "ok".
func poll(conn net.Conn) error {
	in := bufio.NewReader(conn)
	for {
		if _, err := io.WriteString(conn, "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		id, err := discard(in)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok", id); err != nil {
			return err
		}
		if _, err := discard(in); err != nil {
			return err
		}
	}
}

// discard reads a response and returns its request id.
func discard(in *bufio.Reader) (id string, err error) {
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("Lambda-Runtime-Aws-Request-Id"), errors.Join(err, resp.Body.Close())
}

// agentAlone is the invoke path of an agent over real sockets: gRPC in, Runtime
// API out, with an environment of so many slots.
func agentAlone(b *testing.B, slots int) invokev1.InvokeServiceClient {
	b.Helper()
	log := slog.New(slog.DiscardHandler)
	api := runtimeapi.New(runtimeapi.Config{Environment: "e", Concurrency: slots, Grace: 10 * time.Second, Log: log})
	table := &invoke.Table{}
	table.Replace(map[agent.EnvironmentID]invoke.Environment{"e": api})
	server := grpc.NewServer(append(invoke.Recover(log), invoke.Pieces())...)
	invoke.New(table, 1<<30, log).Register(server)
	ctx, cancel := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	listen := func() net.Listener {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	data, runtime := listen(), listen()
	wg.Go(func() { _ = server.Serve(data) })
	wg.Go(func() { _ = api.Serve(ctx, runtime) })
	for range slots {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", runtime.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() { _ = poll(conn) })
	}
	cc, err := grpc.NewClient(data.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cc.Close(); server.Stop(); cancel(errBenchDone); wg.Wait() })
	<-api.Ready()
	return invokev1.NewInvokeServiceClient(cc)
}

func BenchmarkAgentAlone(b *testing.B) {
	for _, callers := range []int{1, 16, 32} {
		b.Run("c="+strconv.Itoa(callers), func(b *testing.B) {
			client := agentAlone(b, 32)
			payload := []byte(`{"hello":"world"}`)
			var id atomic.Int64
			left := atomic.Int64{}
			left.Store(int64(b.N)) // b.Loop is for one goroutine: the callers share the count
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						req := &invokev1.InvokeRequest{Payload: payload, Head: &invokev1.InvocationHead{
							RequestId: strconv.FormatInt(id.Add(1), 10), EnvironmentId: "e", Timeout: durationpb.New(time.Minute),
						}}
						if _, err := client.Invoke(b.Context(), req); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "invokes/s")
		})
	}
}
