package pool_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/fake"
	"github.com/hearth-compute/hearth/sandbox/link"
)

const linkAddress = "127.0.0.2:9001"

// supervised plays the init process: it finds extensions, starts what it is told
// to as goroutines, and remembers what it was told.
type supervised struct {
	// extensions by name: the result is the exit code.
	extensions map[string]func(ctx context.Context, p *fake.Process, signals <-chan int) int
	runtime    func(ctx context.Context, p *fake.Process, signals <-chan int) int
	found      []string // if not the names of extensions

	mu     sync.Mutex
	events []string
}

func (s *supervised) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, fmt.Sprintf(format, args...))
}

func (s *supervised) noted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// run is the program of a sandbox.
func (s *supervised) run(ctx context.Context, p *fake.Process) int {
	conn, err := p.Dial(ctx, linkAddress)
	if err != nil {
		return 1
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	names := s.found
	for name := range s.extensions {
		names = append(names, name)
	}
	slices.Sort(names)
	var mu sync.Mutex
	say := func(f link.Frame) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = conn.Write(link.Append(nil, f))
	}
	say(link.Frame{Kind: link.Found, List: names})
	r := link.NewReader(conn)
	signals := map[string]chan int{}
	var running sync.WaitGroup
	defer running.Wait()
	for {
		f, err := r.Read()
		if err != nil {
			return 137
		}
		if f.Kind == link.Signal {
			s.note("signal %d to %q", f.Signal, f.Name)
			signals[f.Name] <- f.Signal
			continue
		}
		s.note("start %q", f.Name)
		program := s.extensions[f.Name]
		if f.Name == link.Command {
			program = s.runtime
		}
		received := make(chan int, 2)
		signals[f.Name] = received
		running.Go(func() {
			code := program(ctx, p, received)
			if ctx.Err() == nil {
				s.note("%q exited %d", f.Name, code)
				say(link.Frame{Kind: link.Exited, Name: f.Name, Code: code})
			}
		})
	}
}

// ends runs a program until a signal comes.
func ends(program fake.Program) func(context.Context, *fake.Process, <-chan int) int {
	return func(ctx context.Context, p *fake.Process, signals <-chan int) int {
		ctx, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		done := make(chan int, 1)
		go func() { done <- program(ctx, p) }()
		select {
		case code := <-done:
			return code
		case sig := <-signals:
			return 128 + sig
		}
	}
}

// call makes one request of the Extensions API on a connection of its own.
func call(ctx context.Context, p *fake.Process, method, path, body string, header ...string) (http.Header, string, error) {
	c, err := p.Dial(ctx, api)
	if err != nil {
		return nil, "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer func() { _ = c.Close() }()
	var head strings.Builder
	for i := 0; i+1 < len(header); i += 2 {
		head.WriteString(header[i] + ": " + header[i+1] + "\r\n")
	}
	if _, err := fmt.Fprintf(c, "%s /2020-01-01/extension/%s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", method, path, head.String(), len(body), body); err != nil {
		return nil, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.Header, string(b), err
}

// register registers an extension for events and returns its identifier.
func register(ctx context.Context, p *fake.Process, name, events string) (id, said string) {
	answer, body, err := call(ctx, p, "POST", "register", `{"events":[`+events+`]}`, "Lambda-Extension-Name", name)
	if err != nil {
		return "", err.Error()
	}
	return answer.Get("Lambda-Extension-Identifier"), body
}

// wellBehaved is an extension that registers SHUTDOWN and ends when it comes.
func (s *supervised) wellBehaved(name string) func(context.Context, *fake.Process, <-chan int) int {
	return func(ctx context.Context, p *fake.Process, signals <-chan int) int {
		id, _ := register(ctx, p, name, `"SHUTDOWN"`)
		next, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		event := make(chan string, 1)
		go func() {
			_, body, err := call(next, p, "GET", "event/next", "", "Lambda-Extension-Identifier", id)
			if err == nil {
				event <- body
			}
		}()
		select {
		case e := <-event:
			s.note("%s told %s", name, e)
			return 0
		case sig := <-signals:
			return 128 + sig
		case <-ctx.Done():
			return 137
		}
	}
}

func (w *world) useInit(s *supervised) {
	w.host.AddImage("image", fake.Image{Config: configOf("/run"), Program: s.run})
}

func TestExtensionsStartFirstAndGetTheShutdownEventLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		s := &supervised{runtime: ends(serves)}
		s.extensions = map[string]func(context.Context, *fake.Process, <-chan int) int{"a": s.wellBehaved("a"), "b": s.wellBehaved("b")}
		w.useInit(s)
		w.apply(set(1, assignment("e-1")))
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady})
		if out, err := invoke(w.serving("e-1"), "r", ""); err != nil || out.FunctionError != "" {
			t.Errorf("got %s %v", out.Payload, err)
		}
		deadline := time.Now().Add(2 * time.Second).UnixMilli()
		w.apply(set(2))
		time.Sleep(3 * time.Second)
		event := fmt.Sprintf(`{"eventType":"SHUTDOWN","deadlineMs":%d,"shutdownReason":"spindown"}`+"\n", deadline)
		got := s.noted()
		if len(got) > 5 {
			slices.Sort(got[5:])
		}
		want := []string{
			`start "a"`, `start "b"`, `start ""`, `signal 15 to ""`, `"" exited 143`,
			`"a" exited 0`, `"b" exited 0`, "a told " + event, "b told " + event,
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		if left := w.host.Sandboxes(); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestAShutdownKeepsToItsBudgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		stubborn := func(ctx context.Context, _ *fake.Process, signals <-chan int) int {
			for {
				select {
				case sig := <-signals:
					if sig == 9 {
						return 137
					}
				case <-ctx.Done():
					return 137
				}
			}
		}
		s := &supervised{}
		s.runtime = func(ctx context.Context, p *fake.Process, signals <-chan int) int {
			go serves(ctx, p)
			return stubborn(ctx, p, signals)
		}
		quiet := func(events, name string) func(context.Context, *fake.Process, <-chan int) int {
			return func(ctx context.Context, p *fake.Process, signals <-chan int) int {
				id, _ := register(ctx, p, name, events)
				go func() { _, _, _ = call(ctx, p, "GET", "event/next", "", "Lambda-Extension-Identifier", id) }()
				return stubborn(ctx, p, signals)
			}
		}
		s.extensions = map[string]func(context.Context, *fake.Process, <-chan int) int{"deaf": quiet(`"SHUTDOWN"`, "deaf"), "none": quiet("", "none")}
		w.useInit(s)
		w.apply(set(1, assignment("e-1")))
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady})
		begin := time.Now()
		w.apply(set(2))
		for len(w.host.Sandboxes()) > 0 && time.Since(begin) < 10*time.Second {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(begin); took < 1900*time.Millisecond || took > 2200*time.Millisecond {
			t.Errorf("it took %v, want 2 s", took)
		}
		want := []string{
			`start "deaf"`, `start "none"`, `start ""`, `signal 15 to ""`, `signal 9 to ""`, `"" exited 137`,
			`signal 9 to "none"`, `"none" exited 137`,
		}
		if d := cmp.Diff(want, s.noted()); d != "" {
			t.Error(d)
		}
	})
}

func TestExtensionsAreToldThatTheRuntimeFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		s := &supervised{}
		crash := make(chan struct{}, 1)
		s.runtime = func(ctx context.Context, p *fake.Process, _ <-chan int) int {
			go serves(ctx, p)
			select {
			case <-crash:
				return 3
			case <-ctx.Done():
				return 137
			}
		}
		s.extensions = map[string]func(context.Context, *fake.Process, <-chan int) int{"a": s.wellBehaved("a")}
		w.useInit(s)
		w.apply(set(1, assignment("e-1")))
		done := make(chan agent.Outcome, 1)
		serving := w.serving("e-1")
		go func() {
			out, err := invoke(serving, "r", "5s")
			if err != nil {
				t.Error(err)
			}
			done <- out
		}()
		synctest.Wait()
		begin := time.Now()
		crash <- struct{}{}
		if out := <-done; !strings.Contains(string(out.Payload), `"errorType":"Runtime.ExitError","errorMessage":"RequestId: r Error: Runtime exited with error: exit status 3"`) || time.Since(begin) > 0 {
			t.Errorf("after %v: got %s", time.Since(begin), out.Payload)
		}
		time.Sleep(time.Second)
		if events := strings.Join(s.noted(), "\n"); !strings.Contains(events, `"shutdownReason":"failure"`) {
			t.Errorf("got %s", events)
		}
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady}) // anew
	})
}

func TestAnExtensionThatExitsEndsTheEnvironment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		s := &supervised{runtime: ends(serves)}
		leave := make(chan string, 1)
		s.extensions = map[string]func(context.Context, *fake.Process, <-chan int) int{"a": func(ctx context.Context, p *fake.Process, signals <-chan int) int {
			id, _ := register(ctx, p, "a", `"SHUTDOWN"`)
			next, stop := context.WithCancelCause(ctx)
			defer stop(nil)
			go func() { _, _, _ = call(next, p, "GET", "event/next", "", "Lambda-Extension-Identifier", id) }()
			select {
			case kind := <-leave:
				if kind != "" {
					_, _, _ = call(ctx, p, "POST", "exit/error", "{}", "Lambda-Extension-Identifier", id, "Lambda-Extension-Function-Error-Type", kind)
				}
				return 0
			case sig := <-signals:
				return 128 + sig
			case <-ctx.Done():
				return 137
			}
		}}
		w.useInit(s)
		w.apply(set(1, assignment("e-1")))
		for kind, want := range map[string]string{
			"":                   `{"errorType":"Extension.Crash","errorMessage":"RequestId: r Error: exit code 0"}`,
			"Extension.NoBucket": `{"errorType":"Extension.NoBucket","errorMessage":"RequestId: r Error: exit code 0"}`,
			"nonsense":           `{"errorType":"Extension.ExitError","errorMessage":"RequestId: r Error: exit code 0"}`,
		} {
			w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady})
			serving := w.serving("e-1")
			done := make(chan agent.Outcome, 1)
			go func() {
				out, err := invoke(serving, "r", "5s")
				if err != nil {
					t.Error(err)
				}
				done <- out
			}()
			synctest.Wait()
			leave <- kind
			if out := <-done; string(out.Payload) != want {
				t.Errorf("got %s, want %s", out.Payload, want)
			}
			time.Sleep(5 * time.Second)
		}
	})
}

func TestWhyAnEnvironmentWithExtensionsDoesNotStart(t *testing.T) {
	register1 := func(then func(ctx context.Context, p *fake.Process, id, said string) int) func(context.Context, *fake.Process, <-chan int) int {
		return func(ctx context.Context, p *fake.Process, _ <-chan int) int {
			id, said := register(ctx, p, "a", `"SHUTDOWN"`)
			return then(ctx, p, id, said)
		}
	}
	wait := func(ctx context.Context) int { <-ctx.Done(); return 137 }
	for name, c := range map[string]struct {
		found     []string
		extension func(context.Context, *fake.Process, <-chan int) int
		code      string
		says      string
	}{
		"too many": {
			found: []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"}, code: "FunctionError.TooManyExtensions",
			says: "TooManyExtensions: /opt/extensions has 11 extensions, and there may be 10 at most",
		},
		"wants INVOKE": {
			extension: func(ctx context.Context, p *fake.Process, _ <-chan int) int {
				_, said := register(ctx, p, "a", `"INVOKE","SHUTDOWN"`)
				if !strings.Contains(said, `"errorType":"Extension.InvalidEventType"`) {
					return 99
				}
				return 1
			}, code: "FunctionError.ExtensionInitError",
			says: `Extension.Crash: extension a: exit status 1: it asked for the event "INVOKE", and managed instances have SHUTDOWN only`,
		},
		"says it failed": {
			extension: register1(func(ctx context.Context, p *fake.Process, id, _ string) int {
				_, _, _ = call(ctx, p, "POST", "init/error", `{"errorMessage":"no key","errorType":"x"}`, "Lambda-Extension-Identifier", id, "Lambda-Extension-Function-Error-Type", "Extension.NoKey")
				return 1
			}), code: "FunctionError.ExtensionInitError", says: "Extension.NoKey: extension a: no key",
		},
		"exits after registering": {
			extension: register1(func(context.Context, *fake.Process, string, string) int { return 0 }),
			code:      "FunctionError.ExtensionInitError", says: "Extension.Crash: extension a: exit code 0",
		},
		"never registers": {
			extension: func(ctx context.Context, _ *fake.Process, _ <-chan int) int { return wait(ctx) },
			code:      "FunctionError.InitTimeout", says: "extension a did not register within 5s",
		},
		"never asks for an event": {
			extension: register1(func(ctx context.Context, _ *fake.Process, _, _ string) int { return wait(ctx) }),
			code:      "FunctionError.InitTimeout", says: "extension a did not ask for its first event within 5s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				s := &supervised{runtime: ends(serves), found: c.found}
				if c.extension != nil {
					s.extensions = map[string]func(context.Context, *fake.Process, <-chan int) int{"a": c.extension}
				}
				w.useInit(s)
				w.apply(set(1, assignment("e-1")))
				time.Sleep(6 * time.Second)
				got := w.pool.Statuses()[0]
				if got.State != agent.StateFailed || got.ReasonCode != c.code || got.Reason != c.says {
					t.Errorf("got %s %s %q\nwant %s %q", got.State, got.ReasonCode, got.Reason, c.code, c.says)
				}
			})
		})
	}
}

func TestLinesOfExtensionsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.host.AddImage("image", fake.Image{Config: configOf("/run"), Program: func(ctx context.Context, p *fake.Process) int {
			c, err := p.Dial(ctx, linkAddress)
			if err != nil {
				return 1
			}
			for _, f := range []link.Frame{
				{Kind: link.Found, List: []string{"a"}},
				{Kind: link.Line, Name: "a", Text: []byte("cannot go on")},
				{Kind: link.Line, Name: "stranger", Text: []byte("not mine")},
				{Kind: link.Exited, Name: "a", Code: 4},
			} {
				if _, err := c.Write(link.Append(nil, f)); err != nil {
					return 1
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
				_, _ = io.Copy(io.Discard, c)
			}
			<-ctx.Done()
			return 143
		}})
		w.apply(set(1, assignment("e-1")))
		time.Sleep(time.Second)
		if got := w.pool.Statuses()[0]; got.Reason != "Extension.Crash: extension a: exit status 4; the last it printed:\ncannot go on" {
			t.Errorf("got %q", got.Reason)
		}
	})
}

func TestALiarOnTheLinkHarmsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.host.AddImage("image", fake.Image{Config: configOf("/run"), Program: func(ctx context.Context, p *fake.Process) int {
			for _, stream := range [][]byte{
				bytes.Repeat([]byte{0xff}, 100),
				{5},
				nil,
				link.Append(nil, link.Frame{Kind: link.Start, Name: "x"}),
				link.Append(nil, link.Frame{Kind: 77, Text: []byte("x")}),
			} {
				c, err := p.Dial(ctx, linkAddress)
				if err != nil {
					return 9
				}
				_, _ = c.Write(stream)
				_ = c.Close()
			}
			return serves(ctx, p)
		}})
		w.apply(set(1, assignment("e-1")))
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady})
		if out, err := invoke(w.serving("e-1"), "r", ""); err != nil || out.FunctionError == runtimeapi.Unhandled {
			t.Errorf("got %s %v", out.Payload, err)
		}
	})
}

func configOf(entry ...string) sandbox.ImageConfig { return sandbox.ImageConfig{Entrypoint: entry} }
