package reconcile

import (
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

const (
	// pausedAfter is how long there may be nothing between two steps before it is
	// we who were away: a stopped process, a suspended machine.
	pausedAfter = 5 * time.Second
	// quietAfter is how long an agent, which reports every second, may be silent
	// before invokes go elsewhere, if anything else serves.
	quietAfter = 3 * time.Second
)

// wake begins a step. After a pause of this process what agents said is as old
// as the pause, so decisions wait as they do after a start.
func (l *Loop) wake(now time.Time) {
	if away := now.Sub(l.lastStep); !l.lastStep.IsZero() && away > pausedAfter {
		l.log.Warn("this process was paused; waiting for the agents", "seconds", away.Seconds())
		l.seesSince = now
	}
}

// blind tells whether a provider must be left as it is: because this process
// has only just begun to see, or because most of its agents fell silent at
// once, which is taken for our own fault for a while.
func (l *Loop) blind(s *controlplane.Snapshot, now time.Time) bool {
	all, silent, vanished := sight(s.Instances)
	if now.Sub(l.seesSince) <= l.cfg.Policy.BlindGrace {
		return silent > 0
	}
	most := vanished > 1 && 2*vanished > all
	if !most {
		delete(l.deafSince, s.Provider.Name)
	} else if l.deafSince[s.Provider.Name].IsZero() {
		l.log.Warn("most agents of a capacity provider are silent; deciding nothing for a while",
			"capacity_provider", string(s.Provider.Name), "silent", vanished, "instances", all)
		l.deafSince[s.Provider.Name] = now
	}
	return most && now.Sub(l.deafSince[s.Provider.Name]) <= l.cfg.Policy.DeafGrace
}

// sight counts the instances that should be heard, those that are not, and
// those of them that did not say goodbye.
func sight(instances []controlplane.Instance) (all, silent, vanished int) {
	for i := range instances {
		in := &instances[i]
		if in.State != controlplane.InstanceRunning && in.State != controlplane.InstanceDraining {
			continue
		}
		all++
		if in.Observed != nil && in.Observed.Connected {
			continue
		}
		silent++
		if in.Observed == nil || !in.Observed.Stopping {
			vanished++
		}
	}
	return all, silent, vanished
}
