package fake_test

import (
	"context"
	"testing"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/fake"
	"github.com/hearth-compute/hearth/sandbox/sandboxtest"
	"github.com/hearth-compute/hearth/sandbox/sandboxtest/prog"
)

// program runs the suite's program in a fake sandbox.
func program(ctx context.Context, p *fake.Process) int {
	dir := p.WorkingDir
	if dir == "" {
		dir = "/"
	}
	return prog.Run(ctx, prog.World{
		Args: p.Args[1:], Env: p.Env, Dir: dir, Stdout: p.Stdout, Stderr: p.Stderr,
		Dial: p.Dial, IgnoreTerm: p.IgnoreTerm,
	})
}

func TestConformance(t *testing.T) {
	t.Parallel()
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Machine {
		host := fake.NewHost()
		t.Cleanup(host.Close)
		host.AddImage("suite:1", fake.Image{Config: sandbox.ImageConfig{Digest: "sha256:1"}, Program: program})
		return sandboxtest.Machine{
			Open: func(_ *testing.T, output sandbox.Output) sandboxtest.Driver {
				return fake.New(host, output)
			},
			Image: sandbox.Image{Ref: "suite:1"}, MissingImage: sandbox.Image{Ref: "missing:1"},
			Command: "/prog", User: sandbox.User{UID: 993, GID: 990},
		}
	})
}
