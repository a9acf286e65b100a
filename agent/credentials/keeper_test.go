package credentials_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/credentials"
)

func session(role, key string, life time.Duration) agent.RoleCredentials {
	return agent.RoleCredentials{RoleARN: role, AccessKeyID: key, ExpiresAt: time.Now().Add(life)}
}

func TestTheSessionThatLastsLongestServesUntilItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := credentials.New()
		k.Put(session("a", "late", time.Hour))
		k.Put(session("a", "early", time.Minute)) // of another control service, or sent again
		k.Put(session("b", "ended", -time.Second))
		if c, ok := k.Get("a"); !ok || c.AccessKeyID != "late" {
			t.Errorf("got %q, %v", c.AccessKeyID, ok)
		}
		if _, ok := k.Get("b"); ok {
			t.Error("a session that has ended is served")
		}
		time.Sleep(time.Hour)
		if _, ok := k.Get("a"); ok {
			t.Error("a session is served beyond its end")
		}
		k.Put(session("a", "new", time.Minute))
		if c, ok := k.Get("a"); !ok || c.AccessKeyID != "new" {
			t.Errorf("after a new one came: got %q, %v", c.AccessKeyID, ok)
		}
	})
}

func TestWaitEndsWhenTheRolesOwnSessionComesOrWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := credentials.New()
		limited, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errors.New("enough"))
		defer cancel()
		came := make(chan bool, 2)
		go func() { came <- k.Wait(limited, "a") }()
		go func() { came <- k.Wait(limited, "b") }()
		synctest.Wait()
		time.Sleep(time.Second)
		k.Put(session("b", "key", time.Hour))
		synctest.Wait()
		if n := len(came); n != 1 || !<-came {
			t.Fatalf("%d waits ended", n)
		}
		time.Sleep(2 * time.Second)
		if <-came {
			t.Error("a wait ended well without a session")
		}
		if !k.Wait(limited, "b") {
			t.Error("what is there was waited for")
		}
	})
}
