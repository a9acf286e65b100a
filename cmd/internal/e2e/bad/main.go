// Command bad is the function the system tests publish to see it fail: it does
// what the variable BAD says instead of asking for an invocation.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	modes := map[string]func() int{
		"exit0":    func() int { return 0 },
		"exit1":    exits,
		"exit127":  func() int { fmt.Fprintln(os.Stderr, "sh: 1: nmp: not found"); return 127 },
		"panic":    panics,
		"error":    initError,
		"errors":   initErrors,
		"flood":    flood,
		"orphan":   orphan,
		"forkbomb": forkBomb,
		"tmp":      fillTmp,
		"memory":   fillMemory,
		"closed":   closed,
		"zombies":  zombies,
		"stubborn": stubborn,
		"sleep":    sleep,
		"serve":    serve,
	}
	mode, ok := modes[os.Getenv("BAD")]
	if !ok {
		fmt.Fprintf(os.Stderr, "bad: no such mode: %q\n", os.Getenv("BAD"))
		os.Exit(2)
	}
	os.Exit(mode())
}

func exits() int {
	fmt.Println("reading the configuration")
	fmt.Fprintln(os.Stderr, "no database: giving up")
	return 1
}

func panics() int {
	var counts map[string]int
	counts["x"]++ //nolint:staticcheck // SA5000: it panics
	return 0
}

// initError reports to the Runtime API what is wrong.
func initError() int {
	fmt.Println("loading the handler")
	url := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/init/error"
	body := strings.NewReader(`{"errorType":"Runtime.ImportModuleError","errorMessage":"no module named app"}`)
	resp, err := http.Post(url, "application/json", body) //nolint:gosec,noctx // the Runtime API
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	_ = resp.Body.Close()
	fmt.Println(resp.Status)
	return 1
}

// initErrors reports it for each of two workers, and ends as if all were well.
func initErrors() int {
	initError()
	initError()
	return 0
}

// flood prints 10 MB in one line that never ends.
func flood() int {
	chunk := bytes.Repeat([]byte("é"), 1<<15)
	for range 160 {
		_, _ = os.Stdout.Write(chunk)
	}
	_, _ = os.Stdout.WriteString("the very end")
	return 3
}

// again starts this program once more.
func again(mode string) error {
	cmd := exec.Command(os.Args[0]) //nolint:gosec,noctx // this program
	cmd.Env = append(os.Environ(), "BAD="+mode)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

// orphan leaves a process behind that nobody waits for.
func orphan() int {
	fmt.Println("leaving a child behind:", again("sleep"))
	return 4
}

// forkBomb makes processes until it cannot, without the memory for a program in
// each.
func forkBomb() int {
	for n := 0; ; n++ {
		pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if errno == 0 && pid == 0 {
			for {
				_, _, _ = syscall.RawSyscall6(syscall.SYS_PSELECT6, 0, 0, 0, 0, 0, 0)
			}
		}
		if errno != 0 {
			fmt.Printf("after %d processes: %v\n", n, errno)
			return 5
		}
	}
}

// fillTmp takes the whole disk.
func fillTmp() int {
	f, err := os.Create("/tmp/all") //nolint:gosec // G303: nobody shares it
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	for size := int64(64 << 20); ; size += 64 << 20 {
		if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
			fmt.Println("no space left:", errors.Is(err, syscall.ENOSPC), "before", size>>20, "MiB")
			return 6
		}
	}
}

// fillMemory takes memory until it is killed.
func fillMemory() int {
	fmt.Println("loading the model")
	for {
		if _, err := syscall.Mmap(-1, 0, 64<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_POPULATE); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
}

// closed ends without a way to say why.
func closed() int {
	_ = os.Stdout.Close()
	_ = os.Stderr.Close()
	return 7
}

// zombies has children that end and does not wait for them, then hangs.
func zombies() int {
	for range 100 {
		if err := again("exit0"); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("made zombies")
	return sleep()
}

// stubborn hangs and does not end when told to.
func stubborn() int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("waiting for something that never comes")
	return sleep()
}

func sleep() int {
	time.Sleep(time.Hour)
	return 0
}
