package sandboxtest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/sandbox"
)

func testLife(t *testing.T, b *bench) {
	spec := b.spec("wait", "0")
	before := time.Now()
	got := b.create(t, spec)
	if got.ID != spec.ID || got.State != sandbox.StateCreated || got.PID != 0 {
		t.Errorf("after Create: %+v", got)
	}
	if age := got.CreatedAt.Sub(before); age.Abs() > patience {
		t.Errorf("created at %v, want about %v", got.CreatedAt, before)
	}
	ctx := t.Context()
	for _, step := range []struct {
		name  string
		do    func() error
		state sandbox.State
	}{
		{"nothing", func() error { return nil }, sandbox.StateCreated},
		{"Start", func() error { return b.d.Start(ctx, spec.ID) }, sandbox.StateRunning},
		{"Stop", func() error { return b.d.Stop(ctx, spec.ID, patience) }, sandbox.StateStopped},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		checkListed(t, b, spec.ID, step.state)
	}
	if err := b.d.Remove(t.Context(), spec.ID); err != nil {
		t.Fatalf("removing: %v", err)
	}
	if s, ok := find(t, b.d, spec.ID); ok {
		t.Errorf("listed after Remove: %+v", s)
	}
}

// checkListed wants a sandbox to be listed in a state, with the process and the
// end that go with it.
func checkListed(t *testing.T, b *bench, id sandbox.ID, state sandbox.State) {
	t.Helper()
	s, ok := find(t, b.d, id)
	running, ended := s.PID != 0, !s.Exit.At.IsZero()
	if !ok || s.State != state || running != (state == sandbox.StateRunning) || ended != (state == sandbox.StateStopped) {
		t.Errorf("want %s, listed %v: %+v", state, ok, s)
	}
}

func testCreateRefusals(t *testing.T, b *bench) {
	spec := b.spec("wait", "0")
	b.create(t, spec)
	if _, err := b.d.Create(t.Context(), spec); !errdefs.IsAlreadyExists(err) {
		t.Errorf("creating twice: %v, want AlreadyExists", err)
	}
	if s, ok := find(t, b.d, spec.ID); !ok || s.State != sandbox.StateCreated {
		t.Errorf("the first one suffered: %v %+v", ok, s)
	}
	other := b.spec("wait", "0")
	other.Image = b.m.MissingImage
	if _, err := b.d.Create(t.Context(), other); !errdefs.IsNotFound(err) {
		t.Errorf("creating from an image not pulled: %v, want NotFound", err)
	}
	root := b.spec("wait", "0")
	root.User.UID = 0
	if _, err := b.d.Create(t.Context(), root); !errdefs.IsInvalidArgument(err) {
		t.Errorf("creating as root: %v, want InvalidArgument", err)
	}
	for _, id := range []sandbox.ID{other.ID, root.ID} {
		if s, ok := find(t, b.d, id); ok {
			t.Errorf("a refused create left %+v", s)
		}
	}
	if _, err := b.d.Pull(t.Context(), b.m.MissingImage); !errdefs.IsNotFound(err) {
		t.Errorf("pulling %s: %v, want NotFound", b.m.MissingImage.Ref, err)
	}
}

func testNothing(t *testing.T, b *bench) {
	ctx, id := t.Context(), b.spec("wait", "0").ID
	if err := b.d.Start(ctx, id); !errdefs.IsNotFound(err) {
		t.Errorf("starting nothing: %v, want NotFound", err)
	}
	if err := b.d.Stop(ctx, id, 0); !errdefs.IsNotFound(err) {
		t.Errorf("stopping nothing: %v, want NotFound", err)
	}
	if err := b.d.Remove(ctx, id); err != nil {
		t.Errorf("removing nothing: %v, want no error", err)
	}
	if _, err := b.d.Listen(ctx, id, "127.0.0.1:9001"); !errdefs.IsNotFound(err) {
		t.Errorf("listening in nothing: %v, want NotFound", err)
	}
	if _, err := b.d.Dial(ctx, id, "127.0.0.1:9001"); !errdefs.IsNotFound(err) {
		t.Errorf("dialling in nothing: %v, want NotFound", err)
	}
}

func testStartTwice(t *testing.T, b *bench) {
	id := b.run(t, b.spec("wait", "0"))
	if err := b.d.Start(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("starting twice: %v, want FailedPrecondition", err)
	}
	if err := b.d.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.d.Start(t.Context(), id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("starting a stopped one: %v, want FailedPrecondition", err)
	}
}

func testExitCodes(t *testing.T, b *bench) {
	for _, code := range []int{0, 1, 42, 255} {
		exit, _ := b.finish(t, b.spec("exit", fmt.Sprint(code)))
		if exit.Code != code || exit.OOMKilled {
			t.Errorf("exit %d arrived as %+v", code, exit)
		}
	}
}

func testStop(t *testing.T, b *bench) {
	started := func(spec sandbox.Spec) sandbox.ID {
		id := b.run(t, spec)
		await(t, "output of "+string(id), func() bool { return len(b.rec.get(id, sandbox.Stdout)) > 0 })
		return id
	}
	obedient := started(b.spec("wait", "7"))
	if err := b.d.Stop(t.Context(), obedient, patience); err != nil {
		t.Fatal(err)
	}
	if s, _ := find(t, b.d, obedient); s.Exit.Code != 7 {
		t.Errorf("the program could not choose its exit code: %+v", s.Exit)
	}
	stubborn := started(b.spec("stubborn"))
	if err := b.d.Stop(t.Context(), stubborn, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if s, _ := find(t, b.d, stubborn); s.State != sandbox.StateStopped || s.Exit.Code != 137 {
		t.Errorf("a program that ignores SIGTERM: %+v, want exit code 137", s)
	}
	never := b.create(t, b.spec("wait", "0")).ID
	if err := b.d.Stop(t.Context(), never, 0); err != nil {
		t.Fatal(err)
	}
	if s, _ := find(t, b.d, never); s.State != sandbox.StateStopped {
		t.Errorf("a sandbox stopped before it started: %+v", s)
	}
}

func testIdempotent(t *testing.T, b *bench) {
	id := b.run(t, b.spec("wait", "0"))
	for range 2 {
		if err := b.d.Stop(t.Context(), id, 0); err != nil {
			t.Errorf("stopping: %v", err)
		}
	}
	for range 2 {
		if err := b.d.Remove(t.Context(), id); err != nil {
			t.Errorf("removing: %v", err)
		}
	}
	running := b.run(t, b.spec("stubborn"))
	if err := b.d.Remove(t.Context(), running); err != nil {
		t.Errorf("removing what runs: %v", err)
	}
	if _, ok := find(t, b.d, running); ok {
		t.Error("it is still listed")
	}
}

func testLines(t *testing.T, b *bench) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"print", "one", "", "three"}, []string{"one", "", "three"}},
		{[]string{"raw", "a\nb\r\nno end"}, []string{"a", "b", "no end"}},
		{[]string{"long", fmt.Sprint(sandbox.MaxLine)}, []string{strings.Repeat("x", sandbox.MaxLine)}},
		{[]string{"long", fmt.Sprint(sandbox.MaxLine + 5)}, []string{strings.Repeat("x", sandbox.MaxLine), "xxxxx"}},
	} {
		_, got := b.finish(t, b.spec(c.args...))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %d lines, want %d: %.80q", c.args[0], len(got), len(c.want), got)
		}
	}
	spec := b.spec("errprint", "oops")
	if _, got := b.finish(t, spec); len(got) != 0 {
		t.Errorf("stderr came out of stdout: %q", got)
	}
	if got := b.rec.get(spec.ID, sandbox.Stderr); !slices.Equal(got, []string{"oops"}) {
		t.Errorf("stderr: got %q", got)
	}
}

func testEnvironment(t *testing.T, b *bench) {
	if _, got := b.finish(t, b.spec("env", "GREETING")); !slices.Equal(got, []string{"hello world"}) {
		t.Errorf("GREETING is %q", got)
	}
	if _, got := b.finish(t, b.spec("env", "EMPTY")); !slices.Equal(got, []string{""}) {
		t.Errorf("EMPTY is %q", got)
	}
	if exit, _ := b.finish(t, b.spec("env", "LANG")); exit.Code != 1 {
		t.Error("a variable is set that is not in the spec")
	}
	spec := b.spec("dir")
	spec.WorkingDir = "/tmp"
	if _, got := b.finish(t, spec); !slices.Equal(got, []string{"/tmp"}) {
		t.Errorf("working directory is %q", got)
	}
}

func testList(t *testing.T, b *bench) {
	want := map[sandbox.ID]sandbox.Spec{}
	for range 3 {
		spec := b.spec("wait", "0")
		spec.Labels = map[string]string{"function": "arn:aws:lambda:eu-west-1:1:function:f", "id": string(spec.ID), "long": strings.Repeat("v", 3900)}
		spec.Metadata = bytes.Repeat([]byte(spec.ID), 10_000)
		b.create(t, spec)
		want[spec.ID] = spec
	}
	all, err := b.d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(all, func(a, b sandbox.Status) int { return strings.Compare(string(a.ID), string(b.ID)) }) {
		t.Error("not ordered by id")
	}
	for id, spec := range want {
		s, ok := find(t, b.d, id)
		if !ok {
			t.Errorf("%s is missing", id)
		}
		if diff := cmp.Diff(spec.Labels, s.Labels); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
		if !bytes.Equal(s.Metadata, spec.Metadata) {
			t.Errorf("metadata: got %d bytes, want %d", len(s.Metadata), len(spec.Metadata))
		}
	}
}

// watching runs Watch until the test ends and collects what it delivers.
func watching(t *testing.T, d Driver) (events func() []sandbox.Event) {
	t.Helper()
	var mu sync.Mutex
	var all []sandbox.Event
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- d.Watch(ctx, func(e sandbox.Event) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, e)
		})
	}()
	t.Cleanup(func() {
		cancel(nil)
		if err := <-done; err != nil {
			t.Errorf("Watch returned %v when cancelled", err)
		}
	})
	return func() []sandbox.Event {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

func delivered(events []sandbox.Event, id sandbox.ID) (sandbox.Exit, bool) {
	i := slices.IndexFunc(events, func(e sandbox.Event) bool { return e.ID == id })
	if i < 0 {
		return sandbox.Exit{}, false
	}
	return events[i].Exit, true
}

func testWatch(t *testing.T, b *bench) {
	first := watching(t, b.d)
	id := b.run(t, b.spec("exit", "5"))
	await(t, "the exit of "+string(id), func() bool { _, ok := delivered(first(), id); return ok })
	if exit, _ := delivered(first(), id); exit.Code != 5 {
		t.Errorf("delivered %+v, want code 5", exit)
	}
	later := watching(t, b.d)
	await(t, "the exit from before", func() bool { _, ok := delivered(later(), id); return ok })
	killed := b.run(t, b.spec("wait", "0"))
	if err := b.d.Remove(t.Context(), killed); err != nil {
		t.Fatal(err)
	}
	await(t, "the exit of one that was removed", func() bool { _, ok := delivered(first(), killed); return ok })
}

func testMany(t *testing.T, b *bench) {
	var wg sync.WaitGroup
	for range 6 {
		spec := b.spec("print", "here")
		wg.Go(func() {
			if _, got := b.finish(t, spec); !slices.Equal(got, []string{"here"}) {
				t.Errorf("%s printed %q", spec.ID, got)
			}
		})
	}
	wg.Wait()
	id := b.run(t, b.spec("wait", "0"))
	for range 4 {
		wg.Go(func() {
			if err := b.d.Remove(t.Context(), id); err != nil {
				t.Errorf("removing from several sides: %v", err)
			}
		})
	}
	wg.Wait()
}

func testReuse(t *testing.T, b *bench) {
	spec := b.spec("print", "again")
	for range 2 {
		if exit, _ := b.finish(t, spec); exit.Code != 0 {
			t.Errorf("exit %+v", exit)
		}
	}
	if got := b.rec.get(spec.ID, sandbox.Stdout); len(got) != 2 {
		t.Errorf("two lives printed %q", got)
	}
}

func testPullAgain(t *testing.T, b *bench) {
	want, err := b.d.Pull(t.Context(), b.m.Image)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := b.d.Pull(t.Context(), b.m.Image)
			if err != nil {
				t.Errorf("pulling again: %v", err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pulling again (-first +now):\n%s", diff)
			}
		})
	}
	wg.Wait()
}
