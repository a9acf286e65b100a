package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper starts a process that stops itself, recognised by its two arguments.
func sleeper(t *testing.T) (*Process, []string) {
	t.Helper()
	mark := []string{"--mark", filepath.Join(t.TempDir(), "here")}
	p, err := Start(exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", "kill -STOP $$", "sh"}, mark...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.KillSession(); untilDead(t, p) })
	return p, mark
}

func untilDead(t *testing.T, p *Process) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); p.Alive(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", p.PID)
		}
	}
}

func TestEndedChildIsReapedAndSaysHowItEnded(t *testing.T) {
	t.Parallel()
	p, _ := sleeper(t)
	if !p.Alive() || p.Outcome() != "" {
		t.Fatalf("alive %t, outcome %q right after the start", p.Alive(), p.Outcome())
	}
	p.Signal(unix.SIGKILL)
	untilDead(t, p)
	if got := p.Outcome(); got != "killed by SIGKILL" {
		t.Errorf("got %q", got)
	}
	if _, err := os.Stat(procFile(p.PID, "stat")); !os.IsNotExist(err) {
		t.Errorf("process %d was not reaped: %v", p.PID, err)
	}
	failed, err := Start(exec.CommandContext(t.Context(), "/bin/sh", "-c", "exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	untilDead(t, failed)
	if got := failed.Outcome(); got != "exit status 3" {
		t.Errorf("got %q, want exit status 3", got)
	}
}

func TestNotedProcessIsRecalledOnlyWhileItIsTheSame(t *testing.T) {
	t.Parallel()
	p, mark := sleeper(t)
	path := filepath.Join(t.TempDir(), "pid")
	if Recall(path, mark...) != nil {
		t.Fatal("recalled what was never noted")
	}
	if err := p.Note(path); err != nil {
		t.Fatal(err)
	}
	if got := Recall(path, mark...); got == nil || got.PID != p.PID {
		t.Fatalf("got %+v, want process %d", got, p.PID)
	}
	if got := Recall(path, "--mark", "elsewhere"); got != nil {
		t.Errorf("recalled %+v though its command line is another", got)
	}
	// A process id given to somebody else has another start time.
	other := &Process{PID: p.PID, StartTime: p.StartTime - 1}
	if err := other.Note(path); err != nil {
		t.Fatal(err)
	}
	if got := Recall(path, mark...); got != nil {
		t.Errorf("recalled %+v though the process id was recycled", got)
	}
	other.Signal(unix.SIGKILL)
	other.KillSession()
	if !p.Alive() {
		t.Error("a recycled process id was signalled")
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Recall(path, mark...); got != nil {
		t.Errorf("recalled %+v from a torn file", got)
	}
}

func TestFindSeesOnlyTheSameArgumentsInSequence(t *testing.T) {
	t.Parallel()
	p, mark := sleeper(t)
	found, err := Find(mark...)
	if err != nil || len(found) != 1 || found[0].PID != p.PID || found[0].StartTime != p.StartTime {
		t.Fatalf("got %+v, %v, want process %d", found, err, p.PID)
	}
	for _, args := range [][]string{{mark[1], mark[0]}, {mark[0], mark[1] + "x"}, {mark[0], filepath.Dir(mark[1])}} {
		if found, err := Find(args...); err != nil || len(found) != 0 {
			t.Errorf("%q: got %+v, %v, want none", args, found, err)
		}
	}
	p.KillSession()
	untilDead(t, p)
	if found, err := Find(mark...); err != nil || len(found) != 0 {
		t.Errorf("got %+v, %v, want none after it ended", found, err)
	}
}

func TestStatWithAnyNameIsRead(t *testing.T) {
	t.Parallel()
	line := "7 (a) R b) S 1 7 7 0 -1 4194304 101 0 0 0 0 0 0 0 20 0 1 0 143876 3133440 386\n"
	st, err := parseStat([]byte(line))
	if err != nil || st.state != 'S' || st.threads != 1 || st.start != 143876 {
		t.Errorf("got %+v, %v", st, err)
	}
	for _, bad := range []string{"", "7", "7 (a) S", "7 (a) S 1 7 7 0 -1 4194304 101 0 0 0 0 0 0 0 20 0 1 0 soon 0"} {
		if st, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, st)
		}
	}
}
