package sessions_test

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// A host of a static fleet is forgotten while its agent is connected and
// reporting: that once took the whole control service down.
func TestForgettingAConnectedInstanceEndsItsSession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	s := r.open(t, t.Context(), a, register("a"))
	eventually(t, "registration", func() bool { return r.heard().Zone == "a" })
	r.Forget("i-1")
	// The stream may be gone before the report is sent: that is the point.
	_ = s.Send(&agentv1.SessionRequest{Message: &agentv1.SessionRequest_Report{Report: &agentv1.Report{}}})
	if _, err := s.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the session of a forgotten instance: got %v, want Aborted", err)
	}
	if n := len(r.Heard()); n != 0 {
		t.Errorf("%d instances are still heard of", n)
	}
	r.open(t, t.Context(), r.join(t, r.mint(t, "i-1")), register("b"))
	eventually(t, "a session after that", func() bool { return r.heard().Zone == "b" })
}

func TestExpiredTokensDoNotPileUp(t *testing.T) {
	t.Parallel()
	db, ca := newStore(t)
	tokens := sessions.NewTokens(db, ca, "static")
	now := time.Now()
	mint := func(now time.Time) {
		t.Helper()
		_, _, err := tokens.Mint(t.Context(), "p", "i-1", time.Hour, now)
		must(t, err)
	}
	for range 5 {
		mint(now)
	}
	mint(now.Add(30 * time.Minute))
	mint(now.Add(61 * time.Minute))
	var left []store.JoinToken
	must(t, db.View(t.Context(), func(rd store.Reader) (err error) {
		left, err = rd.JoinTokens()
		return err
	}))
	if len(left) != 2 {
		t.Errorf("%d tokens are kept, want the 2 that are good", len(left))
	}
	if _, _, err := tokens.Mint(t.Context(), "none", "i-1", time.Hour, now); !errdefs.IsNotFound(err) {
		t.Errorf("a token for no provider: got %v, want NotFound", err)
	}
}
