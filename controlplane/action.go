package controlplane

import (
	"fmt"
)

// Action is one thing to do, decided from a snapshot. The set is closed:
// [StartEnvironment], [StopEnvironment], [LaunchInstance], [DrainInstance],
// [TerminateInstance].
type Action interface {
	fmt.Stringer
	// Why is the reason in one word, for metrics.
	Why() Reason
	action()
}

// Reason is why an action was decided, from a closed set.
type Reason string

// The reasons.
const (
	ReasonMinimum        Reason = "minimum"         // below the version's minimum
	ReasonSurplus        Reason = "surplus"         // above what the version needs
	ReasonGone           Reason = "gone"            // the version, function or provider was deleted
	ReasonDeactivated    Reason = "deactivated"     // scaled to 0/0
	ReasonReplaced       Reason = "replaced"        // a newer publication is ready
	ReasonDrain          Reason = "drain"           // its instance is being drained
	ReasonNoRoom         Reason = "no-room"         // nothing has room in the zone
	ReasonIdle           Reason = "idle"            // nothing ran on it for a while
	ReasonProviderDelete Reason = "provider-delete" // its provider is being deleted
	ReasonNeverJoined    Reason = "never-joined"    // it was launched and its agent was never heard
	ReasonOutdated       Reason = "outdated"        // its provider was changed since it was launched
)

// StartEnvironment places a new environment.
type StartEnvironment struct {
	Environment EnvironmentID
	Function    FunctionName
	Qualifier   Qualifier
	Revision    Revision
	Instance    InstanceID
	Size        Resources
	Reason      Reason
}

// StopEnvironment removes an environment: gracefully, it drains first; else at
// once.
type StopEnvironment struct {
	Environment EnvironmentID
	Instance    InstanceID
	Graceful    bool
	Reason      Reason
}

// LaunchInstance asks the fleet for a machine.
type LaunchInstance struct {
	Instance InstanceID
	Provider ProviderName
	Zone     Zone
	Size     Resources
	Reason   Reason
}

// DrainInstance lets an instance take nothing new: what it runs is replaced
// elsewhere, then stopped.
type DrainInstance struct {
	Instance InstanceID
	Reason   Reason
}

// TerminateInstance gives a machine back.
type TerminateInstance struct {
	Instance InstanceID
	Reason   Reason
}

func (StartEnvironment) action()  {}
func (StopEnvironment) action()   {}
func (LaunchInstance) action()    {}
func (DrainInstance) action()     {}
func (TerminateInstance) action() {}

// Why implements Action.
func (a StartEnvironment) Why() Reason { return a.Reason }

// Why implements Action.
func (a StopEnvironment) Why() Reason { return a.Reason }

// Why implements Action.
func (a LaunchInstance) Why() Reason { return a.Reason }

// Why implements Action.
func (a DrainInstance) Why() Reason { return a.Reason }

// Why implements Action.
func (a TerminateInstance) Why() Reason { return a.Reason }

func (a StartEnvironment) String() string {
	return fmt.Sprintf("start %s (%s:%s) on %s: %s", a.Environment, a.Function, a.Qualifier, a.Instance, a.Reason)
}

func (a StopEnvironment) String() string {
	how := "now"
	if a.Graceful {
		how = "once idle"
	}
	return fmt.Sprintf("stop %s on %s %s: %s", a.Environment, a.Instance, how, a.Reason)
}

func (a LaunchInstance) String() string {
	return fmt.Sprintf("launch %s for %s in %s (%d mCPU, %d MiB): %s",
		a.Instance, a.Provider, a.Zone, a.Size.CPU, a.Size.Memory>>20, a.Reason)
}

func (a DrainInstance) String() string { return fmt.Sprintf("drain %s: %s", a.Instance, a.Reason) }

func (a TerminateInstance) String() string {
	return fmt.Sprintf("terminate %s: %s", a.Instance, a.Reason)
}
