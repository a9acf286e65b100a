//go:build node

package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"golang.org/x/sys/unix"
)

// disk is a small file system of the test's own, in a file.
type disk struct {
	t *testing.T
	// dir is where it is mounted, image the file.
	dir, image string
}

// newDisk makes one and mounts it until the end of the test.
func newDisk(t *testing.T, bytes int64) *disk {
	t.Helper()
	if why := missing(); why != "" {
		t.Skip(why)
	}
	base := t.TempDir()
	d := &disk{t: t, dir: filepath.Join(base, "disk"), image: filepath.Join(base, "disk.img")}
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(bytes), f.Close(), os.Mkdir(d.dir, 0o711)); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.ext4", "-q", "-F", "-m", "0", d.image)
	tool(t, "mount", "-o", "loop", d.image, d.dir)
	t.Cleanup(func() { tool(t, "umount", d.dir) })
	return d
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin"}
	if cmd.Err != nil {
		cmd.Path, cmd.Err = "/usr/sbin/"+name, nil
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// fill takes all the space there is and returns how to give it back.
func (d *disk) fill() (free func()) {
	d.t.Helper()
	name := filepath.Join(d.dir, "fill")
	f, err := os.Create(name)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for block := 1 << 20; block >= 512; block /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, block))
		}
		if !errors.Is(err, unix.ENOSPC) {
			d.t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		d.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			d.t.Error(err)
		}
	}
}

// split returns a data directory of which what belongs to the instances is
// elsewhere.
func split(t *testing.T, control, instances string) option {
	t.Helper()
	data, agents := filepath.Join(control, "data"), filepath.Join(instances, "agents")
	for _, dir := range []string{data, agents} {
		if err := os.Mkdir(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(agents, filepath.Join(data, "instances")); err != nil {
		t.Fatal(err)
	}
	return func(s *stack) {
		s.dir = data
		s.scope.DataDirs = append(s.scope.DataDirs, agents)
	}
}

// TestAnAgentsFullDisk: what runs there goes on. What should start does not,
// and says that the disk is full. Once there is space it starts by itself.
func TestAnAgentsFullDisk(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 256<<20)
	s := up(t, split(t, t.TempDir(), d.dir))
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(4))
	s.allReady()
	before := s.functions()
	free := d.fill()
	s.answers()
	version, err := s.lambda.PublishVersion(t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String(functionName)})
	if err != nil {
		t.Fatal(err)
	}
	name := aws.ToString(version.Version)
	s.eventually(20*time.Second, "the version to say that the disk is full", func() error { return s.pendingFor(name, "disk is full") })
	kill(t, before[0])
	s.eventually(20*time.Second, "the environment that died to be waiting for space", func() error {
		for _, e := range s.ps() {
			if e.State == "Failed" && strings.Contains(e.Reason, "disk is full") {
				return nil
			}
		}
		return fmt.Errorf("environments %+v", s.ps())
	})
	s.answers()
	began := time.Now()
	free()
	s.back(began, backToWork, "everything runs after there was space", func() error {
		if err := s.runs(name)(); err != nil {
			return err
		}
		if n := len(s.functions()); n != 6 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
	for _, pid := range before[1:] {
		if !slices.Contains(s.functions(), pid) {
			t.Errorf("process %d, which was not killed, is gone", pid)
		}
	}
}

// TestAFullDiskOfTheControlService: writes are refused with ServiceException
// and leave nothing behind; what was acknowledged stays; reads and invokes go
// on. Once there is space writes work, without a restart.
func TestAFullDiskOfTheControlService(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 96<<20)
	s := up(t, split(t, d.dir, t.TempDir()))
	s.provider("subnet-a")
	s.function(concurrency(4))
	s.allReady()
	control := s.processes("hearth-control")[0]
	var free func()
	acknowledged := s.describeUntil(func() { free = d.fill() }, "ServiceException")
	if _, err := s.further("with-code"); code(err) != "ServiceException" {
		t.Errorf("a function with new code on a full disk: got %v, want ServiceException", err)
	}
	s.unwritable(acknowledged, "with-code")
	if entries, err := os.ReadDir(filepath.Join(s.dir, "artifacts")); err != nil || len(entries) != 1 {
		t.Errorf("the archives are %v, %v; want that of the one function", entries, err)
	}
	began := time.Now()
	free()
	s.back(began, backToWork, "a write after there was space", func() error {
		_, err := s.further("with-code")
		return err
	})
	if now := s.processes("hearth-control")[0]; now != control {
		t.Errorf("the control service was %d and is %d", control, now)
	}
	s.description(acknowledged)
	s.answers()
}

// TestAStoreThatCannotBeWritten: as with a full disk. A control service that
// starts meanwhile says which file it cannot open, and works once it can.
func TestAStoreThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 96<<20) // immutable files are not left on the machine's own
	s := up(t, split(t, d.dir, t.TempDir()))
	s.provider("subnet-a")
	s.function(concurrency(4))
	s.allReady()
	control := s.processes("hearth-control")[0]
	db := filepath.Join(s.dir, "hearth.db")
	writable := func() { tool(t, "chattr", "-i", db, db+"-wal") }
	defer func() { writable() }()
	acknowledged := s.describeUntil(func() { tool(t, "chattr", "+i", db, db+"-wal") }, "ServiceException")
	if _, err := s.further("g"); code(err) != "ServiceException" {
		t.Errorf("a function in a store that cannot be written: got %v, want ServiceException", err)
	}
	s.unwritable(acknowledged, "g")
	if err := syscall.Kill(control, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.eventually(backToWork, "the next control service to name the file", s.saysOf(db, "operation not permitted"))
	began := time.Now()
	writable()
	writable = func() {}
	s.back(began, backToWork, "an invoke after the file could be written", s.invocable)
	if _, err := s.further("g"); err != nil {
		t.Error(err)
	}
	s.description(acknowledged)
}

// TestAStoreOnAReadOnlyFileSystem: as the kernel makes it when the disk has
// faults, while the control service runs. Once it is mounted again without
// writes, a control service that starts says which file it cannot open, and works
// when writes are allowed.
func TestAStoreOnAReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 96<<20)
	data := filepath.Join(t.TempDir(), "data")
	db := filepath.Join(data, "hearth.db")
	// The rest of the data directory is elsewhere: only the control service keeps
	// the disk from being unmounted.
	if err := errors.Join(os.Mkdir(data, 0o711), os.Symlink(filepath.Join(d.dir, "hearth.db"), db)); err != nil {
		t.Fatal(err)
	}
	s := up(t, func(s *stack) { s.dir = data })
	s.provider("subnet-a")
	s.function(concurrency(4))
	s.allReady()
	before := s.functions()
	acknowledged := s.describeUntil(func() { d.remount("abort") }, "ServiceException")
	if err := os.WriteFile(filepath.Join(d.dir, "any"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Fatalf("writing to the disk: got %v, want that it is read-only", err)
	}
	if _, err := s.further("g"); code(err) != "ServiceException" {
		t.Errorf("a function in a store on a read-only file system: got %v, want ServiceException", err)
	}
	s.unwritable(acknowledged, "g")
	s.withoutControl(func() {
		tool(t, "umount", d.dir)
		tool(t, "mount", "-o", "loop", d.image, d.dir) // repairs, which a read-only one cannot
		d.remount("ro")
	})
	defer func() { d.remount("rw") }()
	s.eventually(backToWork, "the next control service to name the file", s.saysOf(db, "read-only file system"))
	began := time.Now()
	d.remount("rw")
	s.back(began, backToWork, "an invoke after the file system allows writes", s.invocable)
	if _, err := s.further("g"); err != nil {
		t.Error(err)
	}
	s.description(acknowledged)
	if after := s.functions(); !slices.Equal(after, before) {
		t.Errorf("the function's processes were %v and are %v", before, after)
	}
}

func (d *disk) remount(how string) {
	d.t.Helper()
	tool(d.t, "mount", "-o", "remount,"+how, d.dir)
}

// withoutControl kills the control service and runs fn before another one may
// start.
func (s *stack) withoutControl(fn func()) {
	s.t.Helper()
	_, resume := pause(s.t, s.cmd.Process.Pid) // hearth up, which starts it
	defer resume()
	victim := s.processes("hearth-control")[0]
	end := endOf(s.t, victim)
	kill(s.t, victim)
	end()
	fn()
}

// saysOf fails unless hearth up has printed why the store cannot be opened.
func (s *stack) saysOf(db, why string) func() error {
	return func() error {
		text, err := os.ReadFile(s.log.Name())
		if err != nil {
			return err
		}
		if !strings.Contains(string(text), "opening database "+db+": open "+db+": "+why) {
			return errors.New("it does not")
		}
		return nil
	}
}

// further makes a further function whose code is nobody else's.
func (s *stack) further(name string) (*lambda.CreateFunctionOutput, error) {
	code := make([]byte, 1<<20)
	_, _ = rand.Read(code) // never fails
	in := s.input(func(in *lambda.CreateFunctionInput) {
		in.FunctionName, in.Code.ZipFile = aws.String(name), archiveOf(s.t, string(code))
		in.Publish, in.PublishTo = false, ""
	})
	return s.lambda.CreateFunction(s.t.Context(), in)
}

// describe changes the description of the function.
func (s *stack) describe(text string) string {
	s.t.Helper()
	if _, err := s.lambda.UpdateFunctionConfiguration(s.t.Context(), &lambda.UpdateFunctionConfigurationInput{
		FunctionName: aws.String(functionName), Description: aws.String(text),
	}); err != nil {
		s.t.Fatal(err)
	}
	return text
}

// describeUntil changes the description of the function once, spoils the store,
// goes on until a change fails as it should, and returns the last that was
// acknowledged.
func (s *stack) describeUntil(spoil func(), want string) string {
	s.t.Helper()
	last := s.describe("before")
	spoil()
	for n := range 5000 {
		text := fmt.Sprintf("%d%s", n, strings.Repeat(".", 250))
		_, err := s.lambda.UpdateFunctionConfiguration(s.t.Context(), &lambda.UpdateFunctionConfigurationInput{
			FunctionName: aws.String(functionName), Description: aws.String(text),
		})
		if err == nil {
			last = text
			continue
		}
		if code(err) != want {
			s.t.Fatalf("after %d updates: got %v, want %s", n, err, want)
		}
		s.t.Logf("%d updates were acknowledged afterwards", n)
		return last
	}
	s.t.Fatal("5000 updates succeeded")
	return ""
}

// unwritable wants everything that writes nothing to work.
func (s *stack) unwritable(description, absent string) {
	s.t.Helper()
	s.description(description)
	_, err := s.lambda.GetFunction(s.t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String(absent)})
	if code(err) != "ResourceNotFoundException" {
		s.t.Errorf("the function that could not be created: got %v, want that there is none", err)
	}
	list, err := s.lambda.ListFunctions(s.t.Context(), &lambda.ListFunctionsInput{})
	if err != nil || len(list.Functions) != 1 {
		s.t.Errorf("listing functions: %v, %v; want one", list, err)
	}
	if err := errors.Join(s.get("/readyz"), s.get("/healthz")); err != nil {
		s.t.Error(err)
	}
	s.answers()
}

// description wants that of the function to be the last acknowledged.
func (s *stack) description(want string) {
	s.t.Helper()
	f, err := s.lambda.GetFunctionConfiguration(s.t.Context(), &lambda.GetFunctionConfigurationInput{FunctionName: aws.String(functionName)})
	if err != nil {
		s.t.Error(err)
		return
	}
	if got := aws.ToString(f.Description); got != want {
		s.t.Errorf("the description is %.20q, want the acknowledged %.20q", got, want)
	}
}
