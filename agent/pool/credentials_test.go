package pool_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/credentials"
	"github.com/hearth-compute/hearth/sandbox/fake"
)

// reader is a function that answers every event with the access key it reads, or
// the status of the answer, and what its variables are.
func reader(ctx context.Context, p *fake.Process) int {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return p.Dial(ctx, address) },
	}}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		c, err := dial(ctx, p)
		if err != nil {
			return 1
		}
		for {
			id, _, err := c.do("GET", "invocation/next", "")
			if err != nil {
				break
			}
			if _, _, err := c.do("POST", "invocation/"+id+"/response", read(ctx, client, p)); err != nil {
				break
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return 143
}

// read does what SDKs do.
func read(ctx context.Context, client *http.Client, p *fake.Process) string {
	uri := p.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	if uri == "" {
		return "absent"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, http.NoBody)
	if err != nil {
		return err.Error()
	}
	r.Header.Set("Authorization", p.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN"))
	resp, err := client.Do(r)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	return string(body)
}

// withRoles is a world whose agents have credentials to give.
func withRoles(t *testing.T) (*world, *credentials.Keeper) {
	w := newWorld(t)
	w.image("reader", reader)
	keeper := credentials.New()
	w.roles = keeper
	w.restart(nil)
	return w, keeper
}

// reads is what the function of an environment reads.
func (w *world) reads(id agent.EnvironmentID) string {
	w.t.Helper()
	out, err := invoke(w.serving(id), fmt.Sprint(time.Now().UnixNano()), "")
	if err != nil {
		w.t.Fatal(err)
	}
	return string(out.Payload)
}

func sessionOf(role, key string) agent.RoleCredentials {
	return agent.RoleCredentials{
		RoleARN: role, AccessKeyID: key, SecretAccessKey: "secret", SessionToken: "session",
		ExpiresAt: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func document(role, key string) string {
	return fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":"secret","Token":"session","Expiration":"2100-01-01T00:00:00Z","RoleArn":%q}`+"\n", key, role)
}

func ofRole(id agent.EnvironmentID, role string) agent.Assignment {
	a := assignment(id)
	a.Image.Ref, a.RoleARN = "reader", role
	a.Variables = map[string]string{"AWS_CONTAINER_AUTHORIZATION_TOKEN": "mine", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/mine"}
	return a
}

func TestEachFunctionReadsTheCredentialsOfItsOwnRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, keeper := withRoles(t)
		defer w.close()
		keeper.Put(sessionOf("arn:a", "A1"))
		keeper.Put(sessionOf("arn:b", "B1"))
		w.apply(set(1, ofRole("e-a", "arn:a"), ofRole("e-b", "arn:b"), ofRole("e-none", "")))
		got := map[agent.EnvironmentID]string{"e-a": w.reads("e-a"), "e-b": w.reads("e-b"), "e-none": w.reads("e-none")}
		want := map[agent.EnvironmentID]string{"e-a": document("arn:a", "A1"), "e-b": document("arn:b", "B1"), "e-none": "absent"}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		again := sessionOf("arn:a", "A2")
		again.ExpiresAt = again.ExpiresAt.AddDate(1, 0, 0)
		keeper.Put(again)
		if got := w.reads("e-a"); got == want["e-a"] || w.reads("e-b") != want["e-b"] {
			t.Errorf("after the first was renewed: got %s", got)
		}
	})
}

func TestAnEnvironmentWaitsAMomentForCredentialsAndStartsWithoutThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, keeper := withRoles(t)
		defer w.close()
		w.apply(set(1, ofRole("e-a", "arn:a"), ofRole("e-b", "arn:b")))
		time.Sleep(time.Second)
		keeper.Put(sessionOf("arn:a", "A1"))
		time.Sleep(100 * time.Millisecond)
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-a": agent.StateReady, "e-b": agent.StateStarting})
		time.Sleep(time.Second)
		w.want(map[agent.EnvironmentID]agent.EnvironmentState{"e-a": agent.StateReady, "e-b": agent.StateReady})
		if got := w.reads("e-b"); got != "503 Service Unavailable" {
			t.Errorf("before they came: got %s", got)
		}
		keeper.Put(sessionOf("arn:b", "B1"))
		if got := w.reads("e-b"); got != document("arn:b", "B1") {
			t.Errorf("after they came: got %s", got)
		}
	})
}

func TestAnAdoptedFunctionKeepsItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, keeper := withRoles(t)
		defer w.close()
		keeper.Put(sessionOf("arn:a", "A1"))
		w.apply(set(1, ofRole("e-a", "arn:a")))
		w.image("reader", func(context.Context, *fake.Process) int { return 1 }) // its successor never comes up
		w.restart(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := w.reads("e-a"); got != document("arn:a", "A1") {
			t.Errorf("got %s", got)
		}
	})
}
