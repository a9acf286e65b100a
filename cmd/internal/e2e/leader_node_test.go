//go:build node

package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/artifact"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

// TestAnAgentRefusesAnOldLeaderAndABlindOne: in place of hearth-control the test
// tells an agent what to run. A set of an earlier term is refused, and one that
// stops everything without saying that it is meant; both leave every process of
// the function alone. The right control service then goes on as if nothing had
// been.
func TestAnAgentRefusesAnOldLeaderAndABlindOne(t *testing.T) {
	t.Parallel()
	s := up(t)
	s.provider("subnet-a")
	s.function(concurrency(4)) // 3 environments on the instances of one zone
	s.allReady()
	before := s.functions()
	// hearth up is stopped, or it would start another one at once.
	_, resume := pause(t, s.cmd.Process.Pid)
	control := s.processes("hearth-control")[0]
	kill(t, control)
	s.asLeader(func(leader *sessions.Server) {
		heard := s.most(leader)
		current := heard.Accepted
		for name, set := range map[string]controlplane.DesiredSet{
			"is older than":                  {Epoch: current.Epoch - 1, Generation: current.Generation + 100, Intent: controlplane.StopDelete},
			"without saying drain or delete": {Epoch: current.Epoch, Generation: current.Generation + 1},
		} {
			s.refuses(leader, heard.Instance, set, name)
		}
	})
	if after := s.functions(); !slices.Equal(after, before) {
		t.Errorf("the function's processes were %v and are %v", before, after)
	}
	resumed := time.Now()
	resume()
	s.back(resumed, backInService, "an invoke after the right one may start", s.invocable)
	s.back(resumed, backToThree, "three ready after the right one may start", s.readyOn)
	if after := s.functions(); !slices.Equal(after, before) {
		t.Errorf("the function's processes were %v and are %v", before, after)
	}
}

// asLeader serves agents on the right address with the right authority while fn
// runs.
func (s *stack) asLeader(fn func(*sessions.Server)) {
	s.t.Helper()
	ca, err := sessions.OpenCA(filepath.Join(s.dir, "ca"), time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	db, err := sqlite.Open(s.t.Context(), filepath.Join(s.dir, "hearth.db"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	archives, err := artifact.OpenDir(filepath.Join(s.dir, "artifacts"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = archives.Close() }()
	var lis net.Listener
	s.eventually(10*time.Second, "the address of the one that was killed", func() (err error) {
		lis, err = net.Listen("tcp", s.agents)
		return err
	})
	leader, err := sessions.New(sessions.Config{
		Listener: lis, CA: ca, Tokens: sessions.NewTokens(db, ca, "local"), Artifacts: archives, Changed: func() {}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- leader.Run(ctx) }()
	defer func() {
		cancel(errors.New("the test has seen enough"))
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}()
	fn(leader)
}

// most waits for the agent that runs the most, which must be several.
func (s *stack) most(leader *sessions.Server) (best sessions.Heard) {
	s.t.Helper()
	s.eventually(20*time.Second, "an agent with several environments", func() error {
		for _, h := range leader.Heard() {
			if h.Reported && len(h.Accepted.Environments) > 1 {
				best = h
				return nil
			}
		}
		return fmt.Errorf("heard %d agents", len(leader.Heard()))
	})
	return best
}

// refuses wants an agent to say that it refused a set, and why.
func (s *stack) refuses(leader *sessions.Server, id controlplane.InstanceID, set controlplane.DesiredSet, why string) {
	s.t.Helper()
	leader.Forget(id) // or an older set would not be sent at all
	leader.Desire(id, set)
	s.eventually(20*time.Second, "the set to be refused", func() error {
		for _, h := range leader.Heard() {
			if h.Instance == id && strings.Contains(h.Refused, why) {
				return nil
			}
		}
		return fmt.Errorf("heard %+v", leader.Heard())
	})
	s.t.Logf("refused: %s", why)
}
