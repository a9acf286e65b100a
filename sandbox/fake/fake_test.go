package fake_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/fake"
	"github.com/hearth-compute/hearth/sandbox/sandboxtest"
	"github.com/hearth-compute/hearth/sandbox/sandboxtest/prog"
)

// program runs the suite's program in a fake sandbox.
func program(ctx context.Context, p *fake.Process) int {
	dir := p.WorkingDir
	if dir == "" {
		dir = "/"
	}
	return prog.Run(ctx, prog.World{
		Args: p.Args[1:], Env: p.Env, Dir: dir, Stdout: p.Stdout, Stderr: p.Stderr,
		Dial: p.Dial, IgnoreTerm: p.IgnoreTerm,
		Listen: func(_ context.Context, address string) (net.Listener, error) { return p.Listen(address) },
	})
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Machine {
		host := fake.NewHost()
		t.Cleanup(host.Close)
		host.AddImage("suite:1", fake.Image{Config: sandbox.ImageConfig{Digest: "sha256:1"}, Program: program})
		return sandboxtest.Machine{
			Open: func(_ *testing.T, output sandbox.Output) sandboxtest.Driver {
				return fake.New(host, output)
			},
			Image: sandbox.Image{Ref: "suite:1"}, MissingImage: sandbox.Image{Ref: "missing:1"},
			Command: "/prog", User: sandbox.User{UID: 993, GID: 990},
		}
	})
}

// machine returns a host with one image, pulled, and a driver, inside a bubble.
func machine(t *testing.T, p fake.Program) (*fake.Host, *fake.Runtime) {
	t.Helper()
	host := fake.NewHost()
	t.Cleanup(host.Close)
	host.AddImage("i", fake.Image{Program: p})
	r := fake.New(host, nil)
	if _, err := r.Pull(t.Context(), sandbox.Image{Ref: "i"}); err != nil {
		t.Fatal(err)
	}
	return host, r
}

func spec(id sandbox.ID) sandbox.Spec {
	return sandbox.Spec{
		ID: id, Image: sandbox.Image{Ref: "i"}, Args: []string{"/x"}, User: sandbox.User{UID: 1, GID: 1},
		Limits: sandbox.Limits{CPU: 1000, Memory: 64 << 20, Tmp: 1 << 20, PIDs: 1, OpenFiles: 1},
	}
}

// wait ends with the given code when it is told to.
func wait(code int) fake.Program {
	return func(ctx context.Context, _ *fake.Process) int { <-ctx.Done(); return code }
}

func start(t *testing.T, r *fake.Runtime, id sandbox.ID) {
	t.Helper()
	if _, err := r.Create(t.Context(), spec(id)); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

func TestScriptedFailuresHappenThatOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		host, r := machine(t, wait(0))
		host.Fail(fake.Create, errdefs.ErrResourceExhausted, 1)
		if _, err := r.Create(t.Context(), spec("a")); !errdefs.IsResourceExhausted(err) || len(host.Sandboxes()) != 0 {
			t.Errorf("failing: %v, there is %q", err, host.Sandboxes())
		}
		host.LoseReply(fake.Create, 1)
		if _, err := r.Create(t.Context(), spec("a")); !errdefs.IsUnavailable(err) || len(host.Sandboxes()) != 1 {
			t.Errorf("losing the reply: %v, there is %q", err, host.Sandboxes())
		}
		if _, err := r.Create(t.Context(), spec("a")); !errdefs.IsAlreadyExists(err) {
			t.Errorf("after the script: %v", err)
		}
	})
}

func TestDelaysAndOutagesAreScriptedToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		host, r := machine(t, wait(0))
		if _, err := r.Create(t.Context(), spec("a")); err != nil {
			t.Fatal(err)
		}
		host.Delay(fake.Start, time.Minute)
		before := time.Now()
		if err := r.Start(t.Context(), "a"); err != nil || time.Since(before) != time.Minute {
			t.Errorf("delayed: %v after %s", err, time.Since(before))
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("impatient"))
		defer cancel()
		if err := r.Start(ctx, "a"); err == nil || !strings.Contains(err.Error(), "impatient") {
			t.Errorf("giving up: %v", err)
		}
		host.Outage(true)
		if _, err := r.List(t.Context()); !errdefs.IsUnavailable(err) {
			t.Errorf("in an outage: %v", err)
		}
		host.Outage(false)
		if _, err := r.List(t.Context()); err != nil || host.Calls(fake.Create) != 1 || host.Calls(fake.List) != 2 {
			t.Errorf("after it: %v, calls %d %d", err, host.Calls(fake.Create), host.Calls(fake.List))
		}
	})
}

func TestGraceIsExact(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, r := machine(t, func(ctx context.Context, p *fake.Process) int {
			p.IgnoreTerm()
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), fake.ErrKilled) {
				t.Errorf("ended for %v", context.Cause(ctx))
			}
			return 0
		})
		start(t, r, "a")
		synctest.Wait()
		before := time.Now()
		if err := r.Stop(t.Context(), "a", 5*time.Second); err != nil || time.Since(before) != 5*time.Second {
			t.Errorf("stopped with %v after %s", err, time.Since(before))
		}
		all, err := r.List(t.Context())
		if err != nil || all[0].Exit.Code != 137 || all[0].Exit.OOMKilled {
			t.Errorf("%v %+v", err, all)
		}
	})
}

func TestKillForWantOfMemoryIsDelivered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		host, r := machine(t, wait(0))
		events := make(chan sandbox.Event, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { done <- r.Watch(ctx, func(e sandbox.Event) { events <- e }) }()
		start(t, r, "a")
		host.Kill("a", true)
		if e := <-events; e.ID != "a" || e.Exit.Code != 137 || !e.Exit.OOMKilled {
			t.Errorf("delivered %+v", e)
		}
		host.Kill("a", false) // nothing there to kill
		cancel(nil)
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
}

// poll asks the Runtime API once.
func poll(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9001/next", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// listening creates a sandbox with a listener inside.
func listening(t *testing.T, r *fake.Runtime, id sandbox.ID) net.Listener {
	t.Helper()
	if _, err := r.Create(t.Context(), spec(id)); err != nil {
		t.Fatal(err)
	}
	l, err := r.Listen(t.Context(), id, "127.0.0.1:9001")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestHTTPIsServedToTheProgramUntilTheDriverCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		polls := make(chan error)
		host, r := machine(t, func(ctx context.Context, p *fake.Process) int {
			client := &http.Client{Transport: &http.Transport{
				DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return p.Dial(ctx, address) },
			}}
			for range 2 {
				polls <- poll(ctx, client)
			}
			client.CloseIdleConnections()
			return 0
		})
		l := listening(t, r, "a")
		var count atomic.Int32
		server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			if count.Add(1) > 1 {
				<-req.Context().Done() // a poll that stays open
			}
		})}
		served := make(chan error)
		go func() { served <- server.Serve(l) }()
		if err := r.Start(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if err := <-polls; err != nil {
			t.Errorf("the first poll: %v", err)
		}
		synctest.Wait() // the second is waiting now
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-polls; err == nil {
			t.Error("the poll outlived the driver that served it")
		}
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if _, err := r.List(t.Context()); !errdefs.IsUnavailable(err) {
			t.Errorf("a closed driver: %v", err)
		}
		if got := host.Sandboxes(); len(got) != 1 {
			t.Errorf("the sandbox is gone: %q", got)
		}
	})
}
