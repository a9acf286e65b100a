package runtimeapi

import (
	"encoding/json"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
)

// Unhandled is the function error of everything that is not an answer.
const Unhandled = "Unhandled"

const contentTypeJSON = "application/json"

// RefusedError says that an invocation was not run, and why.
type RefusedError struct {
	RequestID   string
	Environment agent.EnvironmentID
	Verdict     agent.Verdict
	// Load is how busy the environment is; zero when there is none.
	Load agent.Load
}

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("invoking %s in %s: refused: %s", e.RequestID, e.Environment, e.Verdict.Reason)
}

// Unwrap gives the error its class.
func (*RefusedError) Unwrap() error { return errdefs.ErrResourceExhausted }

// Exit is how a process of an environment ended, or why it could not be started.
type Exit struct {
	// Code is the exit code, 128+n for signal n, -1 if unknown.
	Code int
	// OutOfMemory says that the memory limit ended it.
	OutOfMemory bool
	// Extension is the name of the extension it was; empty for the runtime.
	Extension string
	// Kind is the error type, if it does not follow from the rest.
	Kind string
	// Message is what happened, if it does not follow from the rest.
	Message string
}

// String says it the way AWS does.
func (e Exit) String() string {
	switch {
	case e.Message != "":
		return e.Message
	case e.Extension != "" && e.Code > 128 && e.Code < 128+65:
		return "signal: " + syscall.Signal(e.Code-128).String()
	case e.Extension != "" && e.Code > 0:
		return fmt.Sprintf("exit status %d", e.Code)
	case e.Extension != "":
		return "exit code 0"
	case e.OutOfMemory:
		return "Runtime exited with error: signal: killed"
	case e.Code > 128 && e.Code < 128+65:
		return "Runtime exited with error: signal: " + syscall.Signal(e.Code-128).String()
	case e.Code > 0:
		return fmt.Sprintf("Runtime exited with error: exit status %d", e.Code)
	}
	return "Runtime exited without providing a reason"
}

// Type is the error type AWS gives it.
func (e Exit) Type() string {
	switch {
	case e.Kind != "":
		return e.Kind
	case e.Extension != "":
		return "Extension.Crash"
	case e.OutOfMemory:
		return "Runtime.OutOfMemory"
	}
	return "Runtime.ExitError"
}

func (e Exit) document(requestID string) []byte {
	return document(e.Type(), fmt.Sprintf("RequestId: %s Error: %s", requestID, e))
}

// document is an error document as callers see it.
func document(errorType, message string) []byte {
	b, err := json.Marshal(struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}{errorType, message})
	if err != nil {
		panic(err) // two strings
	}
	return b
}

// timedOut is the document for a caller whose deadline has passed.
func timedOut(x *invocation) []byte {
	limit := x.Timeout
	if limit <= 0 {
		limit = x.deadline.Sub(x.admitted)
	}
	return document("Sandbox.Timedout", fmt.Sprintf(
		"RequestId: %s Error: Task timed out after %.2f seconds", x.RequestID, limit.Round(10*time.Millisecond).Seconds()))
}
