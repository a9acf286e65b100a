package session_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

func TestCredentialsThatAreWholeReachTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		c := newControl(t, a, "hearth-control")
		defer c.stop()
		r := run(t, t.TempDir(), a.token(), &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}, "c:1")
		defer r.stop()
		<-c.registers
		ends := time.Date(2100, 1, 2, 3, 4, 5, 0, time.UTC)
		for _, m := range []*agentv1.RoleCredentials{
			{RoleArn: "arn:r", AccessKeyId: "A1", SecretAccessKey: "secret", ExpiresAt: timestamppb.New(ends)},
			{AccessKeyId: "A2", SecretAccessKey: "secret", SessionToken: "session", ExpiresAt: timestamppb.New(ends)},
			{RoleArn: "arn:r", AccessKeyId: "A3", SecretAccessKey: "secret", SessionToken: string(make([]byte, 1<<20)), ExpiresAt: timestamppb.New(ends)},
			{RoleArn: "arn:r", AccessKeyId: "A4", SecretAccessKey: "secret", SessionToken: "session", ExpiresAt: timestamppb.New(ends)},
		} {
			c.messages <- &agentv1.SessionResponse{Message: &agentv1.SessionResponse_RoleCredentials{RoleCredentials: m}}
		}
		c.sets <- &agentv1.DesiredSet{Epoch: 1, Generation: 1}
		synctest.Wait()
		if _, ok := r.node.Accepted(); !ok {
			t.Error("credentials that are not whole ended the session")
		}
		r.node.mu.Lock()
		defer r.node.mu.Unlock()
		type fields struct {
			Role, Key, Secret, Token string
			Ends                     time.Time
		}
		var got []fields
		for _, c := range r.node.credentials {
			got = append(got, fields{c.RoleARN, c.AccessKeyID, c.SecretAccessKey, c.SessionToken, c.ExpiresAt})
		}
		if d := cmp.Diff([]fields{{"arn:r", "A4", "secret", "session", ends}}, got); d != "" {
			t.Error(d)
		}
	})
}
