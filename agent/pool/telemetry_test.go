package pool

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

func TestAFailureHasAWSErrorType(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"Sandbox.Timedout":          initTimeout(time.Second, "extension x did not register", ""),
		"Runtime.ExitError":         exitError(runtimeapi.Exit{Code: 1}, "", "the last"),
		"Runtime.InvalidEntrypoint": exitError(runtimeapi.Exit{Code: 127}, "", "hearth-init: gone\n"),
		"Extension.Crash":           exitError(runtimeapi.Exit{Code: 3, Extension: "x"}, "it asked", ""),
		"Runtime.ImportModuleError": initError(runtimeapi.InitError{Type: "Runtime.ImportModuleError", Message: "no: way"}, ""),
		"Runtime.Unknown":           &startError{code: "FunctionError.RuntimeInitError", reason: "no type: at all"},
	} {
		fault, ok := errors.AsType[*startError](err)
		if !ok || fault.errorType() != want {
			t.Errorf("%v: got %q", err, fault.errorType())
		}
	}
}

func TestSystemLevels(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]slog.Level{"DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo, "WARN": slog.LevelWarn, "": slog.LevelInfo} {
		if got := systemLevel(name); got != want {
			t.Errorf("%s: got %s", name, got)
		}
	}
}
