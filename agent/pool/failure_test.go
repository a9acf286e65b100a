package pool

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

func TestAReasonIsTextOfBoundedLength(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain é\n\ttext":         "plain é\n\ttext",
		"a\x00b\x1b[31mc\x7f":     "a\ufffdb\ufffd[31mc\ufffd",
		"half a rune \xc3":        "half a rune \ufffd",
		"10 %\r 20 %\r\n":         "10 % 20 %\n",
		strings.Repeat("é", 5000): strings.Repeat("é", 1536) + "\n…\n" + strings.Repeat("é", 1536),
	} {
		if _, got := failure(errors.New(in)); got != want {
			t.Errorf("%.40q: got %.40q", in, got)
		}
		if _, got := failure(ownFault(codeInitTimeout, in, "")); got != want {
			t.Errorf("%.40q of its own fault: got %.40q", in, got)
		}
	}
}

// TestOnlyTheHostsTroubleIsRecoverable: whatever happens to a start, the code
// says whether the function or the host is to blame.
func TestOnlyTheHostsTroubleIsRecoverable(t *testing.T) {
	t.Parallel()
	translators := map[string]func(error) error{"pull": pullError, "code": codeError, "create": createError}
	for class, want := range map[error]map[string]string{
		errdefs.ErrUnavailable:        {"pull": codeInternal, "code": codeInternal, "create": codeInternal},
		errdefs.ErrResourceExhausted:  {"pull": codeCapacity, "code": codeCapacity, "create": codeCapacity},
		errdefs.ErrNotFound:           {"pull": codeInvalidImage, "code": codeInternal, "create": codeInternal},
		errdefs.ErrInvalidArgument:    {"pull": codeInvalidImage, "code": codeInvalidZip, "create": codeInvalidConfig},
		errdefs.ErrFailedPrecondition: {"pull": codeInvalidImage, "code": codeInternal, "create": codeInvalidImage},
		errdefs.ErrUnauthenticated:    {"pull": codeImageAccessDenied, "code": codeInternal, "create": codeInternal},
		errdefs.ErrPermissionDenied:   {"pull": codeImageAccessDenied, "code": codeInternal, "create": codeInternal},
		errFetchTooLong:               {"pull": codeInternal, "code": codeInternal, "create": codeInternal},
	} {
		for step, translate := range translators {
			code, reason := failure(translate(fmt.Errorf("the thing: %w", class)))
			if code != want[step] || !strings.Contains(reason, "the thing") {
				t.Errorf("%s, %v: got %s %q, want %s", step, class, code, reason, want[step])
			}
		}
	}
}

func TestAnExitSaysWhetherTheCommandEverRan(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		exit                 runtimeapi.Exit
		output, code, reason string
	}{
		{runtimeapi.Exit{Code: 125}, "hearth-init: chdir /x: no such file or directory\n", codeInvalidDirectory, "Runtime.InvalidWorkingDir: chdir /x: no such file or directory"},
		{runtimeapi.Exit{Code: 126}, "hearth-init: fork/exec /x: exec format error\n", codeInvalidEntryPoint, "Runtime.InvalidEntrypoint: fork/exec /x: exec format error"},
		{runtimeapi.Exit{Code: 127}, "hearth-init: fork/exec /x: gone\n", codeInvalidEntryPoint, "Runtime.InvalidEntrypoint: fork/exec /x: gone"},
		{runtimeapi.Exit{Code: 127}, "sh: 1: nmp: not found\n", codeRuntimeInitError, "Runtime.ExitError: Runtime exited with error: exit status 127; the last it printed:\nsh: 1: nmp: not found"},
		{runtimeapi.Exit{Code: 126}, "first\nhearth-init: second\n", codeRuntimeInitError, "Runtime.ExitError: Runtime exited with error: exit status 126; the last it printed:\nfirst\nhearth-init: second"},
		{runtimeapi.Exit{Code: 1}, "hearth-init: not of it\n", codeRuntimeInitError, "Runtime.ExitError: Runtime exited with error: exit status 1; the last it printed:\nhearth-init: not of it"},
		{runtimeapi.Exit{Code: 137, OutOfMemory: true}, "", codeInitResourceExhaust, "Runtime.OutOfMemory: Runtime exited with error: signal: killed"},
		{runtimeapi.Exit{Code: 139}, "", codeRuntimeInitError, "Runtime.ExitError: Runtime exited with error: signal: segmentation fault"},
	} {
		if code, reason := failure(exitError(c.exit, "", c.output)); code != c.code || reason != c.reason {
			t.Errorf("%+v %q: got %s %q", c.exit, c.output, code, reason)
		}
	}
}

func TestWhatAnExtensionDidIsTheReason(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		exit                          runtimeapi.Exit
		refusal, output, code, reason string
	}{
		{runtimeapi.Exit{Extension: "x"}, "", "bye\n", codeExtensionInitError, "Extension.Crash: extension x: exit code 0; the last it printed:\nbye"},
		{runtimeapi.Exit{Extension: "x", Code: 3}, "it asked", "", codeExtensionInitError, "Extension.Crash: extension x: exit status 3: it asked"},
		{runtimeapi.Exit{Extension: "x", Code: 127}, "", "hearth-init: not of it", codeExtensionInitError, "Extension.Crash: extension x: exit status 127; the last it printed:\nhearth-init: not of it"},
		{runtimeapi.Exit{Extension: "x", Code: 143, Kind: "Extension.NoKey"}, "", "", codeExtensionInitError, "Extension.NoKey: extension x: signal: terminated"},
		{runtimeapi.Exit{Extension: "x", Code: 137, OutOfMemory: true}, "", "", codeInitResourceExhaust, "Extension.Crash: extension x: signal: killed"},
		{runtimeapi.Exit{Extension: "x", Code: 126, Kind: "PermissionDenied", Message: "why"}, "", "", codePermissionDenied, "PermissionDenied: extension x: why"},
		{runtimeapi.Exit{Extension: "x", Code: 127, Kind: "Extension.LaunchError", Message: "why"}, "", "", codeExtensionInitError, "Extension.LaunchError: extension x: why"},
		{runtimeapi.Exit{Kind: "TooManyExtensions", Message: "11"}, "", "", codeTooManyExtensions, "TooManyExtensions: 11"},
		{runtimeapi.Exit{Code: 127, Kind: "Runtime.InvalidEntrypoint", Message: "why"}, "", "hearth-init: why\n", codeInvalidEntryPoint, "Runtime.InvalidEntrypoint: why"},
	} {
		if code, reason := failure(exitError(c.exit, c.refusal, c.output)); code != c.code || reason != c.reason {
			t.Errorf("%+v: got %s %q, want %s %q", c.exit, code, reason, c.code, c.reason)
		}
	}
}
