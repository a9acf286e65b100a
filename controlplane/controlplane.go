// Package controlplane is the vocabulary of hearth-control: what users ask for
// ([CapacityProvider], [Function], [Version], [ScalingConfig]), what exists
// ([Instance], [Environment]), the [Snapshot] deciders look at and the [Action]
// they return. Behaviour lives in the packages beneath.
//
// Intent (providers, functions, versions, scaling configs, instances we asked a
// cloud for) is durable and lives in the store. Observation (what runs where,
// how hot it is, who is alive) is rebuilt from the agents' reports.
package controlplane

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"
)

// Names and ids. They are distinct types so that they cannot be mixed up.
type (
	// ProviderName names a capacity provider: 1–140 of [a-zA-Z0-9-_].
	ProviderName string
	// FunctionName names a function: 1–64 of [a-zA-Z0-9-_].
	FunctionName string
	// Qualifier is "$LATEST", "$LATEST.PUBLISHED", a version number or, where
	// callers name functions, an alias.
	Qualifier string
	// Revision names one publication of a version, a UUID.
	Revision string
	// InstanceID names an instance: "i-" and 17 hexadecimal digits.
	InstanceID string
	// EnvironmentID names an execution environment: "e-" and 16 hexadecimal digits.
	EnvironmentID string
	// Zone is an availability zone; every subnet of a provider is one.
	Zone string
	// MilliCPU is CPU in thousandths of a vCPU.
	MilliCPU int64
	// Bytes is a size in bytes.
	Bytes int64
)

// The qualifiers with a meaning of their own.
const (
	Latest          Qualifier = "$LATEST"
	LatestPublished Qualifier = "$LATEST.PUBLISHED"
)

// Number is the qualifier of the nth published version.
func Number(n int) Qualifier { return Qualifier(strconv.Itoa(n)) }

// Resources is an amount of CPU and memory.
type Resources struct {
	CPU    MilliCPU
	Memory Bytes
}

// Fits reports whether r can be taken from free.
func (r Resources) Fits(free Resources) bool { return r.CPU <= free.CPU && r.Memory <= free.Memory }

// Plus is r and o together.
func (r Resources) Plus(o Resources) Resources {
	return Resources{CPU: r.CPU + o.CPU, Memory: r.Memory + o.Memory}
}

// Minus is r without o.
func (r Resources) Minus(o Resources) Resources {
	return Resources{CPU: r.CPU - o.CPU, Memory: r.Memory - o.Memory}
}

// ProviderState is the State of a capacity provider as AWS names it.
type ProviderState string

// The states in the order they happen.
const (
	ProviderPending  ProviderState = "Pending"
	ProviderActive   ProviderState = "Active"
	ProviderFailed   ProviderState = "Failed"
	ProviderDeleting ProviderState = "Deleting"
)

// CapacityProvider is the pool of instances functions are bound to.
type CapacityProvider struct {
	Name  ProviderName
	ARN   string
	State ProviderState
	// Zones are the subnets, 1–16; each is an availability zone. Required.
	Zones            []Zone
	SecurityGroups   []string
	OperatorRoleARN  string
	Architecture     string // "x86_64" or "arm64"
	AllowedTypes     []string
	ExcludedTypes    []string
	MaxVCPU          int    // 2–15000
	ScalingMode      string // "Auto" or "Manual"
	ScalingPolicies  []ScalingPolicy
	KMSKeyARN        string
	PropagateTags    map[string]string
	PropagateTagMode string
	SystemLogLevel   string
	LogGroup         string
	Tags             map[string]string
	CreatedAt        time.Time
	ModifiedAt       time.Time
}

// Template names what instances of the provider are launched from: it changes
// when an update makes those that run out of date.
func (p *CapacityProvider) Template() string {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%q %q %q %q %q %q", p.Architecture, p.AllowedTypes, p.ExcludedTypes, p.OperatorRoleARN,
		p.KMSKeyARN, p.SecurityGroups)
	return fmt.Sprintf("%016x", h.Sum64())
}

// ScalingPolicy is one target of Manual scaling.
type ScalingPolicy struct {
	Metric string
	Target float64 // per cent
}

// ScalingConfig bounds the number of environments of a version. Zero and zero
// deactivates it.
type ScalingConfig struct {
	// Min and Max are 0–15000; Max 0 with Min above 0 means no maximum.
	Min, Max int
}

// DefaultScaling holds for versions of configuration c until the user says
// otherwise: a minimum of 3 (lmi-behaviour §3.3), of 1 for on-demand functions.
func DefaultScaling(c *Config) ScalingConfig {
	if c.OnDemand {
		return ScalingConfig{Min: 1}
	}
	return ScalingConfig{Min: 3}
}

// InstanceState is what was decided about an instance.
type InstanceState string

// The states in the order they happen.
const (
	InstanceLaunching   InstanceState = "launching"
	InstanceRunning     InstanceState = "running"
	InstanceDraining    InstanceState = "draining"
	InstanceTerminating InstanceState = "terminating"
)

// Instance is one machine of a provider: the durable record, joined in a
// snapshot with what its agent says.
type Instance struct {
	ID       InstanceID
	Provider ProviderName
	Zone     Zone
	State    InstanceState
	// Size is what was asked for; the agent says what it really has.
	Size         Resources
	Architecture string
	// Template is that of the provider when the instance was launched; empty for
	// a host that joined by itself.
	Template string
	// Fleet is the driver that launched it: "local", "ec2", "static".
	Fleet     string
	CreatedAt time.Time

	// KnownSince is when this process first saw the record. What is timed is timed
	// by it: CreatedAt is of a clock that may have jumped since.
	KnownSince time.Time `json:"-"`
	// Observed is nil until the agent was heard of since this process started.
	Observed *InstanceObservation `json:"-"`
}

// InstanceObservation is what an agent says about its instance.
type InstanceObservation struct {
	Connected    bool
	Stopping     bool
	Allocatable  Resources
	HeardAt      time.Time
	AgentVersion string
	Hostname     string
	Heat         HostHeat
	// EmptySince is when it last had an environment; zero while it has one.
	EmptySince time.Time
}

// HostHeat is how hot an instance is.
type HostHeat struct {
	CPU                 MilliCPU
	Memory              Bytes
	DiskUsed, DiskTotal Bytes
	InFlight            int
}

// EnvironmentState is where an environment is in its life.
type EnvironmentState string

// The states in the order they happen; Unknown means its agent is not heard.
const (
	EnvironmentUnknown  EnvironmentState = "Unknown"
	EnvironmentPending  EnvironmentState = "Pending"
	EnvironmentStarting EnvironmentState = "Starting"
	EnvironmentReady    EnvironmentState = "Ready"
	EnvironmentDraining EnvironmentState = "Draining"
	EnvironmentFailed   EnvironmentState = "Failed"
)

// Environment is one execution environment: where it was placed, joined with
// what its agent says.
type Environment struct {
	ID        EnvironmentID
	Provider  ProviderName
	Function  FunctionName
	Qualifier Qualifier
	Revision  Revision
	Instance  InstanceID
	Size      Resources
	// Draining was decided: it takes nothing new and goes once it is idle.
	Draining bool
	// PlacedAt is when it was decided and DrainingSince when that it drains, by
	// this process's clock.
	PlacedAt, DrainingSince time.Time

	State              EnvironmentState
	ReasonCode, Reason string
	Failures           int
	Sandbox            string
	Since              time.Time
	MaxConcurrency     int
	Heat               EnvironmentHeat
}

// EnvironmentHeat is how hot an environment is.
type EnvironmentHeat struct {
	// InFlight are invokes that hold a slot; Overrun those of them whose deadline
	// is past. Limit is how many it admits at once now.
	InFlight, Overrun, Limit int

	CPU    MilliCPU
	Memory Bytes
	Tmp    Bytes
	// ThrottledPermille is the part of the last second in which it wanted CPU and
	// its quota was used up.
	ThrottledPermille int
	// Refusals counts refused invokes since its container was started.
	Refusals Refusals
}

// Refusals counts refused invokes by reason.
type Refusals struct{ Concurrency, CPU, Memory, Disk int64 }

// Snapshot is everything deciders know about one capacity provider at one
// moment. It is never changed once made. Slices are ordered by id or name.
type Snapshot struct {
	Provider CapacityProvider
	// Versions are those that may run: $LATEST only of on-demand functions. One
	// whose Provider is another moves there: what is here still serves for it.
	Versions     []Version
	Instances    []Instance
	Environments []Environment
}

// Outdated tells whether an instance is no longer what the provider asks for:
// its zone was given up, or it was launched from another template.
func (s *Snapshot) Outdated(in *Instance) bool {
	if in.Template != "" && in.Template != s.Provider.Template() {
		return true
	}
	return in.Zone != "" && !slices.Contains(s.Provider.Zones, in.Zone)
}
