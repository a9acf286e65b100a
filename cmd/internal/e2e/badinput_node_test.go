//go:build node

package e2e

import (
	"archive/zip"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/sandbox/leftovers"
)

var (
	instanceID    = regexp.MustCompile(`i-[0-9a-f]{17}`)
	environmentID = regexp.MustCompile(`e-[0-9a-f]{16}`)
	keptLines     = regexp.MustCompile(`^file .*/agent/logs/e-[0-9a-f]{16}(/[0-9]{10}\.log)?$`)
)

const latestPublished = "$LATEST.PUBLISHED"

// member is one entry of an archive.
type member struct {
	name    string
	content []byte
	mode    fs.FileMode
}

// zipped makes an archive.
func zipped(t *testing.T, members ...member) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	for _, m := range members {
		h := &zip.FileHeader{Name: m.name, Method: zip.Deflate}
		h.SetMode(m.mode)
		w, err := z.CreateHeader(h)
		if err == nil {
			_, err = w.Write(m.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// elfProgram is the least that a kernel takes for a program of a machine with a
// loader.
func elfProgram(t *testing.T, machine elf.Machine, loader string) []byte {
	t.Helper()
	const header, entry = 64, 56
	loader += "\x00"
	size := uint64(len(loader))
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_DYN), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
			Phoff: header, Ehsize: header, Phentsize: entry, Phnum: 1,
		},
		elf.Prog64{Type: uint32(elf.PT_INTERP), Flags: uint32(elf.PF_R), Off: header + entry, Filesz: size, Memsz: size, Align: 1},
		[]byte(loader),
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// machines are this machine's architecture and another.
func machines() (here, other elf.Machine) {
	if runtime.GOARCH == "arm64" {
		return elf.EM_AARCH64, elf.EM_X86_64
	}
	return elf.EM_X86_64, elf.EM_AARCH64
}

// build adds a program to the binaries.
func build(t *testing.T, name string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-o", filepath.Join(bins, name), "./"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v: %s", name, err, out)
	}
}

// bad is a publication that must fail.
type bad struct {
	name string
	zip  []byte
	// mode is what the program bad does, if there is no zip.
	mode string
	code types.StateReasonCode
	// says are parts of the StateReason.
	says []string
}

// badArchives cannot be unpacked, or have nothing to start.
func badArchives(t *testing.T) []bad {
	const (
		invalidZip = types.StateReasonCodeInvalidZipFileException
		noEntry    = types.StateReasonCodeFunctionErrorInvalidEntryPoint
	)
	here, other := machines()
	names := map[elf.Machine]string{elf.EM_AARCH64: "arm64", elf.EM_X86_64: "amd64"}
	bootstrap := func(content string, mode fs.FileMode) []byte {
		return zipped(t, member{"bootstrap", []byte(content), mode})
	}
	corrupt := bootstrap(strings.Repeat("x", 100), 0o755)
	corrupt[len("PK")+40] ^= 0xff // in the deflated content
	return []bad{
		{"corrupt", corrupt, "", invalidZip, []string{`entry "bootstrap"`}},
		{"lies", lying(t), "", invalidZip, []string{`entry "bootstrap": unpacking: zip: not a valid zip file`}},
		{"link", zipped(t, member{"s", []byte("."), fs.ModeSymlink | 0o777}, member{"t", []byte("s/.."), fs.ModeSymlink | 0o777}), "", invalidZip, []string{`link leaves the archive: "s/.."`}},
		{"missing", zipped(t, member{"main.py", nil, 0o644}), "", noEntry, []string{"Runtime.InvalidEntrypoint: Couldn't find valid bootstrap(s): [/var/runtime/bootstrap /var/task/bootstrap /opt/bootstrap]"}},
		{"directory", zipped(t, member{"bootstrap/x", nil, 0o755}), "", noEntry, []string{"Couldn't find valid bootstrap(s)", "/var/task/bootstrap is a directory"}},
		{"mode", bootstrap("#!/bin/true\n", 0o644), "", noEntry, []string{"Runtime.InvalidEntrypoint: fork/exec /var/task/bootstrap: permission denied: it is not executable, its mode is -rw-r--r--"}},
		{"empty", bootstrap("", 0o755), "", noEntry, []string{"Runtime.InvalidEntrypoint: fork/exec /var/task/bootstrap: exec format error: it is empty"}},
		{"text", bootstrap("hello", 0o755), "", noEntry, []string{"fork/exec /var/task/bootstrap: exec format error: it is neither a program nor a script"}},
		{"interpreter", bootstrap("#!/usr/bin/node\n", 0o755), "", noEntry, []string{`fork/exec /var/task/bootstrap: no such file or directory: its interpreter "/usr/bin/node" is not in the image`}},
		{"architecture", bootstrap(string(elfProgram(t, other, "/ld.so")), 0o755), "", noEntry, []string{"fork/exec /var/task/bootstrap: exec format error: it is a program for " + names[other] + ", this machine is " + names[here]}},
		{"loader", bootstrap(string(elfProgram(t, here, "/lib64/ld-linux.so.9")), 0o755), "", noEntry, []string{`its loader "/lib64/ld-linux.so.9" is not in the image`}},
	}
}

// lying is an archive whose bootstrap has more bytes than its headers say.
func lying(t *testing.T) []byte {
	t.Helper()
	honest := zipped(t, member{"bootstrap", make([]byte, 4<<20), 0o755})
	r, err := zip.NewReader(bytes.NewReader(honest), int64(len(honest)))
	if err != nil {
		t.Fatal(err)
	}
	content, err := r.File[0].OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	h := r.File[0].FileHeader
	h.UncompressedSize64 = 10
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	w, err := z.CreateRaw(&h)
	if err == nil {
		_, err = io.Copy(w, content)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// badFunctions start and do not get to their first invocation.
func badFunctions() []bad {
	const (
		failed    = types.StateReasonCodeFunctionErrorRuntimeInitError
		exhausted = types.StateReasonCodeFunctionErrorInitResourceExhausted
		status    = "Runtime.ExitError: Runtime exited with error: exit status "
	)
	return []bad{
		{"exit-0", nil, "exit0", failed, []string{"Runtime.ExitError: Runtime exited without providing a reason"}},
		{"exit-1", nil, "exit1", failed, []string{status + "1; the last it printed:\n", "reading the configuration", "no database: giving up"}},
		{"exit-127", nil, "exit127", failed, []string{status + "127; the last it printed:\nsh: 1: nmp: not found"}},
		{"panic", nil, "panic", failed, []string{status + "2", "panic: assignment to entry in nil map", "main.panics()"}},
		{"init-error", nil, "error", failed, []string{"Runtime.ImportModuleError: no module named app; the last it printed:\nloading the handler"}},
		{"flood", nil, "flood", failed, []string{status + "3; the last it printed:\n", "ééé", "the very end"}},
		{"orphan", nil, "orphan", failed, []string{status + "4", "leaving a child behind: <nil>"}},
		{"fork-bomb", nil, "forkbomb", failed, []string{status + "5", "resource temporarily unavailable"}},
		{"fills-tmp", nil, "tmp", failed, []string{status + "6", "no space left: true before 512 MiB"}},
		{"out-of-memory", nil, "memory", exhausted, []string{"Runtime.OutOfMemory: Runtime exited with error: signal: killed", "loading the model"}},
		{"closed-output", nil, "closed", failed, []string{status + "7"}},
	}
}

// TestBadCode: whatever is published, the version fails saying why, nothing of
// it stays, and the next publication works as if nothing had been.
func TestBadCode(t *testing.T) {
	s := up(t)
	build(t, "bad")
	s.provider("subnet-a")
	s.function(nil)
	s.eventually(20*time.Second, "three environments", s.three)
	began, hung := s.beginsToHang(t)
	before := s.left()
	t.Run("is refused", s.refusesArchives)
	t.Run("fails", func(t *testing.T) {
		for _, b := range append(badArchives(t), badFunctions()...) {
			t.Run(b.name, func(t *testing.T) {
				t.Parallel()
				s.fails(t, b)
			})
		}
	})
	s.nothingNew(t, before)
	t.Run("hangs", s.hangs)
	s.nothingNew(t, before)
	t.Run("recovers", s.recovers)
	t.Run("goes on serving", s.goesOn)
	t.Run(neverAsks, func(t *testing.T) { s.hung(t, began, hung) })
}

// neverAsks is a function that runs for the whole of a test and never asks for
// an invocation.
const neverAsks = "never-asks"

// beginsToHang publishes it, and returns when that was and its environments.
func (s *stack) beginsToHang(t *testing.T) (time.Time, []environment) {
	began := time.Now()
	s.publishBad(t, bad{name: neverAsks, mode: "stubborn"})
	var hung []environment
	s.eventually(20*time.Second, neverAsks+" to run", func() error {
		hung = slices.DeleteFunc(s.ps(), func(e environment) bool { return e.Function != neverAsks || !strings.EqualFold(e.State, "starting") })
		if len(hung) != 3 || len(s.functions()) != 6 {
			return fmt.Errorf("starting are %+v", hung)
		}
		return nil
	})
	return began, hung
}

// hung wants the version to have failed when the time it had was over, and
// nothing of it to be left.
func (s *stack) hung(t *testing.T, began time.Time, environments []environment) {
	const initTimeout = 130 * time.Second
	var f *lambda.GetFunctionConfigurationOutput
	s.eventually(initTimeout+20*time.Second-time.Since(began), neverAsks+" to fail", func() (err error) {
		f, err = s.lambda.GetFunctionConfiguration(t.Context(), &lambda.GetFunctionConfigurationInput{
			FunctionName: aws.String(neverAsks), Qualifier: aws.String(latestPublished),
		})
		if err != nil || settled(f) {
			return err
		}
		if time.Since(began) < initTimeout {
			<-time.After(500 * time.Millisecond)
		}
		return fmt.Errorf("state %s, update %s", f.State, f.LastUpdateStatus)
	})
	const want = "runtime did not ask for its first invocation within 2m10s; the last it printed:\nwaiting for something that never comes"
	if f.State != types.StateFailed || f.StateReasonCode != types.StateReasonCodeFunctionErrorInitTimeout || aws.ToString(f.StateReason) != want {
		t.Errorf("got %s, %s: %q", f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
	if at := time.Since(began); at < initTimeout {
		t.Errorf("it failed %v after it was published", at)
	}
	s.eventually(30*time.Second, "nothing of "+neverAsks+" to be left", func() error {
		for _, line := range s.left() {
			if !stays(line) && slices.ContainsFunc(environments, func(e environment) bool { return strings.Contains(line, e.ID) }) {
				return errors.New(line)
			}
		}
		return nil
	})
	if err := s.three(); err != nil {
		t.Error(err)
	}
	s.remove(t, neverAsks)
}

// others are the environments of all functions but the one that hangs.
func (s *stack) others() []environment {
	return slices.DeleteFunc(s.ps(), func(e environment) bool { return e.Function == neverAsks })
}

// refusesArchives uploads what is seen to be bad without unpacking it.
func (s *stack) refusesArchives(t *testing.T) {
	for says, archive := range map[string][]byte{
		`entry "../../../../tmp/hearth-e2e-escaped" leaves the archive`: zipped(t, member{"../../../../tmp/hearth-e2e-escaped", []byte("x"), 0o644}),
		`entry "etc" is a link that leaves the archive`:                 zipped(t, member{"etc", []byte("/etc"), fs.ModeSymlink | 0o777}),
		`entry "d" is neither file, directory nor link`:                 zipped(t, member{"d", nil, fs.ModeDevice | 0o666}),
	} {
		_, err := s.lambda.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{FunctionName: aws.String(functionName), ZipFile: archive})
		if e, ok := errors.AsType[*types.InvalidParameterValueException](err); !ok || !strings.Contains(e.ErrorMessage(), says) {
			t.Errorf("got %v, want %s", err, says)
		}
	}
}

// three fails unless there are the three environments of the good function.
func (s *stack) three() error {
	envs := s.others()
	for _, e := range envs {
		if !strings.EqualFold(e.State, "ready") {
			return fmt.Errorf("%+v", e)
		}
	}
	if len(envs) != 3 {
		return fmt.Errorf("there are %d environments", len(envs))
	}
	return nil
}

// publishBad publishes a function.
func (s *stack) publishBad(t *testing.T, b bad) {
	t.Helper()
	if b.zip == nil {
		b.zip = zippedProgram(t, "bad")
	}
	size := int32(512)
	if b.code == types.StateReasonCodeFunctionErrorInitResourceExhausted {
		size = 128 // is filled three times in three environments
	}
	_, err := s.lambda.CreateFunction(t.Context(), &lambda.CreateFunctionInput{
		FunctionName: aws.String(b.name), Role: aws.String(role), Runtime: types.RuntimeProvidedal2023,
		Handler: aws.String("bootstrap"), Code: &types.FunctionCode{ZipFile: b.zip},
		Environment: &types.Environment{Variables: map[string]string{"BAD": b.mode}},
		MemorySize:  aws.Int32(size), Timeout: aws.Int32(5), Publish: true,
		PublishTo: types.FunctionVersionLatestPublishedLatestPublished,
		CapacityProviderConfig: &types.CapacityProviderConfig{
			LambdaManagedInstancesCapacityProviderConfig: &types.LambdaManagedInstancesCapacityProviderConfig{
				CapacityProviderArn: aws.String("arn:aws:lambda:" + region + ":" + account + ":capacity-provider:" + providerName),
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// zippedProgram zips a program as a bootstrap.
func zippedProgram(t *testing.T, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(bins, name))
	if err != nil {
		t.Fatal(err)
	}
	return zipped(t, member{"bootstrap", body, 0o755})
}

func (s *stack) remove(t *testing.T, name string) {
	t.Helper()
	if _, err := s.lambda.DeleteFunction(t.Context(), &lambda.DeleteFunctionInput{FunctionName: aws.String(name)}); err != nil {
		t.Error(err)
	}
}

// published waits until what is published of a function satisfies done.
func (s *stack) published(t *testing.T, name string, done func(*lambda.GetFunctionConfigurationOutput) bool) *lambda.GetFunctionConfigurationOutput {
	t.Helper()
	const limit = time.Minute
	deadline := time.Now().Add(limit)
	for {
		f, err := s.lambda.GetFunctionConfiguration(t.Context(), &lambda.GetFunctionConfigurationInput{
			FunctionName: aws.String(name), Qualifier: aws.String(latestPublished),
		})
		if err == nil && done(f) {
			return f
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s, %v later: %v %+v", name, limit, err, f)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func settled(f *lambda.GetFunctionConfigurationOutput) bool {
	return f.State != types.StatePending && f.LastUpdateStatus != types.LastUpdateStatusInProgress
}

// fails publishes b and deletes it once it has failed as it should.
func (s *stack) fails(t *testing.T, b bad) {
	t.Helper()
	begin := time.Now()
	s.publishBad(t, b)
	f := s.published(t, b.name, settled)
	reason := aws.ToString(f.StateReason)
	if f.State != types.StateFailed || f.StateReasonCode != b.code {
		t.Errorf("got %s, %s: %s", f.State, f.StateReasonCode, reason)
	}
	for _, part := range b.says {
		if !strings.Contains(reason, part) {
			t.Errorf("the reason lacks %q: %q", part, reason)
		}
	}
	if len(reason) > 8<<10 || !utf8.ValidString(reason) || strings.ContainsRune(reason, 0) {
		t.Errorf("the reason has %d bytes, or some that are no text: %.200q", len(reason), reason)
	}
	t.Logf("Failed after %v: %s: %.300s", time.Since(begin).Round(time.Millisecond), f.StateReasonCode, reason)
	if _, err := s.lambda.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String(b.name)}); err == nil {
		t.Error("it can be invoked")
	}
	s.remove(t, b.name)
}

// nothingNew wants the good function to work and nothing to be there that was
// not there before, but for files that stay, what agents keep ready, and
// instances that were needed for a while.
func (s *stack) nothingNew(t *testing.T, before leftovers.State) {
	t.Helper()
	s.eventually(30*time.Second, "only the good function to be left", s.three)
	s.eventually(30*time.Second, "nothing new to be left", func() error {
		isSpare, err := s.isSpare()
		left := slices.DeleteFunc(s.ours(leftovers.Diff(before, s.left())), func(line string) bool {
			id := instanceID.FindString(strings.ReplaceAll(line, "hearth_i_", "hearth-i-")) // nftables names
			known := slices.ContainsFunc(before, func(l string) bool { return id != "" && strings.Contains(l, "/"+id) })
			return stays(line) || isSpare(line) || id != "" && !known && !environmentID.MatchString(line)
		})
		if len(left) > 0 {
			return errors.Join(err, errors.New(strings.Join(left, "\n  ")))
		}
		return err
	})
	if _, err := os.Stat("/tmp/hearth-e2e-escaped"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an archive wrote to the host: %v", err)
	}
	p, err := s.lambda.GetCapacityProvider(t.Context(), &lambda.GetCapacityProviderInput{CapacityProviderName: aws.String(providerName)})
	if err != nil || p.CapacityProvider.State != types.CapacityProviderStateActive {
		t.Errorf("the provider: %v %+v", err, p)
	}
	if _, _, err := s.invoke(t.Context(), event{}); err != nil {
		t.Errorf("the good function: %v", err)
	}
}

// stays says whether a line is a file that stays while there is room: what was
// uploaded or is cached, and the lines that ended environments printed.
func stays(line string) bool {
	return strings.Contains(line, "/artifacts/") || strings.Contains(line, "/agent/code/") || keptLines.MatchString(line)
}

// hangs deletes functions that never ask for an invocation, ignore SIGTERM and
// have zombies, while they are being started.
func (s *stack) hangs(t *testing.T) {
	for _, mode := range []string{"stubborn", "zombies"} {
		s.publishBad(t, bad{name: mode, mode: mode})
		s.eventually(20*time.Second, mode+" to run", func() error {
			starting := 0
			for _, e := range s.others() {
				if strings.EqualFold(e.State, "starting") {
					starting++
				}
			}
			if starting != 3 {
				return fmt.Errorf("%d are starting", starting)
			}
			return nil
		})
		s.remove(t, mode)
		begin := time.Now()
		s.eventually(20*time.Second, mode+" to be gone", s.three)
		t.Logf("%s was gone after %v", mode, time.Since(begin).Round(time.Millisecond))
	}
}

// recovers publishes something good after something bad, to the same function.
func (s *stack) recovers(t *testing.T) {
	const name = "recovers"
	s.publishBad(t, bad{name: name, zip: zipped(t, member{"main.py", nil, 0o644})})
	if f := s.published(t, name, settled); f.State != types.StateFailed {
		t.Fatalf("got %s", f.State)
	}
	begin := time.Now()
	s.update(t, name, zippedProgram(t, "probe"))
	f := s.published(t, name, settled)
	if f.State != types.StateActive || f.StateReason != nil || f.StateReasonCode != "" {
		t.Errorf("got %s, %s: %s", f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
	took := time.Since(begin)
	t.Logf("Active %v after the good code", took.Round(time.Millisecond))
	if took > 15*time.Second {
		t.Error("that is slow")
	}
	if out, err := s.lambda.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String(name), Payload: []byte("{}")}); err != nil || out.FunctionError != nil {
		t.Errorf("invoking: %v %+v", err, out)
	}
	s.remove(t, name)
}

func (s *stack) update(t *testing.T, name string, code []byte) {
	t.Helper()
	if _, err := s.lambda.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{
		FunctionName: aws.String(name), ZipFile: code, Publish: true, PublishTo: types.FunctionVersionLatestPublishedLatestPublished,
	}); err != nil {
		t.Fatal(err)
	}
}

// goesOn publishes something bad over something good, which goes on serving.
func (s *stack) goesOn(t *testing.T) {
	before, _, err := s.invoke(t.Context(), event{})
	if err != nil {
		t.Fatal(err)
	}
	s.update(t, functionName, zipped(t, member{"main.py", nil, 0o644}))
	f := s.published(t, functionName, settled)
	if f.State != types.StateActive || f.LastUpdateStatus != types.LastUpdateStatusFailed ||
		f.LastUpdateStatusReasonCode != types.LastUpdateStatusReasonCodeFunctionErrorInvalidEntryPoint ||
		!strings.Contains(aws.ToString(f.LastUpdateStatusReason), "Couldn't find valid bootstrap(s)") {
		t.Errorf("got %s, %s %s: %s", f.State, f.LastUpdateStatus, f.LastUpdateStatusReasonCode, aws.ToString(f.LastUpdateStatusReason))
	}
	s.eventually(20*time.Second, "only what serves to be left", s.three)
	if after, _, err := s.invoke(t.Context(), event{}); err != nil || after.Started != before.Started {
		t.Errorf("invoking: %+v %v, want what served before: %+v", after, err, before)
	}
	s.update(t, functionName, zippedProgram(t, "probe"))
	if f := s.published(t, functionName, settled); f.LastUpdateStatus != types.LastUpdateStatusSuccessful {
		t.Errorf("a good one: %s %s: %s", f.LastUpdateStatus, f.LastUpdateStatusReasonCode, aws.ToString(f.LastUpdateStatusReason))
	}
	if _, _, err := s.invoke(t.Context(), event{}); err != nil {
		t.Errorf("after it: %v", err)
	}
}
