package pool_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/pool"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/fake"
)

const api = "127.0.0.1:9001"

// world is a host with one agent process after the other on it.
type world struct {
	t    *testing.T
	host *fake.Host
	// roles is what agents give their functions, nil for nothing.
	roles pool.Roles
	*process
}

// process is one agent process.
type process struct {
	pool    *pool.Pool
	runtime *fake.Runtime
	stop    func()

	mu    sync.Mutex
	table map[agent.EnvironmentID]*runtimeapi.API
}

// codeStub is a code cache where everything is there.
type codeStub struct {
	mu   sync.Mutex
	held map[string]int
	fail error
}

func (c *codeStub) Acquire(_ context.Context, code agent.Code) (string, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return "", nil, c.fail
	}
	c.held[code.SHA256]++
	return "/code/" + code.SHA256, func() { c.release(code.SHA256) }, nil
}

func (c *codeStub) Hold(sha string) (func(), bool) {
	_, release, _ := c.Acquire(context.Background(), agent.Code{SHA256: sha})
	return release, true
}

func (c *codeStub) AcquireLayers(ctx context.Context, layers []agent.Code) (string, func(), error) {
	var name string
	for _, l := range layers {
		name += "+" + l.SHA256
	}
	return c.Acquire(ctx, agent.Code{SHA256: name})
}

func (c *codeStub) HoldLayers(layers []agent.Code) (func(), bool) {
	_, release, err := c.AcquireLayers(context.Background(), layers)
	return release, err == nil
}

func (c *codeStub) recover() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = nil
}

func (c *codeStub) release(sha string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[sha]--
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, host: fake.NewHost()}
	w.image("image", serves)
	w.restart(nil)
	return w
}

func (w *world) image(ref string, program fake.Program) {
	w.host.AddImage(ref, fake.Image{Config: sandbox.ImageConfig{Entrypoint: []string{"/run"}}, Program: program})
}

// restart starts a new agent process, ending the one before.
func (w *world) restart(code *codeStub) {
	if w.process != nil {
		w.stop()
	}
	if code == nil {
		code = &codeStub{held: map[string]int{}}
	}
	p := &process{}
	output := pool.NewOutput(slog.New(slog.DiscardHandler))
	p.runtime = fake.New(w.host, output.Line)
	p.pool = pool.New(pool.Config{
		Runtime: p.runtime,
		Code:    code,
		Output:  output,
		Encode:  func(a agent.Assignment) ([]byte, error) { return json.Marshal(a) },
		Decode: func(b []byte) (a agent.Assignment, err error) {
			err = json.Unmarshal(b, &a)
			return a, err
		},
		Publish: func(table map[agent.EnvironmentID]*runtimeapi.API) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.table = table
		},
		Roles:  w.roles,
		Region: "us-east-1",
		Log:    slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.pool.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	p.stop = sync.OnceFunc(func() {
		cancel(nil)
		wg.Wait()
		if err := p.runtime.Close(); err != nil {
			w.t.Error(err)
		}
	})
	w.process = p
}

// close ends agent and host.
func (w *world) close() {
	w.stop()
	w.host.Close()
}

func (p *process) serving(id agent.EnvironmentID) *runtimeapi.API {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.table[id]
}

func (p *process) states() map[agent.EnvironmentID]agent.EnvironmentState {
	states := map[agent.EnvironmentID]agent.EnvironmentState{}
	for _, s := range p.pool.Statuses() {
		states[s.Environment] = s.State
	}
	return states
}

// conn does HTTP on one connection to the Runtime API.
type conn struct {
	net.Conn
	in *bufio.Reader
}

func dial(ctx context.Context, p *fake.Process) (*conn, error) {
	c, err := p.Dial(ctx, api)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = c.Close() })
	return &conn{c, bufio.NewReader(c)}, nil
}

func (c *conn) do(method, path, body string) (id, answer string, err error) {
	if _, err := fmt.Fprintf(c, "%s /2018-06-01/runtime/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body); err != nil {
		return "", "", err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.Header.Get("Lambda-Runtime-Aws-Request-Id"), string(b), err
}

// serves is a runtime that answers every event with its sandbox's name after
// the time the event names, and exits 1 when its connection breaks, as most do.
func serves(ctx context.Context, p *fake.Process) int {
	c, err := dial(ctx, p)
	if err != nil {
		return 1
	}
	for {
		id, body, err := c.do("GET", "invocation/next", "")
		if err != nil {
			if ctx.Err() != nil {
				return 143
			}
			return 1
		}
		if d, err := time.ParseDuration(body); err == nil {
			select {
			case <-time.After(d):
			case <-ctx.Done():
				return 143
			}
		}
		if _, _, err := c.do("POST", "invocation/"+id+"/response", string(p.ID)); err != nil {
			return 1
		}
	}
}

// returns is serves, but dials again when its connection breaks.
func returns(ctx context.Context, p *fake.Process) int {
	for ctx.Err() == nil {
		serves(ctx, p)
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return 143
}

func assignment(id agent.EnvironmentID) agent.Assignment {
	return agent.Assignment{
		Environment: id, FunctionARN: "arn:f:1", FunctionName: "f", Version: "1", Revision: "r",
		Image: agent.Image{Ref: "image"}, Code: agent.Code{SHA256: "abc", Size: 1}, Handler: "h", Runtime: "provided.al2023",
		Limits: agent.Resources{CPU: 1000, Memory: 256 << 20}, EphemeralStorage: 512 << 20,
		Timeout: 10 * time.Second, InitTimeout: 5 * time.Second, MaxConcurrency: 4,
	}
}

func set(generation uint64, assignments ...agent.Assignment) agent.DesiredSet {
	s := agent.DesiredSet{Epoch: 1, Generation: generation}
	for _, a := range assignments {
		s.Environments = append(s.Environments, agent.DesiredEnvironment{Assignment: a})
	}
	return s
}

func (w *world) apply(s agent.DesiredSet) {
	w.t.Helper()
	if err := w.pool.Apply(s); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	synctest.Wait()
}

func (w *world) want(states map[agent.EnvironmentID]agent.EnvironmentState) {
	w.t.Helper()
	if d := cmp.Diff(states, w.states()); d != "" {
		w.t.Fatal(d)
	}
}

func invoke(api *runtimeapi.API, id, payload string) (agent.Outcome, error) {
	return api.Invoke(context.Background(), agent.Invocation{RequestID: id, Timeout: 10 * time.Second}, []byte(payload))
}

func TestTheDesiredSetIsMadeSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.apply(set(1, assignment("e-1"), assignment("e-2")))
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady, "e-2": agent.StateReady})
		out, err := invoke(w.serving("e-1"), "r", "")
		if err != nil || !strings.HasPrefix(string(out.Payload), "e-1-") {
			t.Fatalf("got %s %v", out.Payload, err)
		}
		if n := len(w.host.Sandboxes()); n != 2 {
			t.Fatalf("got %d sandboxes", n)
		}
		w.apply(set(2, assignment("e-2"), assignment("e-3")))
		time.Sleep(time.Second)
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-2": agent.StateReady, "e-3": agent.StateReady})
		if w.serving("e-1") != nil {
			t.Error("e-1 is still published")
		}
		s := set(3)
		s.Intent = agent.StopDelete
		w.apply(s)
		time.Sleep(time.Second)
		if left := w.host.Sandboxes(); len(left) != 0 || len(w.states()) != 0 {
			t.Fatalf("left: %v %v", left, w.states())
		}
	})
}

func TestWhatIsRemovedFinishesWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.apply(set(1, assignment("e-1")))
		serving := w.serving("e-1")
		done := make(chan agent.Outcome, 1)
		go func() {
			out, err := invoke(serving, "r", "3s")
			if err != nil {
				t.Error(err)
			}
			done <- out
		}()
		synctest.Wait()
		w.apply(set(2))
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateDraining})
		if _, err := invoke(serving, "new", ""); !errdefs.IsResourceExhausted(err) {
			t.Errorf("got %v", err)
		}
		if out := <-done; out.FunctionError != "" {
			t.Errorf("got %s", out.Payload)
		}
		time.Sleep(time.Second)
		if left := w.host.Sandboxes(); len(left) != 0 {
			t.Fatalf("left: %v", left)
		}
	})
}

func TestDrainingRefusesTheNewAndKeepsTheSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.apply(set(1, assignment("e-1")))
		s := set(2, assignment("e-1"))
		s.Environments[0].Draining = true
		w.apply(s)
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateDraining})
		_, err := invoke(w.serving("e-1"), "r", "")
		if r, ok := errors.AsType[*runtimeapi.RefusedError](err); !ok || r.Verdict.Reason != agent.ReasonDraining {
			t.Fatalf("got %v", err)
		}
		w.apply(set(3, assignment("e-1")))
		if _, err := invoke(w.serving("e-1"), "r", ""); err != nil {
			t.Fatalf("got %v after draining was called off", err)
		}
	})
}

func TestFailedStartsSayWhyAndBackOff(t *testing.T) {
	initError := func(ctx context.Context, p *fake.Process) int {
		_, _ = fmt.Fprintln(p.Stderr, "cannot find handler")
		if c, err := dial(ctx, p); err == nil {
			_, _, _ = c.do("POST", "init/error", `{"errorType":"Runtime.NoHandler","errorMessage":"h is missing"}`)
		}
		return 0
	}
	exits := func(code int) fake.Program {
		return func(_ context.Context, p *fake.Process) int {
			_, _ = fmt.Fprintln(p.Stdout, "bye")
			return code
		}
	}
	missing := func(_ context.Context, p *fake.Process) int {
		_, _ = fmt.Fprintln(p.Stderr, "hearth-init: Couldn't find valid bootstrap(s): [/x]")
		return 127
	}
	for _, c := range []struct {
		name    string
		program fake.Program
		prepare func(*world, *codeStub)
		code    string
		reason  string
	}{
		{"init error", initError, nil, "FunctionError.RuntimeInitError", "Runtime.NoHandler: h is missing; the last it printed:\ncannot find handler"},
		{"exit", exits(3), nil, "FunctionError.RuntimeInitError", "Runtime.ExitError: Runtime exited with error: exit status 3; the last it printed:\nbye"},
		{"exit zero", exits(0), nil, "FunctionError.RuntimeInitError", "Runtime.ExitError: Runtime exited without providing a reason; the last it printed:\nbye"},
		{"no entry point", missing, nil, "FunctionError.InvalidEntryPoint", "Runtime.InvalidEntrypoint: Couldn't find valid bootstrap(s): [/x]"},
		{"timeout", hangs, nil, "FunctionError.InitTimeout", "runtime did not ask for its first invocation within 5s"},
		{"image", serves, func(w *world, _ *codeStub) {
			w.host.Fail(fake.Pull, fmt.Errorf("no such image: %w", errdefs.ErrNotFound), 100)
		}, "InvalidImage", "no such image"},
		{"credentials", serves, func(w *world, _ *codeStub) {
			w.host.Fail(fake.Pull, fmt.Errorf("who are you: %w", errdefs.ErrUnauthenticated), 100)
		}, "ImageAccessDenied", "the registry wants credentials, and this host has none for it: "},
		{"addresses", serves, func(w *world, _ *codeStub) {
			w.host.Fail(fake.Create, fmt.Errorf("no address left: %w", errdefs.ErrResourceExhausted), 100)
		}, "InsufficientCapacity", "no address left"},
		{"code", serves, func(_ *world, c *codeStub) { c.fail = fmt.Errorf("bad zip: %w", errdefs.ErrInvalidArgument) }, "InvalidZipFileException", "bad zip"},
		{"no room for code", serves, func(_ *world, c *codeStub) {
			c.fail = fmt.Errorf("9 bytes do not fit the code cache: %w", errdefs.ErrResourceExhausted)
		}, "InsufficientCapacity", "9 bytes do not fit the code cache"},
		{"registry away", serves, func(w *world, _ *codeStub) {
			w.host.Fail(fake.Pull, fmt.Errorf("connection refused: %w", errdefs.ErrUnavailable), 100)
		}, "InternalError", "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failsThenRecovers(t, c.program, c.prepare, c.code, c.reason)
			})
		})
	}
}

// hangs prints and never asks for an invocation.
func hangs(ctx context.Context, p *fake.Process) int {
	_, _ = fmt.Fprintln(p.Stdout, "connecting to the database")
	<-ctx.Done()
	return 143
}

// TestARuntimeHasItsWholeInitTimeout: 130 seconds, or what the function's own
// timeout allows, and not a moment less.
func TestARuntimeHasItsWholeInitTimeout(t *testing.T) {
	for _, limit := range []time.Duration{130 * time.Second, 15 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.close()
			w.image("image", hangs)
			a := assignment("e-1")
			a.InitTimeout = limit
			w.apply(set(1, a))
			time.Sleep(limit - 100*time.Millisecond)
			synctest.Wait()
			w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateStarting})
			time.Sleep(3 * time.Second) // it has 2 to end
			synctest.Wait()
			s := w.pool.Statuses()[0]
			want := fmt.Sprintf("runtime did not ask for its first invocation within %v; the last it printed:\nconnecting to the database", limit)
			if s.State != agent.StateFailed || s.ReasonCode != "FunctionError.InitTimeout" || s.Reason != want || s.Failures != 1 {
				t.Errorf("got %+v", s)
			}
			w.apply(set(2))
			time.Sleep(limit)
			synctest.Wait()
			if left := w.host.Sandboxes(); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestTheHostsFailuresAreNotTheFunctions: a function that fails for the first
// time after its host has failed often has failed once.
func TestTheHostsFailuresAreNotTheFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.image("image", func(context.Context, *fake.Process) int { return 1 })
		w.host.Fail(fake.Pull, fmt.Errorf("connection refused: %w", errdefs.ErrUnavailable), 4)
		if err := w.pool.Apply(set(1, assignment("e-1"))); err != nil { // looks at once: the second start is soon
			t.Fatal(err)
		}
		seen := map[string]int{} // failures when the code changed
		for range 1000 {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if s := w.pool.Statuses()[0]; s.ReasonCode != "" && seen[s.ReasonCode] == 0 {
				seen[s.ReasonCode] = s.Failures
			}
		}
		want := map[string]int{"InternalError": 1, "FunctionError.RuntimeInitError": 1}
		if d := cmp.Diff(want, seen); d != "" {
			t.Error(d)
		}
	})
}

// failsThenRecovers starts an environment that cannot start for a while and
// requires that it says why, backs off, and comes up once it can.
func failsThenRecovers(t *testing.T, program fake.Program, prepare func(*world, *codeStub), wantCode, reason string) {
	t.Helper()
	w := newWorld(t)
	defer w.close()
	code := &codeStub{held: map[string]int{}}
	w.restart(code)
	w.image("image", program)
	if prepare != nil {
		prepare(w, code)
	}
	w.apply(set(1, assignment("e-1")))
	time.Sleep(5500 * time.Millisecond)
	synctest.Wait()
	s := w.pool.Statuses()[0]
	if s.State != agent.StateFailed || s.ReasonCode != wantCode || !strings.Contains(s.Reason, reason) || s.Failures < 1 {
		t.Fatalf("got %+v", s)
	}
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	s = w.pool.Statuses()[0]
	if s.Failures < 15 || s.Failures > 50 {
		t.Errorf("got %d failures in ten minutes", s.Failures)
	}
	if n := len(w.host.Sandboxes()); n > 1 {
		t.Errorf("got %d sandboxes", n)
	}
	// Once the cause is gone it comes up by itself.
	w.image("image", serves)
	code.recover()
	time.Sleep(time.Hour) // longer than the scripted failures last
	synctest.Wait()
	s = w.pool.Statuses()[0]
	got := [...]any{s.State, s.Failures, s.ReasonCode, s.Reason}
	if d := cmp.Diff([...]any{agent.StateReady, 0, "", ""}, got); d != "" {
		t.Error(d)
	}
}

func TestOneThatKeepsFailingDoesNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.image("hangs", func(ctx context.Context, _ *fake.Process) int { <-ctx.Done(); return 143 })
		var all []agent.Assignment
		for i := range 8 {
			a := assignment(agent.EnvironmentID(fmt.Sprintf("bad-%d", i)))
			a.Image.Ref = "hangs"
			a.InitTimeout = time.Hour
			all = append(all, a)
		}
		w.apply(set(1, append(all, assignment("good"))...))
		if s := w.states(); s["good"] != agent.StateReady || s["bad-0"] != agent.StateStarting {
			t.Fatalf("got %v", s)
		}
	})
}

func TestAProcessThatEndsIsReplacedAndItsInvokesAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.apply(set(1, assignment("e-1"), assignment("e-2")))
		first := w.host.Sandboxes()[0]
		sibling := make(chan agent.Outcome, 1)
		lost := make(chan agent.Outcome, 1)
		for id, got := range map[agent.EnvironmentID]chan agent.Outcome{"e-1": lost, "e-2": sibling} {
			go func() {
				out, err := invoke(w.serving(id), "r", "5s")
				if err != nil {
					t.Error(err)
				}
				got <- out
			}()
		}
		synctest.Wait()
		w.host.Kill(first, true)
		if out := <-lost; !strings.Contains(string(out.Payload), "Runtime.OutOfMemory") {
			t.Errorf("got %s", out.Payload)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady, "e-2": agent.StateReady})
		if now := w.host.Sandboxes(); len(now) != 2 || slices.Contains(now, first) {
			t.Errorf("got %v, %s should be gone", now, first)
		}
		if out := <-sibling; out.FunctionError != "" {
			t.Errorf("got %s", out.Payload)
		}
		if s := w.pool.Statuses()[0]; s.Failures != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

// TestCodeThatOverrunsOnDemandIsEnded, since it would keep the only slot; on a
// capacity provider it keeps its own and the others serve.
func TestCodeThatOverrunsOnDemandIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		demand := assignment("e-1")
		demand.OnDemand, demand.MaxConcurrency = true, 1
		w.apply(set(1, demand, assignment("e-2")))
		before := map[agent.EnvironmentID]*runtimeapi.API{}
		for _, id := range []agent.EnvironmentID{"e-1", "e-2"} {
			before[id] = w.serving(id)
			out, err := invoke(before[id], "r", "1h")
			if err != nil || !strings.Contains(string(out.Payload), "timed out") {
				t.Fatalf("got %s, %v", out.Payload, err)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady, "e-2": agent.StateReady})
		if w.serving("e-1") == before["e-1"] {
			t.Error("the on-demand environment was not started anew")
		}
		if w.serving("e-2") != before["e-2"] {
			t.Error("the other environment was started anew")
		}
		if out, err := invoke(w.serving("e-1"), "next", ""); err != nil || out.FunctionError != "" {
			t.Errorf("got %s, %v", out.Payload, err)
		}
		if n := len(w.host.Sandboxes()); n != 2 {
			t.Errorf("%d sandboxes, want 2", n)
		}
		if s := w.pool.Statuses()[0]; s.Failures != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

func TestInvariant4_StoppingThePoolLeavesEverySandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.image("image", returns)
		w.apply(set(1, assignment("e-1"), assignment("e-2")))
		before := w.host.Sandboxes()
		w.stop()
		time.Sleep(time.Minute)
		if d := cmp.Diff(before, w.host.Sandboxes()); d != "" || len(before) != 2 {
			t.Fatal(d, before)
		}
	})
}

func TestInvariant1_AfterARestartNewOnesComeFirst(t *testing.T) {
	for _, c := range []struct {
		name    string
		program fake.Program
	}{{"the runtime exits", serves}, {"the runtime comes back", returns}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer w.close()
				w.image("image", c.program)
				w.apply(set(1, assignment("e-1")))
				old := w.host.Sandboxes()
				// The control service is away: nothing but the sandbox says what to run.
				w.restart(nil)
				time.Sleep(5 * time.Second)
				synctest.Wait()
				w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady})
				now := w.host.Sandboxes()
				if len(now) != 1 || now[0] == old[0] {
					t.Fatalf("got %v, before %v", now, old)
				}
				if out, err := invoke(w.serving("e-1"), "r", ""); err != nil || string(out.Payload) != string(now[0]) {
					t.Fatalf("got %s %v", out.Payload, err)
				}
				accepted, has := w.pool.Accepted()
				if d := cmp.Diff(set(0, assignment("e-1")).Environments, accepted.Environments); d != "" || !has || accepted.Epoch != 0 {
					t.Error(d)
				}
				w.apply(set(1, assignment("e-1")))
				if d := cmp.Diff(now, w.host.Sandboxes()); d != "" {
					t.Errorf("the same set changed something: %s", d)
				}
			})
		})
	}
}

func TestAnAdoptedRuntimeServesUntilItsSuccessorIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.image("image", returns)
		w.apply(set(1, assignment("e-1")))
		old := w.host.Sandboxes()[0]
		w.image("image", func(ctx context.Context, p *fake.Process) int {
			select {
			case <-time.After(3 * time.Second):
			case <-ctx.Done():
			}
			return serves(ctx, p)
		})
		w.restart(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-1": agent.StateReady})
		if out, err := invoke(w.serving("e-1"), "r", ""); err != nil || string(out.Payload) != string(old) {
			t.Fatalf("got %s %v, want an answer of %s", out.Payload, err, old)
		}
		time.Sleep(5 * time.Second)
		if out, err := invoke(w.serving("e-1"), "r", ""); err != nil || string(out.Payload) == string(old) {
			t.Fatalf("got %s %v, want an answer of another", out.Payload, err)
		}
		if left := w.host.Sandboxes(); len(left) != 1 || left[0] == old {
			t.Fatalf("left: %v", left)
		}
	})
}

func TestWhatARestartFindsUnusableIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.stop()
		other := fake.New(w.host, nil)
		if _, err := other.Pull(t.Context(), sandbox.Image{Ref: "image"}); err != nil {
			t.Fatal(err)
		}
		metadata, err := json.Marshal(assignment("never-started"))
		if err != nil {
			t.Fatal(err)
		}
		for id, m := range map[sandbox.ID][]byte{"unreadable": []byte("?"), "never-started-1": metadata} {
			_, err := other.Create(t.Context(), sandbox.Spec{
				ID: id, Image: sandbox.Image{Ref: "image"}, Args: []string{"/run"}, User: sandbox.User{UID: 1, GID: 1},
				Limits:   sandbox.Limits{CPU: 100, Memory: 64 << 20, Tmp: 1 << 20, PIDs: 10, OpenFiles: 64},
				Metadata: m,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := other.Start(t.Context(), "unreadable"); err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		w.host.Fail(fake.Remove, errdefs.ErrUnavailable, 1)
		w.host.Fail(fake.List, errdefs.ErrUnavailable, 2)
		w.restart(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		// What was being started is started again, from scratch.
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"never-started": agent.StateReady})
		if left := w.host.Sandboxes(); len(left) != 1 || left[0] == "never-started-1" {
			t.Fatalf("left: %v", left)
		}
	})
}

func TestInvariant3_ARefusedSetChangesNothingAndIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.apply(set(5, assignment("e-1"), assignment("e-2"), assignment("e-3")))
		before := w.host.Sandboxes()
		if err := w.pool.Apply(set(6)); !errdefs.IsFailedPrecondition(err) {
			t.Fatalf("got %v", err)
		}
		if err := w.pool.Apply(set(4, assignment("e-1"))); !errdefs.IsConflict(err) {
			t.Fatalf("got %v", err)
		}
		time.Sleep(time.Minute)
		if d := cmp.Diff(before, w.host.Sandboxes()); d != "" {
			t.Fatal(d)
		}
		if p := w.pool.Position(); p.Generation != 5 || !strings.Contains(p.Refused, "older") {
			t.Fatalf("got %+v", p)
		}
		w.apply(set(7, assignment("e-1"), assignment("e-2")))
		if p := w.pool.Position(); p != (pool.Position{Epoch: 1, Generation: 7}) {
			t.Fatalf("got %+v", p)
		}
	})
}

func TestRemovalIsTriedUntilItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.apply(set(1, assignment("e-1")))
		w.host.Fail(fake.Stop, errdefs.ErrUnavailable, 3)
		w.host.LoseReply(fake.Remove, 2)
		w.apply(set(2))
		time.Sleep(time.Minute)
		synctest.Wait()
		if left := w.host.Sandboxes(); len(left) != 0 || len(w.states()) != 0 {
			t.Fatalf("left: %v %v", left, w.states())
		}
	})
}
