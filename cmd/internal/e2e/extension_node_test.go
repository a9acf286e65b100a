//go:build node

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// program builds a main package and returns it as a file of a layer.
func program(t *testing.T, name, pkg string) member {
	t.Helper()
	file := filepath.Join(bins, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v: %s", pkg, err, out)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return member{name, body, 0o755}
}

// extended publishes a function with layers.
func (s *stack) extended(t *testing.T, name, program string, variables map[string]string, layers ...string) {
	t.Helper()
	_, err := s.lambda.CreateFunction(t.Context(), s.input(func(in *lambda.CreateFunctionInput) {
		in.FunctionName, in.Layers = aws.String(name), layers
		in.Environment = &types.Environment{Variables: variables}
		in.Code = &types.FunctionCode{ZipFile: zippedProgram(t, program)}
		in.Publish, in.PublishTo = true, types.FunctionVersionLatestPublishedLatestPublished
	}))
	if err != nil {
		t.Fatal(err)
	}
}

// printed looks for a line in all logs kept on the instances.
func (s *stack) printed(parts ...string) error {
	var lines []string
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "/logs/") {
			return nil //nolint:nilerr // files come and go meanwhile
		}
		content, _ := os.ReadFile(path)
		lines = append(lines, strings.Split(string(content), "\n")...)
		return nil
	})
	if err != nil {
		return err
	}
	for _, line := range lines {
		found := true
		for _, part := range parts {
			found = found && strings.Contains(line, part)
		}
		if found {
			return nil
		}
	}
	return fmt.Errorf("no line of %d has %q", len(lines), parts)
}

// TestExtensions runs extensions that behave, on real containers, and then
// others.
func TestExtensions(t *testing.T) {
	s := up(t)
	s.provider("subnet-a")
	build(t, "bad")
	good := s.publishLayer("good", program(t, "extensions/extension-go", "../../../examples/extension-go"))
	ext := program(t, "extensions/ext", "./ext")
	misbehaves := s.publishLayer("ext", ext)
	s.step("are told of everything, and of the end last", func() { s.shutsDown(good) })
	s.step("take the environment with them", func() { s.fragile(misbehaves) })
	s.step("do not keep an environment", func() { s.stays(misbehaves) })
	t.Run("end in a clear failure", func(t *testing.T) {
		var many []member
		for i := range 11 {
			many = append(many, member{fmt.Sprintf("extensions/x%02d", i), []byte("#!/bin/sh\n"), 0o755})
		}
		layers := map[string]string{
			"ext": misbehaves, "good": good, "many": s.publishLayer("many", many...),
			"mode": s.publishLayer("mode", member{"extensions/readme", []byte("hello"), 0o644}),
			"text": s.publishLayer("text", member{"extensions/text", []byte("hello"), 0o755}),
		}
		for _, b := range badExtensions() {
			t.Run(b.name, func(t *testing.T) {
				t.Parallel()
				s.extensionFails(t, b, layers[b.layer])
			})
		}
	})
}

// shutsDown crashes the runtime beside an extension, and then deletes the
// function.
func (s *stack) shutsDown(layer string) {
	const name = "observed"
	s.extended(s.t, name, "probe", nil, layer)
	if f := s.published(s.t, name, settled); f.State != types.StateActive {
		s.t.Fatalf("got %s, %s: %s", f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
	s.wants(name, `{}`, `"Started":1`)
	s.wants(name, `{"Crash":true}`, `"errorType":"Runtime.ExitError"`)
	s.eventually(20*time.Second, "SHUTDOWN after the crash", func() error {
		return s.printed("extension-go: SHUTDOWN because of failure", "platform.initStart 1", "platform.start ")
	})
	s.eventually(20*time.Second, "another environment", func() error {
		out, err := s.lambda.Invoke(s.t.Context(), &lambda.InvokeInput{FunctionName: aws.String(name), Payload: []byte("{}")})
		if err != nil || out.FunctionError != nil {
			return fmt.Errorf("%w %s", err, payloadOf(out))
		}
		return nil
	})
	s.wants(name, `{"Size":1073741824}`, `"errorType":"Runtime.OutOfMemory"`)
	s.remove(s.t, name)
	s.eventually(20*time.Second, "SHUTDOWN at the end", func() error {
		return s.printed("extension-go: SHUTDOWN because of spindown")
	})
}

// wants invokes a function and wants a part in what it answers.
func (s *stack) wants(name, event, part string) {
	s.t.Helper()
	out, err := s.lambda.Invoke(s.t.Context(), &lambda.InvokeInput{FunctionName: aws.String(name), Payload: []byte(event)})
	if err != nil || !strings.Contains(string(out.Payload), part) {
		s.t.Errorf("%s: got %v %.300s, want %s", event, err, payloadOf(out), part)
	}
}

// fragile ends an extension in the middle of an invocation.
func (s *stack) fragile(layer string) {
	const name = "fragile"
	s.extended(s.t, name, "probe", map[string]string{"EXT": "fragile"}, layer)
	if f := s.published(s.t, name, settled); f.State != types.StateActive {
		s.t.Fatalf("got %s, %s: %s", f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
	began := time.Now()
	s.wants(name, `{"Dial":"127.0.0.1:4244","SleepMS":4000}`, `Error: exit status 5"}`)
	if took := time.Since(began); took > 2*time.Second {
		s.t.Errorf("the caller was answered after %v", took)
	}
	s.eventually(10*time.Second, "its last words", func() error { return s.printed("ending: <nil>") })
	s.remove(s.t, name)
}

// stays deletes a function with an extension that ignores what ends it.
func (s *stack) stays(layer string) {
	const name = "stays"
	s.extended(s.t, name, "probe", map[string]string{"EXT": name}, layer)
	if f := s.published(s.t, name, settled); f.State != types.StateActive {
		s.t.Fatalf("got %s, %s: %s", f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
	s.eventually(5*time.Second, "the variables extensions have", func() error {
		return s.printed("variables: AWS_DEFAULT_REGION AWS_LAMBDA_FUNCTION_MEMORY_SIZE AWS_LAMBDA_FUNCTION_NAME AWS_LAMBDA_FUNCTION_VERSION " +
			"AWS_LAMBDA_INITIALIZATION_TYPE AWS_LAMBDA_LOG_FORMAT AWS_LAMBDA_LOG_LEVEL AWS_LAMBDA_RUNTIME_API AWS_REGION, and no more")
	})
	s.remove(s.t, name)
	s.eventually(10*time.Second, "SHUTDOWN", func() error { return s.printed("staying after 200", "spindown") })
	s.eventually(10*time.Second, "its end", func() error {
		entries, err := os.ReadDir("/proc")
		for _, e := range entries {
			pid, _ := strconv.Atoi(e.Name())
			if strings.HasPrefix(commandLine(pid), "/opt/extensions/ext") && s.owns(cgroupOf(pid)) {
				return fmt.Errorf("process %d is there", pid)
			}
		}
		return err
	})
}

// badExtension is a version that must fail.
type badExtension struct {
	name, layer, mode, program string
	code                       types.StateReasonCode
	says                       []string
}

func badExtensions() []badExtension {
	const (
		initError = types.StateReasonCodeFunctionErrorExtensionInitError
		runtime   = types.StateReasonCodeFunctionErrorRuntimeInitError
	)
	return []badExtension{
		{"invoke", "ext", "invoke", "probe", initError, []string{
			`Extension.Crash: extension ext: exit status 1: it asked for the event "INVOKE", and managed instances have SHUTDOWN only`,
			"Extension.InvalidEventType", "Extension.MissingExtensionIdentifier",
		}},
		{"gives-up", "ext", "gives-up", "probe", initError, []string{"Extension.NoKey: extension ext: no key"}},
		{"exits", "ext", "exits", "probe", initError, []string{"Extension.Crash: extension ext: exit code 0"}},
		{"too-many", "many", "", "probe", types.StateReasonCodeFunctionErrorTooManyExtensions, []string{"TooManyExtensions: /opt/extensions has 11 extensions"}},
		{"not-permitted", "mode", "", "probe", types.StateReasonCodeFunctionErrorPermissionDenied, []string{"PermissionDenied: extension readme: fork/exec /opt/extensions/readme: permission denied: it is not executable, its mode is -rw-r--r--"}},
		{"no-program", "text", "", "probe", initError, []string{"Extension.LaunchError: extension text: fork/exec /opt/extensions/text: exec format error"}},
		{"beside-exit", "good", "exit0", "bad", runtime, []string{"Runtime.ExitError: Runtime exited without providing a reason"}},
		{"beside-memory", "good", "memory", "bad", types.StateReasonCodeFunctionErrorInitResourceExhausted, []string{"Runtime.OutOfMemory: Runtime exited with error: signal: killed", "loading the model"}},
		{"twice", "good", "errors", "bad", runtime, []string{"Runtime.ImportModuleError: no module named app", "202 Accepted", "403 Forbidden"}},
	}
}

func (s *stack) extensionFails(t *testing.T, b badExtension, layer string) {
	t.Helper()
	began := time.Now()
	name := "bad-" + b.name
	s.extended(t, name, b.program, map[string]string{"EXT": b.mode, "BAD": b.mode}, layer)
	f := s.published(t, name, settled)
	reason := aws.ToString(f.StateReason)
	if f.State != types.StateFailed || f.StateReasonCode != b.code {
		t.Errorf("got %s, %s: %s", f.State, f.StateReasonCode, reason)
	}
	for _, part := range b.says {
		if !strings.Contains(reason, part) {
			t.Errorf("the reason lacks %q: %q", part, reason)
		}
	}
	t.Logf("Failed after %v: %s: %.300s", time.Since(began).Round(time.Millisecond), f.StateReasonCode, reason)
	if _, err := s.lambda.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String(name)}); err == nil {
		t.Error("it can be invoked")
	}
	s.remove(t, name)
}
