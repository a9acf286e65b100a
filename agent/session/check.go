package session

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

const (
	// maxEnvironments is the most one instance is asked to run; more is a fault
	// of the control service.
	maxEnvironments = 10_000
	maxIdentifier   = 48
	// maxReason and maxName bound what is reported in words.
	maxReason = 8 << 10
	maxName   = 256
	// maxCredential is the longest part of a role's credentials; session tokens
	// have some hundred bytes, and AWS promises no bound.
	maxCredential = 64 << 10
)

// checkSet refuses a set whose environments cannot be told apart or named: an
// environment's id becomes part of paths, labels and names of cgroups. What
// else is wrong with an assignment is its own failure and leaves the others
// alone. Errors: InvalidArgument.
func checkSet(set *agentv1.DesiredSet) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("desired set %d.%d: %s: %w", set.GetEpoch(), set.GetGeneration(), fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	if n := len(set.GetEnvironments()); n > maxEnvironments {
		return invalid("%d environments, at most %d may be asked for", n, maxEnvironments)
	}
	seen := make(map[string]bool, len(set.GetEnvironments()))
	for _, e := range set.GetEnvironments() {
		id := e.GetAssignment().GetEnvironmentId()
		if !validIdentifier(id) {
			return invalid("environment id %.64q is not 1 to %d lower-case letters, digits and hyphens", id, maxIdentifier)
		}
		if seen[id] {
			return invalid("environment %s is there twice", id)
		}
		seen[id] = true
	}
	return nil
}

// validIdentifier reports whether id has the form of an agent.EnvironmentID.
func validIdentifier(id string) bool {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return id != "" && len(id) <= maxIdentifier
}

// text is s as the wire can carry it: UTF-8 of at most limit bytes. What a
// function printed can be anything.
func text(s string, limit int) string {
	if len(s) > limit {
		for limit > 0 && !utf8.RuneStart(s[limit]) {
			limit--
		}
		s = s[:limit]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
