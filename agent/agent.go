// Package agent is the vocabulary of hearth-agent, the daemon on every
// instance: what it is told to run ([Assignment], [DesiredSet]), what it says
// about it ([EnvironmentStatus], [Report]) and what it does all day
// ([Invocation], [Verdict]). Behaviour lives in the packages beneath.
//
// # Model
//
// An execution environment is one assignment made real:
//
//	          ┌───────────────────────── backoff ──────────────────────┐
//	          ▼                                                        │
//	pending ──► starting ──► ready ──► draining ──► (gone)             │
//	               │           └──── process ended ────────────────────┤
//	               └──── init error, init timeout, exit ──► failed ────┘
//
// The control service names environments and decides where they run; the agent
// may run several containers (sandboxes) for one environment one after the
// other, and two at once while one replaces the other.
package agent

import "time"

// InstanceID names an instance.
type InstanceID string

// EnvironmentID names an execution environment, unique for all time. It is
// chosen by the control service: lower-case letters, digits and hyphens, at
// most 48 characters.
type EnvironmentID string

// MilliCPU is CPU in thousandths of a vCPU.
type MilliCPU int64

// Bytes is a size in bytes.
type Bytes int64

// Resources is an amount of CPU and memory.
type Resources struct {
	CPU    MilliCPU
	Memory Bytes
}

// Assignment is everything needed to run one execution environment. It never
// changes under one environment id.
type Assignment struct {
	Environment EnvironmentID
	// FunctionARN is the qualified ARN of the version.
	FunctionARN  string
	FunctionName string
	// Version is "$LATEST.PUBLISHED", a number or, on demand, "$LATEST".
	Version string
	// Revision names this publication of the version.
	Revision string
	Image    Image
	// Code is the zip archive; zero for functions packaged as an image.
	Code    Code
	Handler string
	// ImageConfig overrides what the image says.
	ImageConfig ImageConfig
	// OnDemand functions find the environment variables of default Lambda.
	OnDemand bool
	// Runtime is a name such as "provided.al2023"; empty for images.
	Runtime string
	// Variables are the customer's environment variables.
	Variables map[string]string
	// Limits are CPU quota and memory limit, both above zero.
	Limits Resources
	// EphemeralStorage is the size of /tmp.
	EphemeralStorage Bytes
	// Timeout bounds one invoke, 1 s to 900 s.
	Timeout time.Duration
	// InitTimeout bounds the time to the first /next.
	InitTimeout time.Duration
	// MaxConcurrency is how many invokes may run at once, 1 to 1600.
	MaxConcurrency int
	Logging        Logging
	// Layers are archives, merged at /opt in this order: a later one's files hide
	// an earlier one's.
	Layers []Code
	// RoleARN is the execution role; its credentials come by themselves, or not at
	// all.
	RoleARN string
	// TracingMode is "Active" or "PassThrough".
	TracingMode string
}

// Image is a container image and the credentials to pull it.
type Image struct {
	Ref                string
	Username, Password string
}

// ImageConfig overrides what an image says; what is empty is not overridden.
type ImageConfig struct {
	EntryPoint, Command []string
	WorkingDirectory    string
}

// Code names a zip archive by its content.
type Code struct {
	// SHA256 is lower-case hexadecimal.
	SHA256 string
	Size   Bytes
}

// Logging is a function's logging configuration.
type Logging struct {
	// Format is "JSON" or "Text".
	Format string
	// ApplicationLevel and SystemLevel are AWS's level names.
	ApplicationLevel, SystemLevel string
	Group                         string
}

// DesiredSet is the complete set of environments this instance should run.
type DesiredSet struct {
	// Epoch is the leadership term it was decided in, Generation counts within
	// it. Older ones are refused.
	Epoch, Generation uint64
	Environments      []DesiredEnvironment
	// Intent says that a large removal is meant.
	Intent StopIntent
}

// DesiredEnvironment is one member of a desired set.
type DesiredEnvironment struct {
	Assignment Assignment
	// Draining asks to finish what runs and refuse what is new.
	Draining bool
}

// StopIntent says why environments are missing from a desired set.
type StopIntent string

// The intents.
const (
	StopFew    StopIntent = ""
	StopDrain  StopIntent = "drain"
	StopDelete StopIntent = "delete"
)

// EnvironmentState is where an environment is in its life.
type EnvironmentState string

// The states in the order they happen.
const (
	StatePending  EnvironmentState = "pending"
	StateStarting EnvironmentState = "starting"
	StateReady    EnvironmentState = "ready"
	StateDraining EnvironmentState = "draining"
	StateFailed   EnvironmentState = "failed"
)

// EnvironmentStatus is one environment as the agent sees it.
type EnvironmentStatus struct {
	Environment EnvironmentID
	FunctionARN string
	Revision    string
	State       EnvironmentState
	// ReasonCode is a StateReasonCode of the Lambda API and Reason the same for
	// people; both empty unless failed.
	ReasonCode, Reason string
	// Failures counts failed starts since the environment was last ready.
	Failures int
	// Sandbox is the container that serves it now, or served it last.
	Sandbox        string
	Since          time.Time
	MaxConcurrency int
	Heat           EnvironmentHeat
}

// EnvironmentHeat is how hot an environment is.
type EnvironmentHeat struct {
	// InFlight counts invokes running now.
	InFlight int
	// CPU is averaged over the last second.
	CPU MilliCPU
	// Memory is without reclaimable cache.
	Memory Bytes
	// Tmp is what is used of /tmp.
	Tmp Bytes
	// Limit is how many invokes are admitted at once now; 0 means not known.
	Limit int
	// Overrun counts slots held by code that ran past its deadline.
	Overrun int
	// Refusals counts refused invokes since the environment exists.
	Refusals Refusals
	// ThrottledPermille is the part of the last second in which CPU was wanted and
	// the quota was used up.
	ThrottledPermille int
}

// Refusals counts refused invokes by reason.
type Refusals struct{ Concurrency, CPU, Memory, Disk int64 }

// Plus is both together.
func (r Refusals) Plus(o Refusals) Refusals {
	return Refusals{r.Concurrency + o.Concurrency, r.CPU + o.CPU, r.Memory + o.Memory, r.Disk + o.Disk}
}

// Load is how busy an environment is at this moment; it goes with every answer.
type Load struct {
	// InFlight counts taken slots, Limit is how many may be taken now.
	InFlight, Limit int
	// CPUPermille is CPU used of what is allotted, in thousandths.
	CPUPermille int
}

// HostHeat is how hot the instance is.
type HostHeat struct {
	CPU                 MilliCPU
	Memory              Bytes
	DiskUsed, DiskTotal Bytes
	InFlight            int
}

// Report is the state of the instance at one moment.
type Report struct {
	At                time.Time
	Epoch, Generation uint64
	// Refused says why the last received set was refused; empty if accepted.
	Refused string
	// Stopping says the agent admits nothing new because it is shutting down.
	Stopping     bool
	Host         HostHeat
	Environments []EnvironmentStatus
}

// Invocation is one event for one environment, without its payload.
type Invocation struct {
	// RequestID is a UUID, unique for all time.
	RequestID   string
	Environment EnvironmentID
	// InvokedARN is the ARN as the caller gave it, completed.
	InvokedARN string
	// Source says who asked, for example "lambda-api".
	Source string
	// Timeout is how long the function may take, counted from admission.
	Timeout time.Duration
	// DetachedDeadline, when not zero, keeps the invocation running until then
	// even if its caller leaves.
	DetachedDeadline time.Time
	ClientContext    string
	TraceID          string
	ContentType      string
	// LogTail asks for the end of what the function prints meanwhile.
	LogTail bool
	// Traceparent is the W3C trace context of the caller's span; may be empty.
	Traceparent string
	// Stream asks for the answer as it comes, see [Outcome].Stream.
	Stream bool
}

// Outcome is how an invocation that was handed to a runtime ended.
type Outcome struct {
	// FunctionError is empty when the function answered, else "Unhandled".
	FunctionError string
	// ContentType is the answer's, as the runtime gave it.
	ContentType string
	// Payload is the function's answer or an error document.
	Payload []byte
	// Duration is how long the runtime had the event.
	Duration time.Duration
	// LogTail is the end of what the function printed meanwhile, at most 4 KiB, if
	// it was asked for.
	LogTail []byte
	// Release gives back the memory Payload was given; nil when that was not
	// counted. Whoever has the outcome calls it once.
	Release func()
	// ErrorType is the type of the error, where FunctionError says that there is
	// one and it is known, for example "Sandbox.Timedout".
	ErrorType string
	// Load is how busy the environment is once this has ended.
	Load Load
	// Stream, unless nil, is the answer, which has only begun: of the other fields
	// ContentType alone is set. Whoever has the outcome reads it to its end.
	Stream Stream
}

// Stream is an answer that comes piece by piece. It is for one goroutine.
type Stream interface {
	// Next waits for the next piece, which is valid until it is called again; ok
	// is false at the end.
	Next() (piece []byte, ok bool)
	// End waits for the end and says how the answer ended: FunctionError is set,
	// and Payload an error document, when it is not complete.
	End() Outcome
}

// Reason is why an invocation was refused.
type Reason string

// The reasons. The first four are AWS's throttle metrics: ConcurrencyThrottles,
// CPUThrottles, MemoryThrottles, DiskThrottles.
const (
	ReasonConcurrency Reason = "concurrency"
	ReasonCPU         Reason = "cpu"
	ReasonMemory      Reason = "memory"
	ReasonDisk        Reason = "disk"
	ReasonDraining    Reason = "draining"
	ReasonNotReady    Reason = "not-ready"
)

// Verdict is the answer to "may this invocation run here, now?". The zero value
// refuses for no reason and is never returned.
type Verdict struct {
	Admitted bool
	// Reason is set when not admitted.
	Reason Reason
	// RetryAfter is when it may be worth asking again; 0 means unknown.
	RetryAfter time.Duration
}
