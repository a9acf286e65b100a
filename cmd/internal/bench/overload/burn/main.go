// Command burn is the function of the overload benchmark: it uses as much CPU
// time as its event says, holds memory, waits, and leaves files in /tmp.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"golang.org/x/sys/unix"
)

// Event is what one invocation does; every member is optional.
type Event struct {
	// CPUMicros is CPU time to use, HoldMillis how long to wait then, both
	// measured, not counted in rounds of a loop.
	CPUMicros  int64 `json:"cpuMicros"`
	HoldMillis int64 `json:"holdMillis"`
	// HoldMB is memory to write to and keep meanwhile, in MiB.
	HoldMB int `json:"holdMB"`
	// FillMB is how large a file to leave in /tmp, in MiB.
	FillMB int `json:"fillMB"`
}

func main() { lambda.Start(handle) }

func handle(_ context.Context, e Event) (err error) {
	if e.HoldMB > 0 {
		held, err := hold(e.HoldMB << 20)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Munmap(held) }()
	}
	if e.CPUMicros > 0 {
		if err := burn(time.Duration(e.CPUMicros) * time.Microsecond); err != nil {
			return err
		}
	}
	if e.FillMB > 0 {
		return fill(e.FillMB << 20)
	}
	time.Sleep(time.Duration(e.HoldMillis) * time.Millisecond)
	return nil
}

// burn uses CPU time on a thread of its own, so that the kernel shares the CPU
// among invocations and tells each what it had.
func burn(d time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start, err := threadTime()
	if err != nil {
		return err
	}
	for x := uint64(1); ; {
		for range 20_000 { // some ten microseconds
			x = x*6364136223846793005 + 1442695040888963407
		}
		now, err := threadTime()
		if err != nil || now-start >= d {
			runtime.KeepAlive(x)
			return err
		}
	}
}

func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("reading the thread's CPU time: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// hold maps memory and writes to every page of it: it is given back at once when
// it is unmapped, whatever the garbage collector does.
func hold(bytes int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("holding %d bytes: %w", bytes, err)
	}
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	return b, nil
}

func fill(bytes int) (err error) {
	f, err := os.CreateTemp("/tmp", "fill-")
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
	}()
	piece := make([]byte, 1<<20)
	for range bytes / len(piece) {
		if _, err := f.Write(piece); err != nil {
			return err
		}
	}
	return nil
}
