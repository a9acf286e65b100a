package session_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/test/bufconn"

	"github.com/hearth-compute/hearth/agent"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// following is an agent in a session with a control service.
func following(t *testing.T) (*control, *running) {
	t.Helper()
	a := newAuthority(t)
	c := newControl(t, a, "hearth-control")
	t.Cleanup(c.stop)
	h := &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}
	r := run(t, t.TempDir(), a.token(), h, "c:1")
	t.Cleanup(r.stop)
	<-c.registers
	return c, r
}

// reported returns the first report that ok takes.
func (c *control) reported(t *testing.T, ok func(*agentv1.Report) bool) *agentv1.Report {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		select {
		case r := <-c.reports:
			if ok(r) {
				return r
			}
		case <-limit:
			t.Fatal("no such report in a minute")
		}
	}
}

func TestWhatAFunctionPrintsCannotBreakTheSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, r := following(t)
		r.node.mu.Lock()
		r.node.report.Environments = []agent.EnvironmentStatus{{
			Environment: "e-1", State: agent.StateFailed, ReasonCode: "FunctionError.\xff",
			Reason: "last it printed: \xff\xfe\x00" + strings.Repeat("é", 20_000),
		}}
		r.node.mu.Unlock()
		got := c.reported(t, func(r *agentv1.Report) bool { return len(r.GetEnvironments()) == 1 }).GetEnvironments()[0]
		if !utf8.ValidString(got.GetReason()) || !strings.HasPrefix(got.GetReason(), "last it printed: \uFFFD\x00é") {
			t.Errorf("got %.64q", got.GetReason())
		}
		if n := len(got.GetReason()); n > 9<<10 || n < 7<<10 {
			t.Errorf("a reason of %d bytes", n)
		}
	})
}

func TestASetThatIsNoneIsRefusedAndSaidSo(t *testing.T) {
	t.Parallel()
	set := func(ids ...string) *agentv1.DesiredSet {
		s := &agentv1.DesiredSet{Epoch: 7, Generation: 9}
		for _, id := range ids {
			s.Environments = append(s.Environments, &agentv1.DesiredEnvironment{Assignment: &agentv1.Assignment{EnvironmentId: id}})
		}
		return s
	}
	var many []string
	for i := range 10_001 {
		many = append(many, fmt.Sprintf("e-%d", i))
	}
	for name, c := range map[string]struct {
		set *agentv1.DesiredSet
		why string
	}{
		"a path":        {set("../../etc"), `environment id "../../etc" is not`},
		"no id":         {set(""), `environment id "" is not`},
		"no assignment": {&agentv1.DesiredSet{Environments: []*agentv1.DesiredEnvironment{nil}}, `environment id "" is not`},
		"a long id":     {set(strings.Repeat("e", 49)), "is not 1 to 48"},
		"a NUL":         {set("e\x00"), "is not 1 to 48"},
		"twice":         {set("e-1", "e-2", "e-1"), "environment e-1 is there twice"},
		"too many":      {set(many...), "10001 environments"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				control, r := following(t)
				control.sets <- c.set
				got := control.reported(t, func(r *agentv1.Report) bool { return r.GetRefused() != "" })
				if !strings.Contains(got.GetRefused(), c.why) || r.node.sets() != 0 {
					t.Errorf("refused as %q, %d sets applied", got.GetRefused(), r.node.sets())
				}
				control.sets <- set("e-1")
				control.reported(t, func(r *agentv1.Report) bool { return r.GetRefused() == "" })
				if r.node.sets() != 1 {
					t.Errorf("%d sets applied after a good one", r.node.sets())
				}
			})
		})
	}
}
