// Package prog is the program the conformance suite runs inside sandboxes. It
// is compiled into a static binary for real drivers and called directly by the
// fake, so both are asked for exactly the same.
package prog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// World is what a program can touch.
type World struct {
	// Args are the arguments after the program's name.
	Args []string
	// Env is the environment, "NAME=value".
	Env []string
	// Dir is the working directory.
	Dir string
	// Stdout and Stderr are the output streams.
	Stdout, Stderr io.Writer
	// Dial connects to a TCP address.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Listen opens a TCP listener.
	Listen func(ctx context.Context, address string) (net.Listener, error)
	// IgnoreTerm makes SIGTERM do nothing.
	IgnoreTerm func()
}

// dialLimit is how long an attempt to connect may take: longer than any answer
// on one machine.
const dialLimit = 2 * time.Second

var errNoAnswer = errors.New("no answer")

// Run does what the arguments say and returns the exit code. ctx ends when the
// process is told to end (SIGTERM):
//
//	exit CODE          end at once
//	wait CODE          print "waiting", end with CODE when told to
//	stubborn           the same, but do not listen
//	print TEXT…        one line each
//	errprint TEXT…     the same on stderr
//	raw TEXT           without a line ending
//	long SIZE          one line of SIZE bytes
//	env NAME           the value of a variable
//	dir                the working directory
//	cat FILE           the content of a file
//	write FILE SIZE    write SIZE bytes; prints "ok" or the error
//	mkdir DIR          prints "ok" or the error
//	spawn COUNT        start COUNT sleeping processes; prints how many there are
//	sleep              what spawn starts
//	allocate SIZE      touch SIZE bytes of memory
//	dial ADDRESS…      for each prints "answered" or "silent"
//	talk ADDRESS TEXT  send a line, print the line that comes back
//	serve ADDRESS      accept connections until told to end
//	echo ADDRESS       the same, and answer the first line of each in upper case
func Run(ctx context.Context, w World) int {
	if len(w.Args) == 0 {
		_, _ = fmt.Fprintln(w.Stderr, "no command")
		return 2
	}
	name, args := w.Args[0], w.Args[1:]
	command, ok := commands()[name]
	if !ok {
		_, _ = fmt.Fprintln(w.Stderr, "no such command:", name)
		return 2
	}
	return command(ctx, w, args)
}

func commands() map[string]func(context.Context, World, []string) int {
	return map[string]func(context.Context, World, []string) int{
		"exit":     func(_ context.Context, _ World, a []string) int { return number(a[0]) },
		"wait":     wait,
		"stubborn": func(ctx context.Context, w World, _ []string) int { w.IgnoreTerm(); return wait(ctx, w, []string{"0"}) },
		"print":    func(_ context.Context, w World, a []string) int { return printLines(w.Stdout, a) },
		"errprint": func(_ context.Context, w World, a []string) int { return printLines(w.Stderr, a) },
		"raw":      func(_ context.Context, w World, a []string) int { _, _ = io.WriteString(w.Stdout, a[0]); return 0 },
		"long": func(_ context.Context, w World, a []string) int {
			return printLines(w.Stdout, []string{strings.Repeat("x", number(a[0]))})
		},
		"env":      env,
		"dir":      func(_ context.Context, w World, _ []string) int { return printLines(w.Stdout, []string{w.Dir}) },
		"cat":      cat,
		"write":    write,
		"mkdir":    func(_ context.Context, w World, a []string) int { return verdict(w, os.Mkdir(a[0], 0o750)) },
		"spawn":    spawn,
		"sleep":    func(ctx context.Context, _ World, _ []string) int { <-ctx.Done(); return 0 },
		"allocate": allocate,
		"dial":     dial,
		"talk":     talk,
		"serve":    func(ctx context.Context, w World, a []string) int { return serve(ctx, w, a[0], func(net.Conn) {}) },
		"echo":     func(ctx context.Context, w World, a []string) int { return serve(ctx, w, a[0], echo) },
	}
}

func wait(ctx context.Context, w World, args []string) int {
	_, _ = fmt.Fprintln(w.Stdout, "waiting")
	<-ctx.Done()
	return number(args[0])
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

func printLines(w io.Writer, texts []string) int {
	for _, text := range texts {
		_, _ = fmt.Fprintln(w, text)
	}
	return 0
}

func verdict(w World, err error) int {
	if err != nil {
		_, _ = fmt.Fprintln(w.Stdout, err)
		return 1
	}
	_, _ = fmt.Fprintln(w.Stdout, "ok")
	return 0
}

func env(_ context.Context, w World, args []string) int {
	for _, e := range w.Env {
		if name, value, _ := strings.Cut(e, "="); name == args[0] {
			return printLines(w.Stdout, []string{value})
		}
	}
	return 1
}

func cat(_ context.Context, w World, args []string) int {
	content, err := os.ReadFile(args[0])
	if err != nil {
		return verdict(w, err)
	}
	_, _ = w.Stdout.Write(content)
	return 0
}

func write(_ context.Context, w World, args []string) int {
	f, err := os.Create(args[0])
	if err != nil {
		return verdict(w, err)
	}
	chunk := bytes.Repeat([]byte{1}, 64<<10)
	for left := number(args[1]); left > 0 && err == nil; left -= len(chunk) {
		_, err = f.Write(chunk[:min(left, len(chunk))])
	}
	return verdict(w, errors.Join(err, f.Close()))
}

func spawn(ctx context.Context, w World, args []string) int {
	self, err := os.Executable()
	if err != nil {
		return verdict(w, err)
	}
	started := 0
	for range number(args[0]) {
		if err := exec.CommandContext(ctx, self, "sleep").Start(); err != nil { //nolint:gosec // G204: ourselves
			break
		}
		started++
	}
	return printLines(w.Stdout, []string{strconv.Itoa(started)})
}

func allocate(_ context.Context, w World, args []string) int {
	memory := make([]byte, number(args[0]))
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	return printLines(w.Stdout, []string{"ok", strconv.Itoa(int(memory[0]))})
}

func dial(ctx context.Context, w World, args []string) int {
	answers := make([]string, len(args))
	var wg sync.WaitGroup
	for i, address := range args {
		wg.Go(func() {
			answers[i] = address + " silent"
			if c, err := connect(ctx, w, address); err == nil {
				answers[i] = address + " answered"
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	return printLines(w.Stdout, answers)
}

func connect(ctx context.Context, w World, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, errNoAnswer)
	defer cancel()
	return w.Dial(ctx, address)
}

func talk(ctx context.Context, w World, args []string) int {
	c, err := connect(ctx, w, args[0])
	if err != nil {
		return verdict(w, err)
	}
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintln(c, args[1]); err != nil {
		return verdict(w, err)
	}
	reply, err := io.ReadAll(c)
	if err != nil {
		return verdict(w, err)
	}
	_, _ = w.Stdout.Write(reply)
	return 0
}

func serve(ctx context.Context, w World, address string, answer func(net.Conn)) int {
	l, err := w.Listen(ctx, address)
	if err != nil {
		return verdict(w, err)
	}
	_, _ = fmt.Fprintln(w.Stdout, "serving")
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return 0
		}
		answer(c)
		_ = c.Close()
	}
}

func echo(c net.Conn) {
	if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
		_, _ = fmt.Fprint(c, strings.ToUpper(line))
	}
}
