package sessions_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/controlplane"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

func report(environments ...*agentv1.EnvironmentReport) *agentv1.SessionRequest {
	return &agentv1.SessionRequest{Message: &agentv1.SessionRequest_Report{Report: &agentv1.Report{Environments: environments}}}
}

func accepted(ids ...string) *agentv1.SessionRequest {
	reg := register("z")
	reg.GetRegister().Accepted = &agentv1.DesiredSet{}
	for _, id := range ids {
		reg.GetRegister().Accepted.Environments = append(reg.GetRegister().GetAccepted().GetEnvironments(),
			&agentv1.DesiredEnvironment{Assignment: &agentv1.Assignment{EnvironmentId: id}})
	}
	return reg
}

func TestWhatAnAgentCannotMeanEndsItsSession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	long := register(strings.Repeat("z", 2000))
	many := make([]*agentv1.EnvironmentReport, 10_001)
	for i := range many {
		many[i] = &agentv1.EnvironmentReport{EnvironmentId: fmt.Sprintf("e-%d", i)}
	}
	for name, c := range map[string]struct {
		register, report *agentv1.SessionRequest
		why              string
	}{
		"a zone without end":            {long, nil, "a zone of 2000 bytes"},
		"an accepted path":              {accepted("../e"), nil, `environment id "../e" was never given`},
		"one accepted twice":            {accepted("e-1", "e-1"), nil, "environment e-1 is there twice"},
		"an accepted nothing":           {accepted(""), nil, "was never given"},
		"a path reported":               {register("z"), report(&agentv1.EnvironmentReport{EnvironmentId: "e/1"}), `environment id "e/1" was never given`},
		"one reported twice":            {register("z"), report(&agentv1.EnvironmentReport{EnvironmentId: "e"}, &agentv1.EnvironmentReport{EnvironmentId: "e"}), "twice"},
		"more than there can be":        {register("z"), report(many...), "10001 environments"},
		"a report with an empty member": {register("z"), report(nil), "was never given"},
	} {
		t.Run(name, func(t *testing.T) {
			s := r.open(t, t.Context(), a, c.register)
			if c.report != nil {
				must(t, s.Send(c.report))
			}
			_, err := s.Recv()
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), c.why) {
				t.Errorf("got %v, want InvalidArgument: %s", err, c.why)
			}
		})
	}
}

func TestNumbersAndTextsOfAnAgentAreCutToWhatCanBe(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	reg := register("z")
	reg.GetRegister().Allocatable = &agentv1.Resources{MilliCpu: -1 << 63, MemoryBytes: 1<<63 - 1}
	s := r.open(t, t.Context(), a, reg)
	must(t, s.Send(report(&agentv1.EnvironmentReport{
		EnvironmentId: "e-1", State: 99, Failures: -5, MaxConcurrency: -1, InFlight: 1<<31 - 1, UsedMilliCpu: -1, UsedMemoryBytes: -1 << 63,
		UsedTmpBytes: 1<<63 - 1, Reason: strings.Repeat("é", 10_000), Since: &timestamppb.Timestamp{Seconds: 1 << 62},
	})))
	eventually(t, "the report", func() bool { return r.heard().Reported })
	h := r.heard()
	e := h.Environments[0]
	if h.Allocatable.CPU != 0 || h.Allocatable.Memory != 1<<50 {
		t.Errorf("allocatable %+v", h.Allocatable)
	}
	want := controlplane.EnvironmentHeat{InFlight: 1600, Tmp: 1 << 50}
	if e.Heat != want || e.Failures != 0 || e.MaxConcurrency != 0 || e.State != controlplane.EnvironmentUnknown || e.SinceUnixMilli != 0 {
		t.Errorf("got %+v", e)
	}
	if len(e.Reason) != 8<<10 || strings.Trim(e.Reason, "é") != "" {
		t.Errorf("a reason of %d bytes", len(e.Reason))
	}
}

func TestAnAgentSpeaksForItselfOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	honest, hostile := r.join(t, r.mint(t, "i-1")), r.join(t, r.mint(t, "i-2"))
	s := r.open(t, t.Context(), honest, register("z"))
	must(t, s.Send(report(&agentv1.EnvironmentReport{EnvironmentId: "e-1", State: agentv1.EnvironmentState_ENVIRONMENT_STATE_READY})))
	eventually(t, "the honest report", func() bool { return r.heard().Reported })
	before := r.heard().At
	h := r.open(t, t.Context(), hostile, register("z"))
	must(t, h.Send(report(&agentv1.EnvironmentReport{EnvironmentId: "e-1", State: agentv1.EnvironmentState_ENVIRONMENT_STATE_FAILED})))
	eventually(t, "the hostile report", func() bool {
		for _, h := range r.Heard() {
			if h.Instance == "i-2" && h.Reported {
				return true
			}
		}
		return false
	})
	if got := r.heard(); got.Environments[0].State != controlplane.EnvironmentReady || !got.At.Equal(before) {
		t.Errorf("i-1 is now %+v", got)
	}
}
