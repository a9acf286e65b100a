package pool

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/sandbox"
)

// Phase is where one incarnation is in its life.
type Phase string

// The phases in the order they happen.
const (
	PhaseStarting Phase = "starting"
	PhaseReady    Phase = "ready"
	// PhaseEnding covers everything from the decision to end it, or its own
	// death, until nothing of it is left.
	PhaseEnding Phase = "ending"
)

// Incarnation is one sandbox of an environment, as Decide sees it.
type Incarnation struct {
	Sandbox sandbox.ID
	Phase   Phase
	// Adopted says that it was started by an agent process before this one.
	Adopted bool
	// Worn is why it should be replaced although it runs; empty if it should not.
	Worn string
}

// View is one environment, as Decide sees it.
type View struct {
	Environment agent.EnvironmentID
	// Wanted says that it is in the desired set.
	Wanted bool
	// Draining says that it finishes what runs and takes nothing new.
	Draining bool
	// RetryAt is the earliest moment for the next start.
	RetryAt time.Time
	// Crowded says that the instance has no memory to spare: one that is worn ends
	// before its successor starts, where else the successor comes first.
	Crowded bool
	// Incarnations, oldest first.
	Incarnations []Incarnation
}

// Verb is what an action does.
type Verb string

// The verbs.
const (
	// VerbStart starts a new incarnation.
	VerbStart Verb = "start"
	// VerbRetire lets an incarnation finish what runs, then ends it.
	VerbRetire Verb = "retire"
	// VerbForget drops an environment that nobody wants and nothing is left of.
	VerbForget Verb = "forget"
)

// Action is one step towards the desired set.
type Action struct {
	Verb        Verb
	Environment agent.EnvironmentID
	// Sandbox is set for retire.
	Sandbox sandbox.ID
	// Reason says why, for logs.
	Reason string
}

// String describes the action in one line.
func (a Action) String() string {
	return fmt.Sprintf("%s %s %s: %s", a.Verb, a.Environment, a.Sandbox, a.Reason)
}

// Decide returns what to do now, ordered by environment, and when to look again
// if nothing happens before; zero means never.
func Decide(views []View, now time.Time) (actions []Action, wake time.Time) {
	views = slices.SortedFunc(slices.Values(views), func(a, b View) int { return cmp.Compare(a.Environment, b.Environment) })
	for _, v := range views {
		actions = append(actions, retirements(v)...)
		switch {
		case !v.Wanted && len(v.Incarnations) == 0:
			actions = append(actions, Action{Verb: VerbForget, Environment: v.Environment, Reason: "not wanted"})
		case !needsStart(v):
		case now.Before(v.RetryAt):
			if wake.IsZero() || v.RetryAt.Before(wake) {
				wake = v.RetryAt
			}
		default:
			actions = append(actions, Action{Verb: VerbStart, Environment: v.Environment, Reason: startReason(v)})
		}
	}
	return actions, wake
}

// needsStart tells whether a fresh incarnation is missing and may come.
func needsStart(v View) bool {
	if !v.Wanted || v.Draining || v.Crowded && worn(v) != nil {
		return false
	}
	return latest(v, func(i Incarnation) bool { return !i.Adopted && i.Worn == "" && i.Phase != PhaseEnding }) == nil
}

func startReason(v View) string {
	if slices.ContainsFunc(v.Incarnations, func(i Incarnation) bool { return i.Adopted }) {
		return "replaces one from before the restart"
	}
	if in := worn(v); in != nil {
		return "replaces one that is worn: " + in.Worn
	}
	return "wanted"
}

// worn is the newest incarnation that should be replaced, if there is one.
func worn(v View) *Incarnation {
	return latest(v, func(i Incarnation) bool { return i.Worn != "" })
}

// retirements ends every incarnation that has served its purpose.
func retirements(v View) []Action {
	newest := latest(v, func(i Incarnation) bool { return !i.Adopted && i.Worn == "" && i.Phase == PhaseReady })
	var actions []Action
	for _, in := range v.Incarnations {
		if reason := retireReason(v, in, newest); reason != "" {
			actions = append(actions, Action{Verb: VerbRetire, Environment: v.Environment, Sandbox: in.Sandbox, Reason: reason})
		}
	}
	return actions
}

// retireReason is why an incarnation has served its purpose; empty if it has
// not. newest is the newest fresh one that is ready, if there is one.
func retireReason(v View, in Incarnation, newest *Incarnation) string {
	replaced := newest != nil && in.Sandbox != newest.Sandbox && (in.Adopted || in.Phase == PhaseReady)
	switch {
	case in.Phase == PhaseEnding:
		return ""
	case !v.Wanted:
		return "not wanted"
	case v.Draining && in.Phase == PhaseStarting:
		return "draining before it was ready"
	case replaced:
		return "replaced"
	case in.Worn != "" && v.Crowded:
		return "worn, and the instance has no memory for two: " + in.Worn
	}
	return ""
}

func latest(v View, is func(Incarnation) bool) *Incarnation {
	for i := range slices.Backward(v.Incarnations) {
		if is(v.Incarnations[i]) {
			return &v.Incarnations[i]
		}
	}
	return nil
}

// Running is one environment that exists on the instance, as Check sees it.
type Running struct {
	Environment agent.EnvironmentID
	Draining    bool
}

// Check says whether next may replace the set that has been accepted at epoch
// and generation. It refuses a set that is older, and one that stops several
// environments and more than half of what runs without saying that this is
// meant: a control service that sees nothing must not be taken for one that
// wants nothing. Stopping a single environment is always allowed, and so is
// stopping what already drains. Errors: Conflict (older), FailedPrecondition.
func Check(epoch, generation uint64, running []Running, next agent.DesiredSet) error {
	if next.Epoch < epoch || next.Epoch == epoch && next.Generation < generation {
		return fmt.Errorf("desired set %d.%d is older than the accepted %d.%d: %w",
			next.Epoch, next.Generation, epoch, generation, errdefs.ErrConflict)
	}
	if next.Intent != agent.StopFew {
		return nil
	}
	wanted := map[agent.EnvironmentID]bool{}
	for _, e := range next.Environments {
		wanted[e.Assignment.Environment] = true
	}
	count, stopped := 0, 0
	for _, r := range running {
		if r.Draining {
			continue
		}
		count++
		if !wanted[r.Environment] {
			stopped++
		}
	}
	if stopped > 1 && 2*stopped > count {
		return fmt.Errorf("desired set %d.%d stops %d of %d environments without saying drain or delete: %w",
			next.Epoch, next.Generation, stopped, count, errdefs.ErrFailedPrecondition)
	}
	return nil
}
