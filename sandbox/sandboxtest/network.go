package sandboxtest

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/sandbox"
)

// address is where the suite listens inside sandboxes.
const address = "127.0.0.1:9001"

// echo answers each connection with its first line in upper case, until the
// listener closes.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if line, err := bufio.NewReader(c).ReadString('\n'); err == nil {
				_, _ = fmt.Fprint(c, strings.ToUpper(line))
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

func testListen(t *testing.T, b *bench) {
	id := b.run(t, b.spec("wait", "0"))
	l, err := b.d.Listen(t.Context(), id, address)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Addr().String(); got != address {
		t.Errorf("listening on %s, want %s", got, address)
	}
	echo(t, l)
	if again, err := b.d.Listen(t.Context(), id, address); !errdefs.IsAlreadyExists(err) {
		t.Errorf("listening twice: %v %v, want AlreadyExists", again, err)
	}
	_, got := b.finish(t, b.spec("dial", address)) // another sandbox
	if !slices.Equal(got, []string{address + " silent"}) {
		t.Errorf("from another sandbox: %q", got)
	}
	if b.m.Kernel {
		if c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address); err == nil {
			_ = c.Close()
			t.Error("the listener answers on the host")
		}
	}
}

func testListenBeforeStart(t *testing.T, b *bench) {
	spec := b.spec("talk", address, "hello")
	b.create(t, spec)
	l, err := b.d.Listen(t.Context(), spec.ID, address)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	if err := b.d.Start(t.Context(), spec.ID); err != nil {
		t.Fatal(err)
	}
	b.awaitStopped(t, spec.ID)
	await(t, "the reply", func() bool { return len(b.rec.get(spec.ID, sandbox.Stdout)) > 0 })
	if got := b.rec.get(spec.ID, sandbox.Stdout); !slices.Equal(got, []string{"HELLO"}) {
		t.Errorf("the reply is %q", got)
	}
}
