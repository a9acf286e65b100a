package controlplane

import (
	"math"
	"strings"
	"time"
)

// Function is a function: its editable $LATEST and what was published.
type Function struct {
	Name FunctionName
	ARN  string // unqualified
	// Provider is the capacity provider it is bound to.
	Provider ProviderName
	// Latest is $LATEST: editable, and run only if the function is on demand.
	Latest Version
	// NextNumber is the number the next published version gets, from 1.
	NextNumber int
	// Deleting is set from the request until its environments are gone.
	Deleting bool
	Tags     map[string]string
	// ReservedConcurrency bounds how many invokes of the function run at once;
	// nil means that nothing does, 0 refuses all.
	ReservedConcurrency *int
	// RecursiveLoop is "Allow" or "Terminate"; empty means Terminate. Kept and
	// returned only.
	RecursiveLoop string
	// EventInvoke, RuntimeManagement and Policies are by what they are for:
	// $LATEST, a version or an alias. Kept and returned only.
	EventInvoke       map[Qualifier]EventInvokeConfig
	RuntimeManagement map[Qualifier]RuntimeManagement
	Policies          map[Qualifier]Policy
	CreatedAt         time.Time
}

// OnDemand tells whether the function was created without a capacity provider
// and follows default Lambda's rules.
func (f *Function) OnDemand() bool { return f.Latest.Config.OnDemand }

// Alias names a version of a function, or shares invokes between two.
type Alias struct {
	Function FunctionName
	// Name is 1–128 of [a-zA-Z0-9-_] and no number.
	Name Qualifier
	ARN  string
	// Version is "$LATEST" or a number.
	Version Qualifier
	// Additional gets Weight of the invokes, 0 to 1; empty means that there is none.
	Additional  Qualifier
	Weight      float64
	Description string
	Revision    Revision
}

// EventInvokeConfig is how asynchronous invokes are tried again and where their
// results go.
type EventInvokeConfig struct {
	// MaxAgeS, 60–21600, and MaxRetries, 0–2; nil means AWS's default.
	MaxAgeS, MaxRetries *int
	// OnSuccess and OnFailure are ARNs; empty means none.
	OnSuccess, OnFailure string
	ModifiedAt           time.Time
}

// RuntimeManagement is when a function's runtime is to be updated.
type RuntimeManagement struct {
	// UpdateOn is "Auto", "Manual" or "FunctionUpdate".
	UpdateOn string
	// VersionARN is set with Manual only.
	VersionARN string
}

// Policy is a resource policy: statements by id, in the order they were added.
type Policy struct {
	Revision   Revision
	Statements []Statement
}

// Statement is one statement of a policy.
type Statement struct {
	ID string
	// JSON is the whole statement as IAM writes it.
	JSON string
}

// VersionState is the State of a function version as AWS names it.
type VersionState string

// The states of lmi-behaviour that occur here, in the order they happen.
const (
	VersionPending            VersionState = "Pending"
	VersionActive             VersionState = "Active"
	VersionFailed             VersionState = "Failed"
	VersionDeactivating       VersionState = "Deactivating"
	VersionDeactivated        VersionState = "Deactivated"
	VersionActiveNonInvocable VersionState = "ActiveNonInvocable"
	VersionDeleting           VersionState = "Deleting"
)

// UpdateStatus is the LastUpdateStatus of a version as AWS names it.
type UpdateStatus string

// The statuses.
const (
	UpdateSuccessful UpdateStatus = "Successful"
	UpdateInProgress UpdateStatus = "InProgress"
	UpdateFailed     UpdateStatus = "Failed"
)

// Version is one version of a function: $LATEST, $LATEST.PUBLISHED or a
// number. Config and Code of a numbered version never change.
type Version struct {
	Function  FunctionName
	Provider  ProviderName
	Qualifier Qualifier
	// Revision changes with every publication of $LATEST.PUBLISHED and every
	// change of $LATEST; it is the RevisionId of the Lambda API.
	Revision Revision
	ARN      string // qualified, except for $LATEST
	Config   Config
	Code     Code

	State      VersionState
	ReasonCode string // StateReasonCode
	Reason     string // StateReason
	// Update describes the last publication of a version that was serving already.
	Update           UpdateStatus
	UpdateReasonCode string
	UpdateReason     string
	// Serving, when not nil, is the publication that serves while this one
	// starts: $LATEST.PUBLISHED published again. It is removed once this one is ready.
	Serving *Publication

	// Scaling is what was asked for; nil means the default.
	Scaling *ScalingConfig
	// Applied is the scaling config in force.
	Applied ScalingConfig

	ModifiedAt time.Time
}

// WantedScaling is the scaling config asked for, or the default.
func (v *Version) WantedScaling() ScalingConfig {
	if v.Scaling != nil {
		return *v.Scaling
	}
	return DefaultScaling(&v.Config)
}

// Publication is the immutable part of a version that environments run.
type Publication struct {
	Provider ProviderName
	Revision Revision
	Config   Config
	Code     Code
}

// Publication returns what environments of the version should run.
func (v *Version) Publication() Publication {
	return Publication{Provider: v.Provider, Revision: v.Revision, Config: v.Config, Code: v.Code}
}

// Config is the configuration of a version.
type Config struct {
	Description string
	RoleARN     string
	Runtime     string // empty for images
	Handler     string
	PackageType string // "Zip" or "Image"
	// Image overrides what an image says; nil means nothing is.
	Image         *ImageConfig
	MemoryMB      int
	TimeoutS      int
	Variables     map[string]string
	EphemeralMB   int
	Architecture  string
	TracingMode   string // "PassThrough" or "Active"
	LogFormat     string // "JSON"
	AppLogLevel   string
	SysLogLevel   string
	LogGroup      string
	DeadLetterARN string
	KMSKeyARN     string
	// OnDemand functions were created without a capacity provider: one invoke at
	// a time in each environment, and the environment variables of default Lambda.
	OnDemand bool
	// MaxConcurrency is PerExecutionEnvironmentMaxConcurrency; 0 means the
	// runtime's default.
	MaxConcurrency int
	// GiBPerVCPU is ExecutionEnvironmentMemoryGiBPerVCpu; 0 means the default, 2.
	GiBPerVCPU float64
	// Layers are merged at /opt in this order, at most 5. None for images.
	Layers []AttachedLayer
}

// ImageConfig overrides what an image says. Empty members are not overridden.
type ImageConfig struct {
	EntryPoint, Command []string
	WorkingDirectory    string
}

// DefaultGiBPerVCPU is the memory in GiB that comes with one vCPU when the
// function does not say (lmi-behaviour §2.2).
const DefaultGiBPerVCPU = 2.0

// An on-demand function gets one vCPU for each 1,769 MB as on default Lambda,
// but never so little that it takes minutes to start.
const (
	onDemandMBPerVCPU = 1769
	onDemandMinCPU    = 250
)

// Resources is what one environment of this configuration is promised.
func (c *Config) Resources() Resources {
	if c.OnDemand {
		cpu := MilliCPU(math.Round(float64(c.MemoryMB) / onDemandMBPerVCPU * 1000))
		return Resources{CPU: max(cpu, onDemandMinCPU), Memory: Bytes(c.MemoryMB) << 20}
	}
	ratio := c.GiBPerVCPU
	if ratio <= 0 {
		ratio = DefaultGiBPerVCPU
	}
	return Resources{
		CPU:    MilliCPU(math.Round(float64(c.MemoryMB) / 1024 / ratio * 1000)),
		Memory: Bytes(c.MemoryMB) << 20,
	}
}

// maxConcurrency is the most invokes one environment may run at once.
const maxConcurrency = 1600

// Concurrency is how many invokes one environment runs at once: what was asked
// for, or the runtime's default for each vCPU (lmi-behaviour §2.3) and at least
// 1. On demand it is 1: nobody said that the code can do more.
func (c *Config) Concurrency() int {
	if c.OnDemand {
		return 1
	}
	if c.MaxConcurrency > 0 {
		return c.MaxConcurrency
	}
	return min(max(1, concurrencyPerVCPU(c.Runtime)*int(c.Resources().CPU)/1000), maxConcurrency)
}

// concurrencyPerVCPU is the default of a runtime, or of an image, which has none.
func concurrencyPerVCPU(runtime string) int {
	for _, d := range []struct {
		prefix      string
		concurrency int
	}{{"nodejs", 64}, {"java", 32}, {"dotnet", 32}, {"python", 16}} {
		if strings.HasPrefix(runtime, d.prefix) {
			return d.concurrency
		}
	}
	return 8
}

// Code is a version's code.
type Code struct {
	// SHA256 of the archive, lower-case hexadecimal; Size in bytes. Zero for images.
	SHA256 string
	Size   Bytes
	// Unpacked is what the files of the archive have in bytes; 0 means not known.
	Unpacked Bytes
	// Image is the reference of a function packaged as an image, as given.
	Image string
	// Resolved is Image by digest, if it could be found out; environments run it.
	Resolved string
}
