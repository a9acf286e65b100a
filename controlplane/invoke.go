package controlplane

import (
	"fmt"
	"time"
)

// InvokeRequest is one invocation as the API took it in. The router resolves
// Function and Qualifier to a version from its routing table.
type InvokeRequest struct {
	// RequestID is a UUID, unique for all time, made by the API.
	RequestID string
	Function  FunctionName
	// Qualifier is as the caller gave it; empty when it gave none.
	Qualifier Qualifier
	// InvokedARN is the function's ARN, completed, and qualified only if the
	// caller qualified it.
	InvokedARN string
	// DryRun resolves the version and goes no further.
	DryRun bool
	// Payload is the event; whoever gets the request may keep it.
	Payload []byte
	// ContentType of the payload; empty means application/json.
	ContentType string
	// ClientContext is the decoded X-Amz-Client-Context; empty when absent.
	ClientContext string
	// TraceID is X-Amzn-Trace-Id; empty when absent.
	TraceID string
	// LogTail asks for the end of the log of this invocation.
	LogTail bool
	// Stream, unless nil, gets the answer as it comes; then InvokeResult has no
	// Payload but the error document of an answer that is not complete.
	Stream AnswerStream
}

// InvokeResult is what the function answered.
type InvokeResult struct {
	// Executed is the version that ran: "$LATEST.PUBLISHED" or a number. A dry
	// run sets nothing else.
	Executed Qualifier
	// FunctionError is empty, "Unhandled" or "Handled".
	FunctionError string
	// Payload is the function's answer, or its error document.
	Payload []byte
	// ContentType as the runtime gave it; may be empty.
	ContentType string
	// LogTail is the end of the log of the invocation, at most 4 KiB, if it was
	// asked for.
	LogTail []byte
	// Release gives back the memory Payload was given; nil when that was not
	// counted. Whoever has the result calls it once.
	Release func()
}

// FunctionNotFoundError is an invoke of a function or version that does not
// exist. Its class is NotFound.
type FunctionNotFoundError struct {
	// ARN is the function's, qualified as the caller asked.
	ARN string
}

func (e *FunctionNotFoundError) Error() string { return "function not found: " + e.ARN }

// NotFound is the class of containerd/errdefs.
func (*FunctionNotFoundError) NotFound() {}

// NoPublishedVersionError is an unqualified or $LATEST invoke of a function
// nothing of which was published to $LATEST.PUBLISHED. Its class is FailedPrecondition.
type NoPublishedVersionError struct {
	Function FunctionName
}

func (e *NoPublishedVersionError) Error() string {
	return fmt.Sprintf("function %s has no published version", e.Function)
}

// FailedPrecondition is the class of containerd/errdefs.
func (*NoPublishedVersionError) FailedPrecondition() {}

// LatestNotInvocableError is an invoke of $LATEST by name while
// $LATEST.PUBLISHED exists. Its class is InvalidArgument.
type LatestNotInvocableError struct {
	Function FunctionName
}

func (e *LatestNotInvocableError) Error() string {
	return fmt.Sprintf("$LATEST of function %s cannot be invoked", e.Function)
}

// InvalidParameter is the class InvalidArgument of containerd/errdefs.
func (*LatestNotInvocableError) InvalidParameter() {}

// VersionStateError is an invoke of a version whose state forbids it: Pending,
// Failed, Deactivating, Deactivated, Deleting. Its class is FailedPrecondition.
type VersionStateError struct {
	ARN                string // qualified
	State              VersionState
	ReasonCode, Reason string
}

func (e *VersionStateError) Error() string {
	return fmt.Sprintf("%s is %s: %s", e.ARN, e.State, e.Reason)
}

// FailedPrecondition is the class of containerd/errdefs.
func (*VersionStateError) FailedPrecondition() {}

// ThrottleReason is why no environment took an invoke, from a closed set.
type ThrottleReason string

// The reasons.
const (
	ThrottleConcurrency ThrottleReason = "concurrency" // every slot is taken, or there is none
	ThrottleCPU         ThrottleReason = "cpu"
	ThrottleMemory      ThrottleReason = "memory"
	ThrottleDisk        ThrottleReason = "disk"
	// ThrottleReserved is AWS's word: the function is at its reserved concurrency.
	ThrottleReserved ThrottleReason = "ReservedFunctionConcurrentInvocationLimitExceeded"
)

// ThrottledError is an invoke that every environment refused and none ran. Its
// class is ResourceExhausted.
type ThrottledError struct {
	Reason ThrottleReason
	// NoneReady tells that there was no environment to refuse it.
	NoneReady bool
	// RetryAfter is when it may be worth trying again; zero means unknown.
	RetryAfter time.Duration
}

func (e *ThrottledError) Error() string { return "throttled: " + string(e.Reason) }

// ResourceExhausted is the class of containerd/errdefs.
func (*ThrottledError) ResourceExhausted() {}

// LostError is an invoke whose answer will never come: the connection broke
// after the event may have reached the function. It must not be tried again on
// the caller's behalf. Its class is Unavailable.
type LostError struct {
	Environment EnvironmentID
	Err         error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("connection to environment %s lost during the invoke: %v", e.Environment, e.Err)
}

// Unwrap returns the cause.
func (e *LostError) Unwrap() error { return e.Err }

// Unavailable is the class of containerd/errdefs.
func (*LostError) Unavailable() {}
