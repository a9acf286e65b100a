// Package sandbox runs containers: one [Spec] becomes one isolated process
// tree with its own network, limits and /tmp. It knows nothing of functions or
// invokes; that is the agent's business.
//
// # Model
//
//	Create ──► created ──Start──► running ──exit──► stopped ──Remove──► (gone)
//	               └──────────────Remove──────────────────────────────────┘
//
// Drivers live beneath this package: containerd is the real one, fake a
// scriptable one for tests. Both pass the suite in sandboxtest.
//
// # Failure
//
// A driver keeps nothing in memory that it cannot find again: after a restart
// of its process, List returns every sandbox that exists, with the labels and
// metadata it was created with, and Remove cleans up whatever a crash between
// two steps left behind.
package sandbox

import (
	"context"
	"net"
	"time"
)

// ID names a sandbox, unique within one driver. Lower-case letters, digits and
// hyphens, 1 to 63 characters.
type ID string

// MilliCPU is an amount of CPU time per time in thousandths of a CPU.
type MilliCPU int64

// Bytes is a size in bytes.
type Bytes int64

// Runtime runs sandboxes. All methods may be called concurrently, for the same
// sandbox too. Errors carry a class of github.com/containerd/errdefs.
type Runtime interface {
	// Pull makes the image available and unpacked. Idempotent; a second call
	// for an image that is present costs a look-up. Blocks while downloading.
	// Errors: InvalidArgument (malformed reference), NotFound (no such image),
	// Unauthenticated or PermissionDenied (credentials), FailedPrecondition
	// (not for this platform, or broken), ResourceExhausted (disk), Unavailable
	// (registry or daemon out of reach).
	Pull(ctx context.Context, image Image) (ImageConfig, error)

	// Create prepares a sandbox: file systems, limits, network, everything
	// but the process. The image must have been pulled. Either all of it exists
	// afterwards or, on error, nothing. Errors: AlreadyExists, NotFound (image),
	// InvalidArgument, FailedPrecondition (nothing can be mounted in the image),
	// ResourceExhausted (addresses, disk), Unavailable.
	Create(ctx context.Context, spec Spec) (Status, error)

	// Start starts the process of a created sandbox. Errors: NotFound,
	// FailedPrecondition (not in state created), Unavailable.
	Start(ctx context.Context, id ID) error

	// Stop asks the process to end (SIGTERM) and kills everything in the
	// sandbox after the grace period. It returns when nothing runs any more.
	// Idempotent. Errors: NotFound, Unavailable.
	Stop(ctx context.Context, id ID, grace time.Duration) error

	// Remove kills whatever runs and deletes all trace of the sandbox.
	// Idempotent: a sandbox that does not exist is no error. Errors: Unavailable;
	// call again then.
	Remove(ctx context.Context, id ID) error

	// List returns all sandboxes of this driver ordered by id, those from before
	// a restart included. Errors: Unavailable.
	List(ctx context.Context) ([]Status, error)

	// Watch delivers events until ctx is cancelled, then returns nil. Each
	// sandbox that stops while somebody watches, or had stopped when watching
	// began, is delivered at least once, after all that it printed, unless that
	// takes unusually long. deliver is called from one goroutine and must not
	// call back into the driver.
	Watch(ctx context.Context, deliver func(Event)) error

	// Listen opens a TCP listener inside the sandbox's network namespace that
	// belongs to the calling process. It works in states created and running.
	// Errors: NotFound, AlreadyExists (address in use).
	Listen(ctx context.Context, id ID, address string) (net.Listener, error)

	// Dial connects to a TCP address inside the sandbox's network namespace, an IP
	// and a port. It works in states created and running, and may hold a thread
	// until it returns: give ctx a deadline. Errors: NotFound, InvalidArgument (not
	// an address), Unavailable (nobody answers).
	Dial(ctx context.Context, id ID, address string) (net.Conn, error)
}

// Output receives what sandboxes print, one line at a time without its line
// ending. Lines longer than MaxLine are cut into several. It is called from one
// goroutine per stream and must not keep line after it returns.
type Output func(id ID, stream Stream, line []byte)

// MaxLine is the longest line delivered in one piece: 256 KiB, the most one
// CloudWatch Logs event holds.
const MaxLine = 256 << 10

// Stream is one of the two standard output streams.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Image names a container image.
type Image struct {
	// Ref is required: a registry reference such as
	// "public.ecr.aws/lambda/provided:al2023" (with optional digest),
	// "builtin:static", or "oci-archive:PATH" for an archive on disk. Plain HTTP
	// is used only for registries on loopback addresses.
	Ref string
	// Username and Password authenticate to the registry; both empty means
	// anonymous.
	Username, Password string
}

// ImageConfig is what an image says about itself.
type ImageConfig struct {
	// Digest of the manifest chosen for this platform.
	Digest string
	// Entrypoint, Cmd, Env and WorkingDir are the image's defaults.
	Entrypoint, Cmd, Env []string
	WorkingDir           string
	// User is the image's default user; sandboxes run as Spec.User regardless.
	User string
}

// Spec describes a sandbox. It is immutable once created.
type Spec struct {
	// ID is required.
	ID ID
	// Image is required and must have been pulled.
	Image Image
	// Args is the command, required. Args[0] may list alternatives separated by
	// colons: the first that exists is run. It becomes a child of the init
	// process, which is PID 1.
	Args []string
	// Env is the whole environment, "NAME=value".
	Env []string
	// Link is where the init process finds whoever owns the sandbox; zero for
	// nowhere.
	Link Link
	// WorkingDir must exist in the image or a mount, or the command is not
	// started; empty means "/".
	WorkingDir string
	// User the command runs as, never 0.
	User User
	// Mounts are read-only binds of host directories.
	Mounts []Mount
	// Limits are required.
	Limits Limits
	// Labels are kept with the sandbox and returned by List. Keys and values
	// together at most 4,000 bytes each pair.
	Labels map[string]string
	// Metadata is kept with the sandbox and returned by List: what the owner
	// needs to take the sandbox back after a restart. At most 1 MiB. It may hold
	// secrets: drivers never log it.
	Metadata []byte
}

// Link connects the init process with the owner of its sandbox, see
// [github.com/hearth-compute/hearth/sandbox/link]. Drivers that have no init
// process of their own ignore it.
type Link struct {
	// Address is what init dials before it starts anything: an IPv4 address and port
	// on the sandbox's loopback interface, where the owner listens.
	Address string
	// Helpers is a directory in the sandbox: its files are started beside the
	// command, and before it. It need not exist.
	Helpers string
}

// User is a numeric user and group.
type User struct{ UID, GID uint32 }

// Mount binds a host directory or file into the sandbox, read-only, nosuid,
// nodev.
type Mount struct{ Source, Target string }

// Limits is what the kernel enforces.
type Limits struct {
	// CPU quota, at least 10.
	CPU MilliCPU
	// Memory limit; there is no swap beyond it. At least 16 MiB.
	Memory Bytes
	// Tmp is the size of the file system on /tmp, at least 1 MiB.
	Tmp Bytes
	// PIDs limits processes and threads, at least 1.
	PIDs int64
	// OpenFiles limits file descriptors per process (RLIMIT_NOFILE).
	OpenFiles uint64
}

// State is where a sandbox is in its life.
type State string

// The states in the order they happen.
const (
	StateCreated State = "created"
	StateRunning State = "running"
	StateStopped State = "stopped"
)

// Status is a sandbox as it is now.
type Status struct {
	ID       ID
	State    State
	Labels   map[string]string
	Metadata []byte
	// PID of the init process on the host; 0 unless running.
	PID int
	// Exit is set when stopped.
	Exit Exit
	// CreatedAt is when Create was called.
	CreatedAt time.Time
	// CgroupPath is the path of the sandbox's cgroup below each controller's
	// mount point, with a leading slash; empty for drivers without cgroups.
	CgroupPath string
	// TmpPath is the host path of the file system on /tmp; empty if none.
	TmpPath string
}

// Exit says how a sandbox ended.
type Exit struct {
	// Code is the exit code of the command, 128+n if signal n ended it, and -1
	// if it is not known.
	Code int
	// OOMKilled says that the kernel killed a process of the sandbox because the
	// memory limit was reached.
	OOMKilled bool
	At        time.Time
}

// The exit codes of a sandbox whose command could not be started. All it printed
// then is one line that begins with NotStarted and says why. A command may end
// with the same codes, so the line counts.
const (
	// ExitNoDirectory: the working directory cannot be entered.
	ExitNoDirectory = 125
	// ExitNotExecutable: the command exists and cannot be executed.
	ExitNotExecutable = 126
	// ExitNotFound: the command does not exist.
	ExitNotFound = 127

	NotStarted = "hearth-init: "
)

// Event tells that a sandbox stopped.
type Event struct {
	ID   ID
	Exit Exit
}
