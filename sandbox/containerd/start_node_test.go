//go:build node

package containerd_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/sandbox"
)

// ending is an exit and what had been printed when it was told.
type ending struct {
	exit  sandbox.Exit
	lines []string
}

// ends runs sandboxes to their ends.
func (w world) ends(t *testing.T, specs ...sandbox.Spec) map[sandbox.ID]ending {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, fmt.Errorf("not all ended"))
	defer cancel()
	told := make(chan sandbox.Event, 2*len(specs)) // each may be told twice
	results := map[sandbox.ID]ending{}
	var watching sync.WaitGroup
	defer watching.Wait()
	watchCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	snapshots := sync.Map{}
	watching.Go(func() {
		_ = w.Watch(watchCtx, func(e sandbox.Event) {
			snapshots.LoadOrStore(e.ID, w.out.get(e.ID))
			select {
			case told <- e:
			default:
			}
		})
	})
	for _, s := range specs {
		if _, err := w.Pull(ctx, s.Image); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Create(ctx, s); err != nil {
			t.Fatal(err)
		}
		if err := w.Start(ctx, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	for len(results) < len(specs) {
		select {
		case e := <-told:
			lines, _ := snapshots.Load(e.ID)
			text, _ := lines.([]string)
			results[e.ID] = ending{e.Exit, text}
		case <-ctx.Done():
			t.Fatalf("%v: %d of %d", context.Cause(ctx), len(results), len(specs))
		}
	}
	for _, s := range specs {
		if err := w.Remove(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
	}
	return results
}

func TestTheEndIsToldAfterAllThatWasPrinted(t *testing.T) {
	w := newWorld(t)
	var specs []sandbox.Spec
	for i := range 20 {
		specs = append(specs, spec(t, sandbox.ID(fmt.Sprintf("last-words-%d", i)), "print", "first", strings.Repeat("x", 100_000), "last words"))
	}
	for id, e := range w.ends(t, specs...) {
		if len(e.lines) != 3 || e.lines[2] != "last words" || e.exit.Code != 0 {
			t.Errorf("%s: %d lines had come with its end, code %d", id, len(e.lines), e.exit.Code)
		}
	}
}

// TestWhatCannotBeStartedSaysWhy: nothing of it runs, and nothing is made to let
// it run.
func TestWhatCannotBeStartedSaysWhy(t *testing.T) {
	w := newWorld(t)
	lost := spec(t, "no-directory", "print", "x")
	lost.WorkingDir = "/home/nobody/there"
	missing := spec(t, "no-command")
	missing.Args = []string{"/nowhere/entry.sh"}
	relative := spec(t, "relative", "dir")
	relative.Args, relative.WorkingDir = []string{"./prog", "dir"}, "/var/task"
	data := spec(t, "not-executable")
	data.Args = []string{"/etc/passwd"}
	want := map[sandbox.ID]struct {
		code int
		line string
	}{
		"no-directory":   {sandbox.ExitNoDirectory, "hearth-init: chdir /home/nobody/there: no such file or directory"},
		"no-command":     {sandbox.ExitNotFound, "hearth-init: fork/exec /nowhere/entry.sh: no such file or directory"},
		"not-executable": {sandbox.ExitNotExecutable, "hearth-init: fork/exec /etc/passwd: permission denied: it is not executable, its mode is -rw-r--r--"},
		"relative":       {0, "/var/task"},
	}
	for id, e := range w.ends(t, lost, missing, relative, data) {
		if line := want[id]; e.exit.Code != line.code || len(e.lines) != 1 || e.lines[0] != line.line {
			t.Errorf("%s: got %d %q, want %+v", id, e.exit.Code, e.lines, line)
		}
	}
}
