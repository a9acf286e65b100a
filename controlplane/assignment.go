package controlplane

// Assignment is everything an agent needs to run one environment. It never
// changes under one environment id.
type Assignment struct {
	Environment EnvironmentID
	Function    FunctionName
	Qualifier   Qualifier
	// ARN is the qualified ARN of the version.
	ARN   string
	Image Image
	Publication
}

// Image is a container image and the credentials to pull it.
type Image struct {
	// Ref is a registry reference, "builtin:static" or "oci-archive:PATH".
	Ref                string
	Username, Password string
}

// Placement is an assignment on an instance.
type Placement struct {
	Assignment Assignment
	Instance   InstanceID
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

// DesiredSet is everything one instance should run.
type DesiredSet struct {
	// Epoch is the leadership term it was decided in, Generation counts within
	// it for this instance. Agents refuse older ones.
	Epoch, Generation uint64
	Environments      []Placement
	Intent            StopIntent
}

// EnvironmentStatus is what an agent reports of one environment.
type EnvironmentStatus struct {
	ID                 EnvironmentID
	Revision           Revision
	State              EnvironmentState
	ReasonCode, Reason string
	Failures           int
	Sandbox            string
	SinceUnixMilli     int64
	MaxConcurrency     int
	Heat               EnvironmentHeat
}

// Target is how many environments of one publication there should be.
type Target struct {
	Function  FunctionName
	Qualifier Qualifier
	Revision  Revision
	Size      Resources
	// Count is the number wanted.
	Count int
	// Keep forbids stopping what is above Count: the publication still serves
	// for a newer one that is not ready.
	Keep bool
	// Reason is why Count is what it is.
	Reason Reason
}

// Unplaced is an environment that found no instance.
type Unplaced struct {
	Function  FunctionName
	Qualifier Qualifier
	Revision  Revision
	Size      Resources
	// Zone is where it should run.
	Zone Zone
}

// InitTimeoutS is how long an environment may take to ask for its first
// invoke: max(130 s, timeout), at most 900 s (lmi-behaviour §2.4).
func (c *Config) InitTimeoutS() int { return min(900, max(130, c.TimeoutS)) }
