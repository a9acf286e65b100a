package sandboxtest

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hearth-compute/hearth/sandbox"
)

// restart tests what a driver finds when it is opened over sandboxes that
// another one made.
func restart(t *testing.T, machine func(t *testing.T) Machine) {
	m := machine(t)
	rec := &recorder{lines: map[key][]string{}}
	first := m.Open(t, rec.record)
	if _, err := first.Pull(t.Context(), m.Image); err != nil {
		t.Fatalf("pulling: %v", err)
	}
	b := &bench{m: m, d: first, rec: rec, prefix: "r"}
	created, running, ended := prepare(t, b)
	before, err := first.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	listenOnce(t, first, running) // and close, as the kernel does when a process ends
	if err := first.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}

	second := m.Open(t, rec.record)
	t.Cleanup(func() { _ = second.Close() })
	b.d = second
	after, err := second.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the list changed over a restart (-before +after):\n%s", diff)
	}
	events := watching(t, second)
	await(t, "the exit from before the restart", func() bool { _, ok := delivered(events(), ended); return ok })

	listenOnce(t, second, running)
	if err := second.Start(t.Context(), created); err != nil {
		t.Fatalf("starting what the first driver created: %v", err)
	}
	await(t, "output after the restart", func() bool {
		return slices.Equal(rec.get(created, sandbox.Stdout), []string{"late"})
	})
	if err := second.Stop(t.Context(), running, patience); err != nil {
		t.Fatal(err)
	}
	if s, _ := find(t, second, running); s.Exit.Code != 9 {
		t.Errorf("an adopted sandbox ended with %+v, want 9", s.Exit)
	}
	await(t, "the exit after the restart", func() bool { _, ok := delivered(events(), running); return ok })
	for _, s := range after {
		if err := second.Remove(t.Context(), s.ID); err != nil {
			t.Errorf("removing: %v", err)
		}
	}
}

func listenOnce(t *testing.T, d Driver, id sandbox.ID) {
	t.Helper()
	l, err := d.Listen(t.Context(), id, address)
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closing the listener: %v", err)
	}
}

// prepare makes one sandbox in each state.
func prepare(t *testing.T, b *bench) (created, running, ended sandbox.ID) {
	t.Helper()
	c := b.spec("print", "late")
	c.Labels = map[string]string{"k": "v"}
	c.Metadata = []byte("secret")
	if _, err := b.d.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	start := func(args ...string) sandbox.ID {
		spec := b.spec(args...)
		if _, err := b.d.Create(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if err := b.d.Start(t.Context(), spec.ID); err != nil {
			t.Fatal(err)
		}
		return spec.ID
	}
	running = start("wait", "9")
	await(t, "the program", func() bool { return len(b.rec.get(running, sandbox.Stdout)) > 0 })
	ended = start("exit", "4")
	if exit := b.awaitStopped(t, ended); exit.Code != 4 {
		t.Fatalf("exit %+v", exit)
	}
	return c.ID, running, ended
}
