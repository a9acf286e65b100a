// Command hearth-init is PID 1 of every sandbox: it starts the command,
// forwards signals to it, reaps orphans and ends with the command's exit code.
//
//	hearth-init [-link ADDRESS] [-helpers DIRECTORY] [-C DIRECTORY] -- FILE[:FILE…] [ARGUMENT…]
//
// The first FILE that exists is run, in DIRECTORY; one without a slash is looked
// for in PATH. The exit code is the command's, 128+n if signal n ended it. When
// the command cannot be started the exit code is 127 if no FILE exists, 126 if
// it cannot be executed and 125 if DIRECTORY cannot be entered, and the one line
// that was printed begins with "hearth-init: " and says why, in AWS's words.
//
// With -link it first dials the sandbox's owner and speaks sandbox/link with it:
// every exit is reported, and the files of the helpers' directory, if there are
// any, are started as the owner says, and the command after them. It ends when
// nothing it started is left, when it is told to, or when the command has ended
// and nobody has answered for a minute; what still runs ends with it.
package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
)

// Exit codes as shells use them, and one before.
const (
	exitUsage         = 64
	exitNoDirectory   = 125
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignalBase    = 128
)

// What the kernel reads at most to find out how to run a file.
const (
	maxShebang = 256
	maxLoader  = 4096
)

const usage = "usage: hearth-init [-link ADDRESS] [-helpers DIRECTORY] [-C DIRECTORY] -- FILE[:FILE...] [ARGUMENT...]"

func main() {
	os.Exit(run(os.Args[1:], os.Stderr))
}

// options are the command line.
type options struct {
	// link is the address of the owner, and helpers a directory; both may be empty.
	link, helpers string
	directory     string
	command       []string
}

func parse(args []string) (o options, ok bool) {
	o.directory = "."
	flags := map[string]*string{"-link": &o.link, "-helpers": &o.helpers, "-C": &o.directory}
	for len(args) >= 2 && flags[args[0]] != nil {
		*flags[args[0]] = args[1]
		args = args[2:]
	}
	if len(args) < 2 || args[0] != "--" {
		return o, false
	}
	o.command = args[1:]
	return o, true
}

func run(args []string, stderr io.Writer) int {
	o, ok := parse(args)
	if !ok {
		_, _ = fmt.Fprintln(stderr, usage)
		return exitUsage
	}
	signals := make(chan os.Signal, 16) // signals that may arrive while one is handled
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	return newSupervisor(o, stderr, signals).run()
}

// fault is why the command cannot be started.
type fault struct {
	err  error
	code int
}

// startCommand starts the command in its directory.
func startCommand(o options) (pid int, cannot *fault) {
	if err := os.Chdir(o.directory); err != nil {
		return 0, &fault{err, exitNoDirectory}
	}
	file, err := choose(o.command[0])
	if err != nil {
		return 0, &fault{err, exitNotFound}
	}
	child, err := os.StartProcess(file, append([]string{file}, o.command[1:]...), &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Env:   os.Environ(),
	})
	switch {
	case err != nil && errors.Is(err, os.ErrNotExist) && !exists(file):
		return 0, &fault{err, exitNotFound}
	case err != nil:
		return 0, &fault{explain(file, err), exitNotExecutable}
	}
	return child.Pid, nil
}

// choose returns the first of the colon-separated files that exists and is no
// directory. A single path is taken as it is.
func choose(list string) (string, error) {
	files := strings.Split(list, ":")
	if len(files) == 1 && strings.Contains(list, "/") {
		return list, nil
	}
	var found, directories []string
	for _, file := range files {
		if path, err := exec.LookPath(file); err == nil && !strings.Contains(file, "/") {
			return path, nil
		}
		info, err := stat(file)
		switch {
		case err == nil && info.IsDir():
			directories = append(directories, file+" is a directory")
		case err == nil, !errors.Is(err, os.ErrNotExist): // starting it will tell
			found = append(found, file)
		}
	}
	switch {
	case len(found) > 0:
		return found[0], nil
	case len(files) == 1:
		return "", fmt.Errorf("exec: %q: executable file not found in $PATH", list)
	case len(directories) > 0:
		return "", fmt.Errorf("Couldn't find valid bootstrap(s): %v: %s", files, strings.Join(directories, ", ")) //nolint:staticcheck // ST1005: AWS's words
	}
	return "", fmt.Errorf("Couldn't find valid bootstrap(s): %v", files) //nolint:staticcheck // ST1005: AWS's words
}

// explain adds to what the kernel said about a file that exists what is wrong
// with it.
func explain(file string, err error) error {
	why := ""
	switch {
	case errors.Is(err, syscall.ENOENT):
		why = explainMissing(file)
	case errors.Is(err, syscall.ENOEXEC):
		why = explainFormat(file)
	case errors.Is(err, syscall.EACCES):
		if info, e := stat(file); e == nil && info.Mode()&0o111 == 0 {
			why = "it is not executable, its mode is " + info.Mode().String()
		} else if e == nil && info.IsDir() {
			why = "it is a directory"
		}
	}
	if why == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, why)
}

// explainMissing: a file that exists needs another that does not.
func explainMissing(file string) string {
	switch kind, name := runsWith(file); {
	case name == "":
		return "its interpreter or loader is not in the image"
	case exists(name):
		return fmt.Sprintf("its %s %q is in the image, but what that needs in turn is not", kind, name)
	default:
		return fmt.Sprintf("its %s %q is not in the image", kind, name)
	}
}

// explainFormat: the kernel does not know how to run it.
func explainFormat(file string) string {
	if info, err := stat(file); err == nil && info.Size() == 0 {
		return "it is empty"
	}
	if program, err := elf.Open(file); err == nil {
		defer func() { _ = program.Close() }()
		return fmt.Sprintf("it is a program for %s, this machine is %s", machine(program.Machine), runtime.GOARCH)
	}
	return "it is neither a program nor a script that begins with #!"
}

// machine is an architecture as people call it.
func machine(m elf.Machine) string {
	switch m { //nolint:exhaustive // there are hundreds
	case elf.EM_X86_64:
		return "amd64"
	case elf.EM_AARCH64:
		return "arm64"
	}
	return strings.ToLower(strings.TrimPrefix(m.String(), "EM_"))
}

func stat(file string) (os.FileInfo, error) {
	return os.Stat(file) //nolint:gosec,nolintlint // G703, found in some runs only: the command of the sandbox, seen with its rights
}

func exists(file string) bool {
	_, err := stat(file)
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
