// Command prog runs package prog as a process of its own.
package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/hearth-compute/hearth/sandbox/sandboxtest/prog"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	dir, _ := os.Getwd()
	code := prog.Run(ctx, prog.World{
		Args: os.Args[1:], Env: os.Environ(), Dir: dir, Stdout: os.Stdout, Stderr: os.Stderr,
		IgnoreTerm: func() { signal.Ignore(syscall.SIGTERM) },
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
		Listen: func(ctx context.Context, address string) (net.Listener, error) {
			return new(net.ListenConfig).Listen(ctx, "tcp", address)
		},
	})
	stop()
	os.Exit(code)
}
