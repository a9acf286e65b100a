package sessions

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// pausable is a connection whose owner may stop reading, as a stopped process
// does: what is written to it is taken by the kernel and nothing comes back.
type pausable struct {
	net.Conn

	paused chan struct{}
}

func (p *pausable) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	select {
	case <-p.paused:
		for err == nil { // the kernel reads on
			_, err = p.Conn.Read(make([]byte, 1024))
		}
		return 0, err
	default:
		return n, err
	}
}

// hanging answers nothing before the test ends.
type hanging struct {
	invokev1.UnimplementedInvokeServiceServer

	entered, release chan struct{}
}

func (h *hanging) Invoke(context.Context, *invokev1.InvokeRequest) (*invokev1.InvokeResponse, error) {
	h.entered <- struct{}{}
	<-h.release
	return &invokev1.InvokeResponse{}, nil
}

// one hands a single connection to a server.
type one struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (o *one) Accept() (net.Conn, error) {
	select {
	case c := <-o.conn:
		return c, nil
	case <-o.closed:
		return nil, net.ErrClosed
	}
}
func (o *one) Close() error { o.once.Do(func() { close(o.closed) }); return nil }
func (*one) Addr() net.Addr { return &net.UnixAddr{} }

// invokeOver makes a call over a data connection to an agent that takes it and
// then answers after a minute, or, if it is paused, not at all. It returns
// how long the caller waited, and what for.
func invokeOver(t *testing.T, pause bool) (waited time.Duration, err error) {
	t.Helper()
	ours, theirs := net.Pipe()
	agent := &pausable{Conn: theirs, paused: make(chan struct{})}
	handler := &hanging{entered: make(chan struct{}, 1), release: make(chan struct{})}
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second})) // as the agent's
	invokev1.RegisterInvokeServiceServer(server, handler)
	listener := &one{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	listener.conn <- agent
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	s := &Server{}
	d, err := newDataConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	s.pool.add("i-1", d)
	var calling sync.WaitGroup
	begin := time.Now()
	calling.Go(func() {
		_, err = s.Call(t.Context(), router.Endpoint{Environment: "e-1", Instance: "i-1"}, controlplane.InvokeRequest{}, 15*time.Minute)
		waited = time.Since(begin)
	})
	<-handler.entered
	if pause {
		close(agent.paused)
	} else {
		time.Sleep(time.Minute)
		close(handler.release)
	}
	calling.Wait()
	if pause {
		close(handler.release)
	}
	_ = d.cc.Close()
	server.Stop()
	serving.Wait()
	return waited, err
}

func TestACallerOfAnAgentThatHangsIsAnsweredSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		waited, err := invokeOver(t, true)
		if _, ok := errors.AsType[*controlplane.LostError](err); !ok {
			t.Errorf("got %v, want that the invoke is lost", err)
		}
		if limit := keepaliveTime + keepaliveTimeout + time.Second; waited > limit {
			t.Errorf("the caller waited %v, want %v at most", waited, limit)
		}
	})
}

func TestALongInvokeOfAnAgentThatAnswersPingsIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		if waited, err := invokeOver(t, false); err != nil || waited < time.Minute {
			t.Errorf("got %v after %v, want the answer after a minute", err, waited)
		}
	})
}

func TestASessionEndsWhenTheAgentIsSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		heard, ended := make(chan struct{}, 1), make(chan error) // both halves are blocked
		var talking sync.WaitGroup
		talking.Go(func() {
			for range 10 {
				time.Sleep(silence - time.Second)
				heard <- struct{}{}
			}
		})
		begin := time.Now()
		err := listen(t.Context(), time.NewTimer(silence), heard, ended)
		if want := 10*(silence-time.Second) + silence; !errors.Is(err, errSilent) || time.Since(begin) != want {
			t.Errorf("got %v after %v, want %v after %v", err, time.Since(begin), errSilent, want)
		}
		talking.Wait()
	})
}

func TestWhatArrivedDuringAPauseOfThisProcessIsNotSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for range 20 { // the choice among what is ready is random
			heard, ended := make(chan struct{}, 1), make(chan error, 1)
			quiet := time.NewTimer(0)
			time.Sleep(time.Second) // it has expired, unseen
			heard <- struct{}{}
			time.AfterFunc(silence-time.Second, func() { ended <- errAgentClosed })
			if err := listen(t.Context(), quiet, heard, ended); !errors.Is(err, errAgentClosed) {
				t.Fatalf("got %v although a report had arrived", err)
			}
		}
	})
}
