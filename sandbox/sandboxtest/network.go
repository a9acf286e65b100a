package sandboxtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

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

func testDial(t *testing.T, b *bench) {
	const inside = "127.0.0.1:8123"
	id := b.run(t, b.spec("echo", inside))
	await(t, "the program listening", func() bool { return len(b.rec.get(id, sandbox.Stdout)) > 0 })
	for range 2 {
		if got := ask(t, b.d, id, inside); got != "HELLO\n" {
			t.Errorf("the reply is %q", got)
		}
	}
	other := b.run(t, b.spec("wait", "0"))
	for name, test := range map[string]struct {
		id      sandbox.ID
		address string
		class   func(error) bool
	}{
		"another port":    {id, "127.0.0.1:8124", errdefs.IsUnavailable},
		"another sandbox": {other, inside, errdefs.IsUnavailable},
		"a name":          {id, "localhost:8123", errdefs.IsInvalidArgument},
	} {
		if c, err := b.d.Dial(t.Context(), test.id, test.address); !test.class(err) {
			t.Errorf("dialling %s: %v %v", name, c, err)
		}
	}
}

// ask sends a line to an address in a sandbox and returns what comes back.
func ask(t *testing.T, d Driver, id sandbox.ID, address string) string {
	t.Helper()
	c, err := d.Dial(t.Context(), id, address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if got := c.RemoteAddr().String(); got != address {
		t.Errorf("connected to %s, want %s", got, address)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		t.Fatal(err)
	}
	reply, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(reply)
}
