package sandboxtest

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hearth-compute/hearth/sandbox"
)

func testNoPrivilege(t *testing.T, b *bench) {
	_, status := b.finish(t, b.spec("cat", "/proc/self/status"))
	fields := map[string]string{}
	for _, line := range status {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	none := strings.Repeat("0", 16)
	four := func(n uint32) string {
		return strings.TrimSpace(strings.Repeat(strconv.Itoa(int(n))+" ", 4))
	}
	for name, want := range map[string]string{
		"Uid": four(b.m.User.UID), "Gid": four(b.m.User.GID), "Groups": "",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2", "PPid": "1",
	} {
		if got, ok := fields[name]; !ok || got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// testOOMScore wants what any process has: containerd, whose child a sandbox is,
// may be protected from the kernel.
func testOOMScore(t *testing.T, b *bench) {
	if _, got := b.finish(t, b.spec("cat", "/proc/self/oom_score_adj")); !slices.Equal(got, []string{"0"}) {
		t.Errorf("oom_score_adj is %q, want 0", got)
	}
}

func testReadOnly(t *testing.T, b *bench) {
	task := b.m.Mounts[0].Target
	for _, dir := range []string{"/x", "/etc/x", "/var/x", "/dev/x", "/sys/fs/cgroup/x", "/.hearth/x", task + "/x"} {
		if exit, got := b.finish(t, b.spec("mkdir", dir)); exit.Code == 0 {
			t.Errorf("mkdir %s: %q", dir, got)
		}
	}
	if _, got := b.finish(t, b.spec("write", "/dev/null", "10")); !slices.Equal(got, []string{"ok"}) {
		t.Errorf("writing to /dev/null: %q, want ok", got)
	}
	for _, dir := range []string{"/tmp/x", "/dev/shm/x"} {
		if _, got := b.finish(t, b.spec("mkdir", dir)); !slices.Equal(got, []string{"ok"}) {
			t.Errorf("mkdir %s: %q, want ok", dir, got)
		}
	}
}

func testTmpSize(t *testing.T, b *bench) {
	if _, got := b.finish(t, b.spec("write", "/tmp/fits", strconv.Itoa(6<<20))); !slices.Equal(got, []string{"ok"}) {
		t.Errorf("6 MiB into 8: %q", got)
	}
	_, got := b.finish(t, b.spec("write", "/tmp/big", strconv.Itoa(9<<20)))
	if len(got) != 1 || !strings.Contains(got[0], "no space left") {
		t.Errorf("9 MiB into 8: %q, want no space left", got)
	}
	small := b.spec("write", "/tmp/s", "4096")
	small.Limits.Tmp = 1 << 20
	if _, got := b.finish(t, small); !slices.Equal(got, []string{"ok"}) {
		t.Errorf("4 KiB into 1 MiB: %q", got)
	}
}

func testPIDs(t *testing.T, b *bench) {
	spec := b.spec("spawn", "100")
	spec.Limits.PIDs = 40
	_, got := b.finish(t, spec)
	if len(got) == 0 {
		return // the limit hit the program itself: limited indeed
	}
	if n, err := strconv.Atoi(got[0]); err != nil || n >= 40 {
		t.Errorf("%q processes under a limit of 40", got)
	}
}

func testMemory(t *testing.T, b *bench) {
	if exit, got := b.finish(t, b.spec("allocate", strconv.Itoa(32<<20))); exit.Code != 0 || exit.OOMKilled {
		t.Errorf("32 of 64 MiB: %+v %q", exit, got)
	}
	events := watching(t, b.d)
	spec := b.spec("allocate", strconv.Itoa(128<<20))
	id := b.run(t, spec)
	exit := b.awaitStopped(t, id)
	if exit.Code != 137 || !exit.OOMKilled {
		t.Errorf("128 of 64 MiB: %+v, want code 137, killed for memory", exit)
	}
	await(t, "the event", func() bool { _, ok := delivered(events(), id); return ok })
	if e, _ := delivered(events(), id); !e.OOMKilled {
		t.Errorf("the event does not tell: %+v", e)
	}
	if err := b.d.Stop(t.Context(), id, 0); err != nil {
		t.Error(err)
	}
	if s, _ := find(t, b.d, id); !s.Exit.OOMKilled {
		t.Errorf("forgotten after Stop: %+v", s.Exit)
	}
}

func testCPU(t *testing.T, b *bench) {
	spec := b.spec("cat", "/sys/fs/cgroup/cpu.max")
	spec.Limits.CPU = 250
	_, unified := b.finish(t, spec)
	if slices.Equal(unified, []string{"25000 100000"}) {
		return
	}
	for file, want := range map[string]string{"cpu.cfs_quota_us": "25000", "cpu.cfs_period_us": "100000"} {
		spec := b.spec("cat", "/sys/fs/cgroup/cpu/"+file)
		spec.Limits.CPU = 250
		if _, got := b.finish(t, spec); !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %s; cpu.max is %q", file, got, want, unified)
		}
	}
}

func testHosts(t *testing.T, b *bench) {
	for _, name := range []string{"localhost", "sandbox", "sandbox.localdomain"} {
		spec := b.spec("talk", name+":9001", "hi")
		b.create(t, spec)
		l, err := b.d.Listen(t.Context(), spec.ID, address)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, l)
		if err := b.d.Start(t.Context(), spec.ID); err != nil {
			t.Fatal(err)
		}
		await(t, "a reply to "+name, func() bool { return slices.Equal(b.rec.get(spec.ID, sandbox.Stdout), []string{"HI"}) })
	}
}

func testAlternatives(t *testing.T, b *bench) {
	spec := b.spec("exit", "3")
	spec.Args[0] = "/nowhere/a:" + b.m.Command + ":/nowhere/b"
	if exit, _ := b.finish(t, spec); exit.Code != 3 {
		t.Errorf("exit %+v, want 3", exit)
	}
	none := b.spec("exit", "3")
	none.Args[0] = "/nowhere/a:/nowhere/b"
	if exit, _ := b.finish(t, none); exit.Code != sandbox.ExitNotFound {
		t.Errorf("exit %+v, want %d", exit, sandbox.ExitNotFound)
	}
	if got := b.rec.get(none.ID, sandbox.Stderr); len(got) != 1 || !strings.HasPrefix(got[0], sandbox.NotStarted) || !strings.Contains(got[0], "/nowhere/a /nowhere/b") {
		t.Errorf("stderr: %q, want one line that names the files", got)
	}
}
