package session

import (
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/hearth-compute/hearth/agent"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// FuzzAssignment reads what is kept with a sandbox, or was sent: what can be
// read comes back equal, what cannot be is InvalidArgument.
func FuzzAssignment(f *testing.F) {
	good, err := EncodeAssignment(agent.Assignment{
		Environment: "e-1", FunctionARN: "arn", Image: agent.Image{Ref: "i"}, Code: agent.Code{SHA256: "aa", Size: 1},
		Variables: map[string]string{"A": "1"}, Timeout: 1, MaxConcurrency: 2, ImageConfig: agent.ImageConfig{Command: []string{"x"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Add([]byte("\x0a\x05../.."))
	f.Add([]byte("\x0a\x01e\x6a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")) // a timeout of -1 s
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeAssignment(b)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("got %v", err)
			}
			return
		}
		again, err := EncodeAssignment(a)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeAssignment(again)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(a, back); d != "" {
			t.Fatal(d)
		}
	})
}

// FuzzDesiredSet reads sets a hostile control service might send: an accepted
// one has distinct names that are fit for paths, and comes back equal.
func FuzzDesiredSet(f *testing.F) {
	for _, set := range []*agentv1.DesiredSet{
		{},
		{Epoch: 1, Generation: 2, StopIntent: 7, Environments: []*agentv1.DesiredEnvironment{{Draining: true}}},
		{Environments: []*agentv1.DesiredEnvironment{
			{Assignment: &agentv1.Assignment{EnvironmentId: "e-1", Limits: &agentv1.Resources{MilliCpu: -1, MemoryBytes: -1 << 63}}},
			{Assignment: &agentv1.Assignment{EnvironmentId: "e-1", MaxConcurrency: -1}},
		}},
	} {
		b, err := proto.Marshal(set)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m agentv1.DesiredSet
		if proto.Unmarshal(b, &m) != nil {
			t.Skip()
		}
		if err := checkSet(&m); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("got %v", err)
			}
			return
		}
		set := setFromProto(&m)
		names := map[agent.EnvironmentID]bool{}
		for _, e := range set.Environments {
			if names[e.Assignment.Environment] || !validIdentifier(string(e.Assignment.Environment)) {
				t.Fatalf("accepted %q", e.Assignment.Environment)
			}
			names[e.Assignment.Environment] = true
		}
		if d := cmp.Diff(set, setFromProto(setToProto(set))); d != "" {
			t.Fatal(d)
		}
	})
}

// FuzzReason reports what a function might print: it always fits the wire.
func FuzzReason(f *testing.F) {
	f.Add("panic: \xff", 4)
	f.Add("é", 1)
	f.Fuzz(func(t *testing.T, reason string, limit int) {
		limit = max(0, limit%100)
		got := text(reason, limit)
		if !utf8.ValidString(got) || len(got) > 3*limit || utf8.ValidString(reason) && len(reason) <= limit && got != reason {
			t.Fatalf("%q of %q, at most %d", got, reason, limit)
		}
		m := reportToProto(agent.Report{Environments: []agent.EnvironmentStatus{{Reason: reason, ReasonCode: reason}}, Refused: reason})
		if _, err := proto.Marshal(m); err != nil {
			t.Fatal(err)
		}
	})
}
