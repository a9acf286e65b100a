package boot

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
)

// The exit codes of every daemon.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// Main runs a program and exits: 0 when run returns nil or flag.ErrHelp, 2 when
// it returns an InvalidArgument, which is a mistake in flags, and 1 for every
// other error. The context ends with the first SIGTERM or SIGINT, which should
// start the shutdown; a second one kills the process.
func Main(run func(ctx context.Context) error) {
	SurviveBrokenPipes()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // gives the signals their usual effect again
	drop := holdHeap()
	err := run(ctx)
	drop()
	stop()
	os.Exit(exitCode(err, filepath.Base(os.Args[0]), os.Stderr))
}

// SurviveBrokenPipes makes a write to a standard output that nobody reads an
// error instead of the end of the process: who reads the log must not decide
// whether a shutdown is finished. Unlike signal.Ignore it does not reach the
// programs this one starts.
func SurviveBrokenPipes() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// exitCode says on w what went wrong, if anything did.
func exitCode(err error, program string, w io.Writer) int {
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return exitOK
	case errdefs.IsInvalidArgument(err):
		_, _ = fmt.Fprintf(w, "%s: %v\n", program, err)
		return exitUsage
	default:
		_, _ = fmt.Fprintf(w, "%s: %v\n", program, err)
		return exitFailed
	}
}
