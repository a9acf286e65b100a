package credentials_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/credentials"
	"github.com/hearth-compute/hearth/metrics"
)

const (
	life = time.Hour
	role = "arn:aws:iam::123456789012:role/thumb"
)

// service issues sessions that live an hour.
type service struct {
	mu      sync.Mutex
	fail    error
	hang    bool
	behind  time.Duration // of its clock
	asked   []string      // role as session
	issued  int
	running int
	peak    int
}

func (s *service) Assume(ctx context.Context, arn, session string) (controlplane.RoleCredentials, error) {
	s.mu.Lock()
	s.asked = append(s.asked, arn+" as "+session)
	s.running++
	s.peak = max(s.peak, s.running)
	fail, hang := s.fail, s.hang
	s.mu.Unlock()
	time.Sleep(10 * time.Millisecond)
	if hang {
		<-ctx.Done()
		fail = context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if fail != nil {
		return controlplane.RoleCredentials{}, fail
	}
	s.issued++
	return controlplane.RoleCredentials{
		RoleARN: arn, AccessKeyID: fmt.Sprintf("ASIA%d", s.issued), SecretAccessKey: "s3cret",
		SessionToken: "t0ken", ExpiresAt: time.Now().Add(life - s.behind),
	}, nil
}

func (s *service) set(fail error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// count is how often roles were asked for.
func (s *service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asked)
}

// rig is a keeper that runs in a bubble.
type rig struct {
	*credentials.Keeper
	service *service
	needed  atomic.Pointer[map[string]string]
	changed atomic.Int64
}

func newRig(t *testing.T, log io.Writer) *rig {
	t.Helper()
	registry, err := metrics.New()
	if err != nil {
		t.Fatal(err)
	}
	m, err := credentials.NewMetrics(registry.Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{service: &service{}}
	r.needed.Store(&map[string]string{})
	r.Keeper = credentials.New(credentials.Config{
		Assumer: r.service, Needed: func() map[string]string { return *r.needed.Load() },
		Changed: func() { r.changed.Add(1) }, Metrics: m, Logger: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel(errors.New("end of the test"))
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// need says which roles are needed now.
func (r *rig) need(roles ...string) {
	needed := map[string]string{}
	for _, arn := range roles {
		needed[arn] = "thumb"
	}
	r.needed.Store(&needed)
	r.Nudge()
	time.Sleep(time.Second)
	synctest.Wait()
}

// key is the access key of a role now, empty if there is none.
func (r *rig) key(arn string) string {
	c, _ := r.Get(arn)
	return c.AccessKeyID
}

func TestARoleIsAssumedOnceItIsNeededAndRenewedAtHalfItsLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, &log)
		time.Sleep(time.Hour)
		if n := r.service.count(); n != 0 {
			t.Fatalf("roles were asked for %d times before one was needed", n)
		}
		r.need(role)
		if got := r.key(role); got != "ASIA1" || r.changed.Load() != 1 {
			t.Fatalf("got %q, told %d times", got, r.changed.Load())
		}
		if d := cmp.Diff([]string{role + " as thumb"}, r.service.asked); d != "" {
			t.Error(d)
		}
		r.Nudge() // nothing new is needed
		time.Sleep(life*2/5 - 2*time.Second)
		if got := r.key(role); got != "ASIA1" {
			t.Errorf("before two fifths of its life: got %q", got)
		}
		time.Sleep(life/5 + 2*time.Second)
		synctest.Wait()
		if got := r.key(role); got != "ASIA2" || r.changed.Load() != 2 {
			t.Errorf("after three fifths of its life: got %q, told %d times", got, r.changed.Load())
		}
		if s := log.String(); strings.Contains(s, "s3cret") || strings.Contains(s, "t0ken") {
			t.Errorf("the log tells secrets: %s", s)
		}
	})
}

func TestAServiceThatFailsIsAskedLessAndLessOftenWhileTheLastSessionServes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, io.Discard)
		r.need(role)
		r.service.set(errdefs.ErrUnavailable)
		time.Sleep(life - 2*time.Second)
		if got := r.key(role); got != "ASIA1" {
			t.Errorf("shortly before its end: got %q", got)
		}
		time.Sleep(2 * time.Second)
		if got := r.key(role); got != "" {
			t.Errorf("after its end: got %q", got)
		}
		before := r.service.count()
		time.Sleep(10 * time.Minute)
		if n := r.service.count() - before; n < 10 || n > 21 {
			t.Errorf("asked %d times in ten minutes, want one every 30 to 60 s", n)
		}
		r.service.set(nil)
		time.Sleep(time.Minute + time.Second)
		if got := r.key(role); got != "ASIA2" {
			t.Errorf("after the service recovered: got %q", got)
		}
	})
}

func TestASessionThatHasEndedIsAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := newRig(t, &log)
		r.service.behind = 2 * life
		r.need(role)
		time.Sleep(10 * time.Minute)
		if n := r.service.count(); n > 30 || r.changed.Load() > 0 || r.key(role) != "" {
			t.Errorf("asked %d times in ten minutes, told %d times", n, r.changed.Load())
		}
		if !strings.Contains(log.String(), "this clock is not that of the service") {
			t.Errorf("the log does not say why: %s", log.String())
		}
	})
}

func TestARoleNobodyNeedsIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, io.Discard)
		r.need(role, role+"2")
		r.need(role + "2")
		if got := r.key(role); got != "" {
			t.Errorf("got %q", got)
		}
		if got := r.key(role + "2"); got == "" {
			t.Error("the other went with it")
		}
		asked := r.service.count()
		time.Sleep(life * 4 / 5)
		if n := r.service.count() - asked; n != 1 {
			t.Errorf("asked %d times more, want once for the role that is needed", n)
		}
	})
}

func TestManyRolesAreAssumedAFewAtATimeAndOneThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, io.Discard)
		var roles []string
		for i := range 50 {
			roles = append(roles, fmt.Sprintf("%s-%d", role, i))
		}
		r.need(roles...)
		if r.service.peak != 8 || r.service.count() != 50 {
			t.Errorf("%d at once of %d", r.service.peak, r.service.count())
		}
		r.service.mu.Lock()
		r.service.hang = true
		r.service.mu.Unlock()
		r.need(append(roles, role)...)
		r.service.mu.Lock()
		r.service.hang = false
		r.service.mu.Unlock()
		time.Sleep(12 * time.Second)
		if r.key(role) == "" {
			t.Error("a call that hung kept its role from being assumed")
		}
	})
}
