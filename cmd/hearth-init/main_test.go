package main

import (
	"bufio"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/sandbox"
)

// role tells the test binary, run again as another process, what to be.
const role = "HEARTH_INIT_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "init":
		_ = os.Setenv(role, "command")
		os.Exit(run(os.Args[1:], os.Stderr))
	case "helper":
		os.Exit(helpsAs(filepath.Base(os.Args[0])))
	default:
		os.Exit(command(os.Args[1:]))
	}
}

// command is what init runs in these tests.
func command(args []string) int {
	switch args[0] {
	case "exit":
		code, _ := strconv.Atoi(args[1])
		return code
	case "die":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "await": // tells which signal came
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("ready")
		fmt.Println(<-signals)
		return 5
	case "show":
		fmt.Println(os.Getpid(), os.Getppid(), os.Getuid(), strings.Join(args[1:], "|"))
		return 0
	case "directory":
		dir, _ := os.Getwd()
		fmt.Println(dir)
		return 0
	case "orphans":
		return orphans(args)
	case "orphan": // starts a process that outlives it
		if err := exec.Command(os.Args[0], "exit", "0").Start(); err != nil {
			return 3
		}
		return 0
	}
	return 2
}

// orphans makes orphans and waits until init has taken each of them in and
// reaped it: none of their numbers can be signalled any more.
func orphans(args []string) int {
	count, _ := strconv.Atoi(args[1])
	for range count {
		if err := exec.Command(os.Args[0], "orphan").Run(); err != nil {
			return 4
		}
	}
	deadline := time.NewTimer(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	for {
		alive := 0
		for pid := 2; pid < 5_000; pid++ { // numbers in a fresh namespace are small
			if pid != os.Getpid() && unix.Tgkill(pid, pid, 0) == nil {
				alive++
			}
		}
		if alive == 0 {
			return 0
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			fmt.Println(alive, "are left")
			return 6
		}
	}
}

// start runs a file as hearth-init with the attributes attr.
func start(t *testing.T, file string, attr *syscall.SysProcAttr, args ...string) (cmd *exec.Cmd, stdout io.Reader, stderr *bytes.Buffer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), file, args...)
	var err error
	cmd.Env = append(os.Environ(), role+"=init")
	cmd.SysProcAttr = attr
	stderr = new(bytes.Buffer)
	cmd.Stderr = stderr
	stdout, err = cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, stdout, stderr
}

// finish runs hearth-init to its end.
func finish(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return finishFile(t, self(t), nil, args...)
}

func finishFile(t *testing.T, file string, attr *syscall.SysProcAttr, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd, out, errs := start(t, file, attr, args...)
	content, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	return wait(t, cmd), string(content), errs.String()
}

func wait(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEndsWithTheCommandsExitCode(t *testing.T) {
	t.Parallel()
	for _, want := range []int{0, 1, 77, 255} {
		if code, _, stderr := finish(t, "--", self(t), "exit", strconv.Itoa(want)); code != want || stderr != "" {
			t.Errorf("got %d %q, want %d", code, stderr, want)
		}
	}
}

func TestASignalThatEndsTheCommandIsAddedTo128(t *testing.T) {
	t.Parallel()
	if code, _, _ := finish(t, "--", self(t), "die"); code != 137 {
		t.Errorf("got %d, want 137", code)
	}
}

func TestRunsTheFirstFileThatExists(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // a directory is no command
	code, stdout, _ := finish(t, "--", "/nowhere:"+dir+":"+self(t)+":/bin/false", "show", "a b", "")
	if code != 0 || !strings.HasSuffix(stdout, " a b|\n") {
		t.Errorf("got %d %q", code, stdout)
	}
	if code, _, stderr := finish(t, "--", "hearth-nowhere:true"); code != 0 {
		t.Errorf("from PATH: got %d %q", code, stderr)
	}
}

func TestSaysInOneLineWhyItCannotRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	foreign := elf.EM_AARCH64
	if runtime.GOARCH == "arm64" {
		foreign = elf.EM_X86_64
	}
	for name, content := range map[string][]byte{
		"plain": []byte("text"), "text": []byte("text"), "empty": nil, "foreign": program(t, foreign, "/nowhere"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if name != "plain" {
			if err := os.Chmod(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	machines := map[elf.Machine]string{elf.EM_AARCH64: "arm64", elf.EM_X86_64: "amd64"}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--", "/nowhere/a:/nowhere/b"}, 127, "hearth-init: Couldn't find valid bootstrap(s): [/nowhere/a /nowhere/b]"},
		{[]string{"--", "/nowhere/a:" + dir}, 127, "hearth-init: Couldn't find valid bootstrap(s): [/nowhere/a " + dir + "]: " + dir + " is a directory"},
		{[]string{"--", "/nowhere/a"}, 127, "hearth-init: fork/exec /nowhere/a: no such file or directory"},
		{[]string{"--", "hearth-nowhere"}, 127, `hearth-init: exec: "hearth-nowhere": executable file not found in $PATH`},
		{[]string{"--", dir + "/plain"}, 126, "hearth-init: fork/exec " + dir + "/plain: permission denied: it is not executable, its mode is -rw-------"},
		{[]string{"--", "/nowhere:" + dir + "/plain"}, 126, "hearth-init: fork/exec " + dir + "/plain: permission denied: it is not executable, its mode is -rw-------"},
		{[]string{"--", dir}, 126, "hearth-init: fork/exec " + dir + ": permission denied: it is a directory"},
		{[]string{"--", dir + "/text"}, 126, "hearth-init: fork/exec " + dir + "/text: exec format error: it is neither a program nor a script that begins with #!"},
		{[]string{"--", dir + "/empty"}, 126, "hearth-init: fork/exec " + dir + "/empty: exec format error: it is empty"},
		{[]string{"--", dir + "/foreign"}, 126, "hearth-init: fork/exec " + dir + "/foreign: exec format error: it is a program for " + machines[foreign] + ", this machine is " + runtime.GOARCH},
		{[]string{"-C", "/nowhere", "--", self(t), "exit", "0"}, 125, "hearth-init: chdir /nowhere: no such file or directory"},
		{[]string{"-C", dir + "/plain", "--", self(t), "exit", "0"}, 125, "hearth-init: chdir " + dir + "/plain: not a directory"},
		{[]string{"--"}, 64, usage},
		{[]string{"-C", "/"}, 64, usage},
		{[]string{self(t), "exit", "0"}, 64, usage},
		{nil, 64, usage},
	} {
		code, _, stderr := finish(t, c.args...)
		if code != c.code || stderr != c.says+"\n" {
			t.Errorf("%q: got %d %q, want %d %q", c.args, code, stderr, c.code, c.says)
		}
	}
}

func TestTheCommandRunsInTheDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink(self(t), filepath.Join(dir, "command")); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := finish(t, "-C", dir, "--", "./command", "directory")
	if code != 0 || stdout != dir+"\n" {
		t.Errorf("got %d %q %q", code, stdout, stderr)
	}
}

// TestTheContractOfTheDriversIsKept: this program takes the codes from nowhere,
// to stay small.
func TestTheContractOfTheDriversIsKept(t *testing.T) {
	t.Parallel()
	if exitNoDirectory != sandbox.ExitNoDirectory || exitNotExecutable != sandbox.ExitNotExecutable || exitNotFound != sandbox.ExitNotFound {
		t.Error("the exit codes are others")
	}
	if _, _, stderr := finish(t, "--", "/nowhere"); !strings.HasPrefix(stderr, sandbox.NotStarted) {
		t.Errorf("the line is %q", stderr)
	}
}

func TestNamesTheInterpreterOrLoaderThatIsMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, c := range map[string]struct {
		content []byte
		says    string
	}{
		"script":    {[]byte("#!/nowhere/node --flag\ncode\n"), `its interpreter "/nowhere/node" is not in the image`},
		"spaces":    {[]byte("#! \t/nowhere/sh\t-e\n"), `its interpreter "/nowhere/sh" is not in the image`},
		"windows":   {[]byte("#!/bin/sh\r\nexit 0\r\n"), `its interpreter "/bin/sh\r" is not in the image`},
		"program":   {program(t, machineHere(), "/nowhere/ld.so"), `its loader "/nowhere/ld.so" is not in the image`},
		"by_script": {[]byte("#!" + dir + "/program\n"), `its interpreter "` + dir + `/program" is in the image, but what that needs in turn is not`},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(dir, name)
			code, _, stderr := finish(t, "--", file)
			if want := "hearth-init: fork/exec " + file + ": no such file or directory: " + c.says + "\n"; code != 126 || stderr != want {
				t.Errorf("got %d %q, want 126 and %q", code, stderr, want)
			}
		})
	}
}

func machineHere() elf.Machine {
	if runtime.GOARCH == "arm64" {
		return elf.EM_AARCH64
	}
	return elf.EM_X86_64
}

// program is the least that the kernel takes for a program with a loader.
func program(t *testing.T, machine elf.Machine, loader string) []byte {
	t.Helper()
	const header, entry = 64, 56
	loader += "\x00"
	size := uint64(len(loader))
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_DYN), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
			Phoff: header, Ehsize: header, Phentsize: entry, Phnum: 1,
		},
		elf.Prog64{Type: uint32(elf.PT_INTERP), Flags: uint32(elf.PF_R), Off: header + entry, Filesz: size, Memsz: size, Align: 1},
		[]byte(loader),
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestForwardsSignals(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd, stdout, _ := start(t, self(t), nil, "--", self(t), "await")
		lines := bufio.NewScanner(stdout)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("the command said %q", lines.Text())
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != sig.String() {
			t.Errorf("the command got %q, want %s", lines.Text(), sig)
		}
		if code := wait(t, cmd); code != 5 {
			t.Errorf("ended with %d, want 5", code)
		}
	}
}
