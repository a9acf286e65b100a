package pool

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/sandbox"
)

// The StateReasonCodes of the Lambda API that a failed start can have. Two of
// them, InternalError and InsufficientCapacity, say that the host or something
// it depends on is in trouble: the control service keeps such a version and
// waits. All others say that the function is to blame.
//
// A bootstrap that may not be executed is InvalidEntryPoint: AWS has
// PermissionDenied for extensions only.
const (
	codeInternal            = "InternalError"
	codeImageAccessDenied   = "ImageAccessDenied"
	codeInvalidImage        = "InvalidImage"
	codeInvalidZip          = "InvalidZipFileException"
	codeInvalidConfig       = "InvalidConfiguration"
	codeCapacity            = "InsufficientCapacity"
	codeInitTimeout         = "FunctionError.InitTimeout"
	codeRuntimeInitError    = "FunctionError.RuntimeInitError"
	codeInvalidEntryPoint   = "FunctionError.InvalidEntryPoint"
	codeInvalidDirectory    = "FunctionError.InvalidWorkingDirectory"
	codeInitResourceExhaust = "FunctionError.InitResourceExhausted"
	codeExtensionInitError  = "FunctionError.ExtensionInitError"
	codeTooManyExtensions   = "FunctionError.TooManyExtensions"
	codePermissionDenied    = "FunctionError.PermissionDenied"
)

// hostTrouble says whether a code is about the host, not the function.
func hostTrouble(code string) bool { return code == codeInternal || code == codeCapacity }

// startError is why a start failed, in the words of the Lambda API.
type startError struct {
	code, reason string
	class        error
}

// Error implements error.
func (e *startError) Error() string { return e.code + ": " + e.reason }

// Unwrap gives access to the cause and its class.
func (e *startError) Unwrap() error { return e.class }

// failure translates err to the code and reason people see.
func failure(err error) (code, reason string) {
	if s, ok := errors.AsType[*startError](err); ok {
		return s.code, printable(s.reason)
	}
	return codeInternal, printable(err.Error())
}

// maxReason bounds a reason; the end of what a function printed fits.
const maxReason = 6 << 10

// printable makes text fit for a reason: it ends up in messages, logs, terminals
// and databases, some of which take no bytes but UTF-8 and no zero.
func printable(text string) string {
	if len(text) > maxReason {
		text = text[:maxReason/2] + "\n…\n" + text[len(text)-maxReason/2:]
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', unicode.IsPrint(r):
			return r
		case r == '\r':
			return -1
		}
		return unicode.ReplacementChar
	}, strings.ToValidUTF8(text, string(unicode.ReplacementChar)))
}

func pullError(err error) error {
	code := codeInternal
	switch {
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		code = codeImageAccessDenied
	case errdefs.IsNotFound(err), errdefs.IsInvalidArgument(err), errdefs.IsFailedPrecondition(err):
		code = codeInvalidImage
	case errdefs.IsResourceExhausted(err):
		code = codeCapacity
	}
	return &startError{code: code, reason: said(err), class: err}
}

func codeError(err error) error {
	code := codeInternal
	switch {
	case errdefs.IsInvalidArgument(err):
		code = codeInvalidZip
	case errdefs.IsResourceExhausted(err):
		code = codeCapacity
	}
	return &startError{code: code, reason: said(err), class: err}
}

func createError(err error) error {
	code := codeInternal
	switch {
	case errdefs.IsInvalidArgument(err):
		code = codeInvalidConfig
	case errdefs.IsFailedPrecondition(err):
		code = codeInvalidImage
	case errdefs.IsResourceExhausted(err):
		code = codeCapacity
	}
	return &startError{code: code, reason: said(err), class: err}
}

// said is err without its class, which the code tells already.
func said(err error) string {
	text := err.Error()
	for _, class := range []error{errdefs.ErrInvalidArgument, errdefs.ErrFailedPrecondition, errdefs.ErrResourceExhausted} {
		text = strings.TrimSuffix(text, ": "+class.Error())
	}
	return text
}

// The error types of a command that could not be started.
const (
	invalidDirectory  = "Runtime.InvalidWorkingDir"
	invalidEntryPoint = "Runtime.InvalidEntrypoint"
)

// notStarted is the error type that goes with init's exit code for a command
// that could not be started; empty if it is no such code.
func notStarted(code int) string {
	switch code {
	case sandbox.ExitNoDirectory:
		return invalidDirectory
	case sandbox.ExitNotExecutable, sandbox.ExitNotFound:
		return invalidEntryPoint
	}
	return ""
}

// initError is a failed initialisation as the runtime or an extension reported
// it.
func initError(e runtimeapi.InitError, output string) error {
	code := codeRuntimeInitError
	if strings.HasPrefix(e.Type, "Extension.") {
		code = codeExtensionInitError
	}
	return ownFault(code, e.Type+": "+e.Message, output)
}

// initTimeout is an initialisation that missing held up for too long.
func initTimeout(limit time.Duration, missing, output string) error {
	return ownFault(codeInitTimeout, fmt.Sprintf("%s within %v", missing, limit), output)
}

// exitError is a process that ended before the environment was ready. refusal is
// why its extension could not register, if that is why.
func exitError(exit runtimeapi.Exit, refusal, output string) error {
	if why, is := strings.CutPrefix(strings.TrimSpace(output), sandbox.NotStarted); is && !strings.Contains(why, "\n") {
		if kind := notStarted(exit.Code); kind != "" && exit.Extension == "" {
			exit.Kind, exit.Message, output = kind, why, ""
		}
	}
	reason := exit.Type() + ": "
	if exit.Extension != "" {
		reason += "extension " + exit.Extension + ": "
	}
	reason += exit.String()
	if refusal != "" {
		reason += ": " + refusal
	}
	return ownFault(exitCode(exit), reason, output)
}

// exitCode is the StateReasonCode of a process that ended too early.
func exitCode(exit runtimeapi.Exit) string {
	switch kind := exit.Type(); {
	case kind == invalidDirectory:
		return codeInvalidDirectory
	case kind == invalidEntryPoint:
		return codeInvalidEntryPoint
	case kind == "TooManyExtensions":
		return codeTooManyExtensions
	case kind == "PermissionDenied":
		return codePermissionDenied
	case exit.OutOfMemory:
		return codeInitResourceExhaust
	case strings.HasPrefix(kind, "Extension."):
		return codeExtensionInitError
	}
	return codeRuntimeInitError
}

// ownFault is a fault of the function itself, with the end of what it printed.
func ownFault(code, reason, output string) error {
	if output = strings.TrimSpace(output); output != "" {
		reason += "; the last it printed:\n" + output
	}
	return &startError{code: code, reason: reason, class: errdefs.ErrFailedPrecondition}
}

// validate refuses an assignment that makes no sense, in the words of the
// Lambda API.
func validate(a agent.Assignment) error {
	for _, f := range []struct {
		ok   bool
		what string
	}{
		{a.Image.Ref != "", "image"},
		{within(a.Limits.CPU, maxMilliCPU) && within(a.Limits.Memory, maxBytes), "limits"},
		{within(a.EphemeralStorage, maxBytes), "ephemeral storage"},
		{within(a.Timeout, maxWait), "timeout"},
		{within(a.InitTimeout, maxWait), "init timeout"},
		{within(a.MaxConcurrency, maxConcurrency), "concurrency"},
	} {
		if !f.ok {
			return ownFault(codeInvalidConfig, "assignment has no valid "+f.what, "")
		}
	}
	return nil
}

// What an assignment may ask for at most: more than any host has, or AWS allows.
const (
	maxMilliCPU    = 1 << 24
	maxBytes       = 1 << 50
	maxWait        = 24 * time.Hour
	maxConcurrency = 1600
)

// within reports whether n is above zero and at most most.
func within[N agent.MilliCPU | agent.Bytes | time.Duration | int](n, most N) bool {
	return n > 0 && n <= most
}
