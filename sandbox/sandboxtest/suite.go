// Package sandboxtest is the conformance suite of sandbox.Runtime: every driver
// passes it, so that what is tested with the fake holds with the real one.
package sandboxtest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/sandbox"
)

// Machine is a host with a driver to test.
type Machine struct {
	// Open starts a driver over the machine, as a new process would, and makes it
	// ready. The suite closes it, and opens another, at will.
	Open func(t *testing.T, output sandbox.Output) Driver
	// Image is one the driver can pull, MissingImage one it cannot find.
	Image, MissingImage sandbox.Image
	// Command runs package prog in Image with Mounts.
	Command string
	Mounts  []sandbox.Mount
	// User is one the image can run as.
	User sandbox.User
	// Kernel says that a kernel enforces limits and isolation. Without it the
	// tests of those are skipped.
	Kernel bool
}

// Driver is a sandbox.Runtime that can be closed.
type Driver interface {
	sandbox.Runtime
	io.Closer
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// Run runs the suite. machine is called for each part of the suite that needs a
// machine of its own, and cleans up after itself with t.Cleanup.
func Run(t *testing.T, machine func(t *testing.T) Machine) {
	t.Run("sandbox", func(t *testing.T) { shared(t, machine(t)) })
	t.Run("restart", func(t *testing.T) { restart(t, machine) })
}

func shared(t *testing.T, m Machine) {
	rec := &recorder{lines: map[key][]string{}}
	d := m.Open(t, rec.record)
	t.Cleanup(func() { _ = d.Close() })
	if _, err := d.Pull(t.Context(), m.Image); err != nil {
		t.Fatalf("pulling %s: %v", m.Image.Ref, err)
	}
	tests := []struct {
		name   string
		kernel bool
		test   func(t *testing.T, b *bench)
	}{
		{"lives from created to removed", false, testLife},
		{"create is refused for what cannot be", false, testCreateRefusals},
		{"operations on nothing", false, testNothing},
		{"start is for created sandboxes only", false, testStartTwice},
		{"exit codes arrive", false, testExitCodes},
		{"stop asks first and kills later", false, testStop},
		{"stop and remove are idempotent", false, testIdempotent},
		{"output comes line by line", false, testLines},
		{"environment and working directory", false, testEnvironment},
		{"list returns labels and metadata in order", false, testList},
		{"watch delivers exits, old ones too", false, testWatch},
		{"a listener is reached from inside only", false, testListen},
		{"a listener works before start", false, testListenBeforeStart},
		{"what listens inside is dialled", false, testDial},
		{"many at once", false, testMany},
		{"an id can be used again", false, testReuse},
		{"pulling again is harmless", false, testPullAgain},
		{"the process has no privilege", true, testNoPrivilege},
		{"everything but tmp is read-only", true, testReadOnly},
		{"tmp has its size", true, testTmpSize},
		{"processes are limited", true, testPIDs},
		{"memory is limited", true, testMemory},
		{"cpu is limited", true, testCPU},
		{"it has no protection from the kernel that others lack", true, testOOMScore},
		{"names of the sandbox itself", true, testHosts},
		{"the first alternative that exists is run", true, testAlternatives},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.kernel && !m.Kernel {
				t.Skip("this driver has no kernel")
			}
			t.Parallel()
			test.test(t, &bench{m: m, d: d, rec: rec, prefix: fmt.Sprintf("t%d", i)})
		})
	}
}

// bench is what one test works with.
type bench struct {
	m      Machine
	d      Driver
	rec    *recorder
	prefix string
	count  int
}

// spec returns the specification of a new sandbox that runs prog.
func (b *bench) spec(args ...string) sandbox.Spec {
	b.count++
	return sandbox.Spec{
		ID: sandbox.ID(fmt.Sprintf("%s-%d", b.prefix, b.count)), Image: b.m.Image,
		Args: append([]string{b.m.Command}, args...), Mounts: b.m.Mounts, User: b.m.User,
		Env:    []string{"GREETING=hello world", "EMPTY="},
		Limits: sandbox.Limits{CPU: 1000, Memory: 64 << 20, Tmp: 8 << 20, PIDs: 64, OpenFiles: 1024},
	}
}

// create creates a sandbox that is removed when the test ends.
func (b *bench) create(t *testing.T, spec sandbox.Spec) sandbox.Status {
	t.Helper()
	status, err := b.d.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("creating %s: %v", spec.ID, err)
	}
	t.Cleanup(func() {
		if err := b.d.Remove(context.WithoutCancel(t.Context()), spec.ID); err != nil {
			t.Errorf("removing %s: %v", spec.ID, err)
		}
	})
	return status
}

// run creates and starts a sandbox.
func (b *bench) run(t *testing.T, spec sandbox.Spec) sandbox.ID {
	t.Helper()
	b.create(t, spec)
	if err := b.d.Start(t.Context(), spec.ID); err != nil {
		t.Fatalf("starting %s: %v", spec.ID, err)
	}
	return spec.ID
}

// finish runs a sandbox to its end and returns how it ended and what it printed
// on stdout.
func (b *bench) finish(t *testing.T, spec sandbox.Spec) (sandbox.Exit, []string) {
	t.Helper()
	id := b.run(t, spec)
	exit := b.awaitStopped(t, id)
	if err := b.d.Remove(t.Context(), id); err != nil { // drains the output
		t.Fatalf("removing %s: %v", id, err)
	}
	return exit, b.rec.get(id, sandbox.Stdout)
}

func (b *bench) awaitStopped(t *testing.T, id sandbox.ID) sandbox.Exit {
	t.Helper()
	var exit sandbox.Exit
	await(t, fmt.Sprintf("sandbox %s stopping", id), func() bool {
		s, ok := find(t, b.d, id)
		exit = s.Exit
		return ok && s.State == sandbox.StateStopped
	})
	return exit
}

func find(t *testing.T, d Driver, id sandbox.ID) (sandbox.Status, bool) {
	t.Helper()
	all, err := d.List(t.Context())
	if err != nil {
		t.Fatalf("listing: %v", err)
	}
	i := slices.IndexFunc(all, func(s sandbox.Status) bool { return s.ID == id })
	if i < 0 {
		return sandbox.Status{}, false
	}
	return all[i], true
}

// await polls until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

type key struct {
	id     sandbox.ID
	stream sandbox.Stream
}

// recorder keeps all output.
type recorder struct {
	mu    sync.Mutex
	lines map[key][]string
}

func (r *recorder) record(id sandbox.ID, s sandbox.Stream, line []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines[key{id, s}] = append(r.lines[key{id, s}], string(line))
}

func (r *recorder) get(id sandbox.ID, s sandbox.Stream) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines[key{id, s}])
}
