package sessions

import (
	"fmt"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// An agent is a host that somebody may have broken into: what it says is checked
// before anything is decided by it. What cannot be meant ends its session;
// numbers and texts beyond what any instance has are cut to that.
const (
	// maxEnvironments is the most an instance may say it runs.
	maxEnvironments = 10_000
	maxIdentifier   = 48
	maxReason       = 8 << 10
	maxText         = 1 << 10
	// maxAmount bounds every amount: a pebibyte.
	maxAmount = 1 << 50
	// maxSlots is the most invokes an environment may run at once.
	maxSlots = 1600
)

// checkRegister returns what in r cannot be meant. Errors: InvalidArgument.
func checkRegister(r *agentv1.Register) error {
	for _, f := range []struct{ name, text string }{
		{"agent version", r.GetAgentVersion()},
		{"process id", r.GetProcessId()},
		{"architecture", r.GetArchitecture()},
		{"zone", r.GetZone()},
		{"host name", r.GetHostname()},
	} {
		if len(f.text) > maxText {
			return fmt.Errorf("registration: a %s of %d bytes: %w", f.name, len(f.text), errdefs.ErrInvalidArgument)
		}
	}
	ids := make([]string, len(r.GetAccepted().GetEnvironments()))
	for i, e := range r.GetAccepted().GetEnvironments() {
		ids[i] = e.GetAssignment().GetEnvironmentId()
	}
	if err := checkEnvironments(ids); err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	return nil
}

// checkReport returns what in r cannot be meant. Errors: InvalidArgument.
func checkReport(r *agentv1.Report) error {
	ids := make([]string, len(r.GetEnvironments()))
	for i, e := range r.GetEnvironments() {
		ids[i] = e.GetEnvironmentId()
	}
	if err := checkEnvironments(ids); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// checkEnvironments wants ids we could have given, each once.
func checkEnvironments(ids []string) error {
	if len(ids) > maxEnvironments {
		return fmt.Errorf("%d environments, at most %d can be: %w", len(ids), maxEnvironments, errdefs.ErrInvalidArgument)
	}
	seen := make(map[string]bool, len(ids))
	for _, id := range ids {
		if !validIdentifier(id) {
			return fmt.Errorf("environment id %.64q was never given: %w", id, errdefs.ErrInvalidArgument)
		}
		if seen[id] {
			return fmt.Errorf("environment %s is there twice: %w", id, errdefs.ErrInvalidArgument)
		}
		seen[id] = true
	}
	return nil
}

func validIdentifier(id string) bool {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return id != "" && len(id) <= maxIdentifier
}

// amount is n as far as any instance can have it.
func amount[N int32 | int64](n N, most int64) int64 { return min(max(int64(n), 0), most) }

// short is the beginning of text, at most limit bytes of it.
func short(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
