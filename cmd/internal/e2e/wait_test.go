package e2e

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/controlplane/server"
	"github.com/hearth-compute/hearth/sandbox/fake"
)

// slow is a runtime with eight workers whose function takes 20 ms.
func slow(ctx context.Context, p *fake.Process) int {
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64,
		DialContext:         func(ctx context.Context, _, addr string) (net.Conn, error) { return p.Dial(ctx, addr) },
	}}
	base := "http://" + p.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				next, err := send(ctx, client, http.MethodGet, base+"next", "", nil)
				if err != nil {
					return
				}
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
				id := next.header.Get("Lambda-Runtime-Aws-Request-Id")
				if _, err := send(ctx, client, http.MethodPost, base+id+"/response", `"`+id+`"`, nil); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return 1
}

// TestHalfAsManyCallersMoreThanSlotsAreAllServed has 36 callers on the 24 slots of
// three environments, over every real hop but the container. The wait is long: the
// machine of a test may be slow, and this is about slots being handed on.
func TestHalfAsManyCallersMoreThanSlotsAreAllServed(t *testing.T) {
	t.Parallel()
	s := newSystem(t, func(c *server.Config) { c.InvokeWait = 10 * time.Second })
	s.publish()
	for _, zone := range []string{"subnet-a", "subnet-b", "subnet-c"} {
		h := s.host(zone)
		h.AddImage("fake", fake.Image{Program: slow})
		s.agent(h)
	}
	s.function()
	s.eventually("an invoke", func() error { _, err := s.invoke(); return err })
	s.eventually("three ready environments", func() error { return s.ready(3) })
	var wg sync.WaitGroup
	for range 36 {
		wg.Go(func() {
			for range 10 {
				if _, err := s.invoke(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
