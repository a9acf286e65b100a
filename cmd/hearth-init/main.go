// Command hearth-init is PID 1 of every sandbox: it starts the command,
// forwards signals to it, reaps orphans and ends with the command's exit code.
//
//	hearth-init -- FILE[:FILE…] [ARGUMENT…]
//
// The first FILE that exists is run; one without a slash is looked for in PATH.
// The exit code is the command's, 128+n if
// signal n ended it, 127 if no FILE exists and 126 if it cannot be executed.
package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes as shells use them.
const (
	exitUsage         = 64
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignalBase    = 128
)

// What the kernel reads at most to find out how to run a file.
const (
	maxShebang = 256
	maxLoader  = 4096
)

func main() {
	os.Exit(run(os.Args[1:], os.Stderr))
}

func run(args []string, stderr io.Writer) int {
	if len(args) < 2 || args[0] != "--" {
		_, _ = fmt.Fprintln(stderr, "usage: hearth-init -- FILE[:FILE...] [ARGUMENT...]")
		return exitUsage
	}
	args = args[1:]
	file, err := choose(args[0])
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "hearth-init: %v\n", err)
		return exitNotFound
	}
	signals := make(chan os.Signal, 16) // signals that may arrive while one is forwarded
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	child, err := os.StartProcess(file, append([]string{file}, args[1:]...), &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Env:   os.Environ(),
	})
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "hearth-init: %v\n", explain(file, err))
		return exitNotExecutable
	}
	return supervise(child.Pid, signals)
}

// choose returns the first of the colon-separated files that exists.
func choose(list string) (string, error) {
	for file := range strings.SplitSeq(list, ":") {
		if found, err := exec.LookPath(file); err == nil && !strings.Contains(file, "/") {
			return found, nil
		}
		if info, err := os.Stat(file); err == nil && !info.IsDir() {
			return file, nil
		}
	}
	return "", fmt.Errorf("none of these exists: %s", list)
}

// explain says what is missing when a file that exists cannot be started because
// something does not exist: what the kernel was to run it with.
func explain(file string, err error) error {
	if !errors.Is(err, syscall.ENOENT) {
		return err
	}
	if _, missing := os.Stat(file); missing != nil {
		return err
	}
	switch kind, name := runsWith(file); {
	case name == "":
		return fmt.Errorf("starting %s: its interpreter or loader is not in the image", file)
	case exists(name):
		return fmt.Errorf("starting %s: its %s %q is in the image, but what that needs in turn is not", file, kind, name)
	default:
		return fmt.Errorf("starting %s: its %s %q is not in the image", file, kind, name)
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// runsWith returns the interpreter of a script or the loader of a program;
// empty if the file names neither or cannot be read.
func runsWith(file string) (kind, name string) {
	f, err := os.Open(file) //nolint:gosec // G304: the command of the sandbox, read with its rights
	if err != nil {
		return "", ""
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, maxShebang)
	n, _ := io.ReadFull(f, head)
	if script, ok := strings.CutPrefix(string(head[:n]), "#!"); ok {
		line, _, _ := strings.Cut(script, "\n")
		name, _, _ := strings.Cut(strings.TrimLeft(line, " \t"), " ")
		name, _, _ = strings.Cut(name, "\t")
		return "interpreter", name // a carriage return is part of it
	}
	program, err := elf.NewFile(f)
	if err != nil {
		return "", ""
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz <= maxLoader {
			loader := make([]byte, p.Filesz)
			_, _ = p.ReadAt(loader, 0)
			return "loader", strings.TrimRight(string(loader), "\x00")
		}
	}
	return "", ""
}

// supervise forwards signals to the child and reaps whatever ends, until the
// child itself has.
func supervise(child int, signals <-chan os.Signal) int {
	for {
		if code, done := reap(child); done {
			return code
		}
		if sig, ok := (<-signals).(syscall.Signal); ok && sig != syscall.SIGCHLD {
			_ = syscall.Kill(child, sig)
		}
	}
}

// reap collects every process that has ended and says whether the child was
// among them.
func reap(child int) (code int, done bool) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || pid == 0:
			return 0, false
		case pid != child:
			continue
		case status.Signaled():
			return exitSignalBase + int(status.Signal()), true
		default:
			return status.ExitStatus(), true
		}
	}
}
