package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/link"
)

// helpsAs is what a helper of these tests does.
func helpsAs(name string) int {
	switch strings.Split(name, "-")[0] {
	case "exits":
		return 3
	case "prints":
		fmt.Println(os.Getenv("GREETING"))
		fmt.Fprint(os.Stderr, strings.Repeat("x", link.MaxLine+1)+"\nthe end\r\nhalf a line")
		return 0
	case "waits":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		fmt.Println("waiting")
		fmt.Println("got", <-signals)
		return 7
	}
	return 99
}

// supervisedInit is a running hearth-init and the owner's end of its link.
type supervisedInit struct {
	*exec.Cmd
	t      *testing.T
	l      net.Listener
	conn   net.Conn
	frames *link.Reader
	stderr *bytes.Buffer
	stdout *bufio.Reader
}

// supervise starts hearth-init with helpers of these names.
func supervise(t *testing.T, helpers []string, command ...string) *supervisedInit {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "helpers")
	if err := os.MkdirAll(filepath.Join(dir, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range helpers {
		if err := os.Symlink(self(t), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return superviseIn(t, dir, command...)
}

func superviseIn(t *testing.T, dir string, command ...string) *supervisedInit {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	cmd, stdout, stderr := start(t, self(t), nil, append([]string{"-link", l.Addr().String(), "-helpers", dir, "--"}, command...)...)
	s := &supervisedInit{Cmd: cmd, t: t, l: l, stderr: stderr, stdout: bufio.NewReader(stdout)}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	s.accept()
	return s
}

func (s *supervisedInit) accept() {
	s.t.Helper()
	if l, ok := s.l.(*net.TCPListener); ok {
		_ = l.SetDeadline(time.Now().Add(10 * time.Second))
	}
	conn, err := s.l.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	s.conn, s.frames = conn, link.NewReader(conn)
}

func (s *supervisedInit) say(f link.Frame) {
	s.t.Helper()
	if _, err := s.conn.Write(link.Append(nil, f)); err != nil {
		s.t.Fatal(err)
	}
}

// hear wants exactly these frames next.
func (s *supervisedInit) hear(want ...link.Frame) {
	s.t.Helper()
	for _, w := range want {
		got, err := s.frames.Read()
		if err != nil {
			s.t.Fatalf("waiting for %+v: %v", w, err)
		}
		got.Text = slices.Clone(got.Text)
		if len(got.Text) == 0 {
			got.Text = nil
		}
		if diff := cmp.Diff(w, got); diff != "" {
			s.t.Fatal(diff)
		}
	}
}

// ends wants the exit code of init.
func (s *supervisedInit) ends(code int) {
	s.t.Helper()
	if _, err := io.ReadAll(s.stdout); err != nil {
		s.t.Error(err)
	}
	if got := wait(s.t, s.Cmd); got != code {
		s.t.Errorf("ended with %d, want %d: %s", got, code, s.stderr)
	}
}

func exited(name string, code, signal int) link.Frame {
	return link.Frame{Kind: link.Exited, Name: name, Code: code, Signal: signal}
}

func TestWithoutHelpersTheCommandStartsAtOnce(t *testing.T) {
	t.Parallel()
	s := supervise(t, nil, self(t), "exit", "5")
	s.hear(link.Frame{Kind: link.Found}, exited("", 5, 0))
	s.ends(5)
	s = supervise(t, nil, self(t), "die")
	s.hear(link.Frame{Kind: link.Found}, exited("", 137, 9))
	s.ends(137)
}

func TestNobodyAtTheOtherEndOfTheLinkIsNoReasonNotToStart(t *testing.T) {
	t.Parallel()
	if code, _, stderr := finish(t, "-link", "127.0.0.1:1", "-helpers", "/nowhere", "--", self(t), "exit", "6"); code != 6 || stderr != "" {
		t.Errorf("got %d %q", code, stderr)
	}
}

func TestHelpersStartWhenTheOwnerSaysSoAndTheCommandToo(t *testing.T) {
	t.Parallel()
	s := supervise(t, []string{"waits-b", "prints-a"}, self(t), "await")
	s.hear(link.Frame{Kind: link.Found, List: []string{"prints-a", "waits-b"}})
	s.say(link.Frame{Kind: link.Start, Name: "prints-a", List: []string{"GREETING=hello", role + "=helper"}})
	long := bytes.Repeat([]byte("x"), link.MaxLine)
	line := func(name string, text []byte) link.Frame {
		return link.Frame{Kind: link.Line, Name: name, Text: text}
	}
	s.hear(line("prints-a", []byte("hello")), line("prints-a", long), line("prints-a", []byte("x")), line("prints-a", []byte("the end")),
		line("prints-a", []byte("half a line")), exited("prints-a", 0, 0))
	s.ends(0) // nothing is left
	s = supervise(t, []string{"waits-b"}, self(t), "await")
	s.hear(link.Frame{Kind: link.Found, List: []string{"waits-b"}})
	for range 2 { // the second is one too many
		s.say(link.Frame{Kind: link.Start, Name: "waits-b", List: []string{role + "=helper"}})
	}
	s.hear(line("waits-b", []byte("waiting")))
	s.say(link.Frame{Kind: link.Start})
	if said, err := s.stdout.ReadString('\n'); err != nil || said != "ready\n" {
		t.Fatalf("the command said %q %v", said, err)
	}
	s.say(link.Frame{Kind: link.Signal, Signal: int(syscall.SIGTERM)})
	s.hear(exited("", 5, 0))
	s.say(link.Frame{Kind: link.Signal, Name: "waits-b", Signal: int(syscall.SIGTERM)})
	s.hear(line("waits-b", []byte("got terminated")), exited("waits-b", 7, 0))
	s.ends(5)
}

func TestSaysWhyAHelperCannotBeStarted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"plain": 0o600, "text": 0o700} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("text"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]link.Frame{
		"plain":         {Code: link.NotPermitted, Text: []byte("fork/exec " + dir + "/plain: permission denied: it is not executable, its mode is -rw-------")},
		"text":          {Code: 127, Text: []byte("fork/exec " + dir + "/text: exec format error: it is neither a program nor a script that begins with #!")},
		"../etc/passwd": {Code: 127, Text: []byte(`"../etc/passwd" is no helper: file does not exist`)},
	} {
		s := superviseIn(t, dir, self(t), "await")
		s.hear(link.Frame{Kind: link.Found, List: []string{"plain", "text"}})
		s.say(link.Frame{Kind: link.Start, Name: name})
		want.Kind, want.Name = link.Exited, name
		s.hear(want)
		s.ends(want.Code)
	}
}

func TestSaysWhyTheCommandCannotBeStarted(t *testing.T) {
	t.Parallel()
	s := supervise(t, []string{"waits-a"}, "/nowhere")
	s.hear(link.Frame{Kind: link.Found, List: []string{"waits-a"}})
	s.say(link.Frame{Kind: link.Start, Name: "waits-a", List: []string{role + "=helper"}})
	s.hear(link.Frame{Kind: link.Line, Name: "waits-a", Text: []byte("waiting")})
	s.say(link.Frame{Kind: link.Start})
	s.hear(link.Frame{Kind: link.Exited, Code: 127, Text: []byte("fork/exec /nowhere: no such file or directory")})
	s.say(link.Frame{Kind: link.End}) // the helper lives
	s.ends(127)
	if s.stderr.String() != "hearth-init: fork/exec /nowhere: no such file or directory\n" {
		t.Errorf("printed %q", s.stderr)
	}
}

func TestDialsAgainAndSaysEverythingOnceMore(t *testing.T) {
	t.Parallel()
	s := supervise(t, []string{"exits-a", "waits-b"}, self(t), "await")
	found := link.Frame{Kind: link.Found, List: []string{"exits-a", "waits-b"}}
	s.hear(found)
	s.say(link.Frame{Kind: link.Start, Name: "waits-b", List: []string{role + "=helper"}})
	s.hear(link.Frame{Kind: link.Line, Name: "waits-b", Text: []byte("waiting")})
	s.say(link.Frame{Kind: link.Start, Name: "exits-a", List: []string{role + "=helper"}})
	s.hear(exited("exits-a", 3, 0))
	for range 2 {
		_ = s.conn.Close()
		s.accept()
		s.hear(found, exited("exits-a", 3, 0))
	}
	s.say(link.Frame{Kind: link.Start})
	if said, err := s.stdout.ReadString('\n'); err != nil || said != "ready\n" {
		t.Fatalf("the command said %q %v", said, err)
	}
	if err := s.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ended := map[string]int{}
	for len(ended) < 2 {
		f, err := s.frames.Read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind == link.Exited {
			ended[f.Name] = f.Code
		}
	}
	if ended[""] != 5 || ended["waits-b"] != 7 {
		t.Errorf("got %v", ended)
	}
	s.ends(5)
}

// TestTheLineLengthIsThatOfTheDrivers: this program takes it from nowhere, to
// stay small.
func TestTheLineLengthIsThatOfTheDrivers(t *testing.T) {
	t.Parallel()
	if link.MaxLine != sandbox.MaxLine {
		t.Errorf("got %d, want %d", link.MaxLine, sandbox.MaxLine)
	}
}

func TestOutOfMemoryIsReadFromTheCgroup(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]int64{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n": 3, "oom 5\noom_kill 2\noom_group_kill 1\n": 2, "": 0, "oom_kill x": 0,
	} {
		if got := counter(content, "oom_kill "); got != want {
			t.Errorf("%q: got %d, want %d", content, got, want)
		}
	}
}
