//go:build node

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// Bounds on how long it takes to be as before: about ten times what is seen on
// an idle machine, and never less than 10 s, as others may use the machine.
const (
	// backInService is for a daemon that died, was stopped or paused: invokes
	// succeed again. Seen: up to 0.5 s.
	backInService = 10 * time.Second
	// backToThree is for environments that died, or were left by their agent: there
	// are three again, all ready. Seen: up to 1.4 s.
	backToThree = 15 * time.Second
	// backToWork is for what waited for a disk, a file or containerd and goes on by
	// itself. Seen: up to 2 s.
	backToWork = 20 * time.Second
	// toldAtOnce is for a caller whose invoke was lost with a process. Seen: up to
	// 0.3 s, after the kill of a shim.
	toldAtOnce = 3 * time.Second
)

// back waits until something is as it was before, at most limit after it was
// spoiled or mended, and logs how long that took.
func (s *stack) back(since time.Time, limit time.Duration, what string, ok func() error) {
	s.t.Helper()
	s.eventually(limit-time.Since(since), what, ok)
	s.t.Logf("%s: after %v", what, time.Since(since).Round(time.Millisecond))
}

// invocable fails unless an invoke succeeds.
func (s *stack) invocable() error {
	_, _, err := s.invoke(s.t.Context(), event{})
	return err
}

// fills wants as many invokes as there are slots to succeed at once: none is
// still taken by something that ended or was forgotten.
func (s *stack) fills(slots int) {
	s.t.Helper()
	for _, f := range s.hold(slots, time.Second).wait() {
		s.t.Errorf("one of as many invokes as there are slots: %v", f.err)
	}
}

// executed fails unless n events were executed.
func (c *counter) executed(n int) func() error {
	return func() error {
		if got := c.total(); got != n {
			return fmt.Errorf("%d were", got)
		}
		return nil
	}
}

// once wants n events to have been executed, each once.
func (c *counter) once(t *testing.T, n int) {
	t.Helper()
	counts := c.counts()
	if len(counts) != n {
		t.Errorf("%d events were executed, want %d", len(counts), n)
	}
	for who, times := range counts {
		if times != 1 {
			t.Errorf("event %s was executed %d times", who, times)
		}
	}
}
