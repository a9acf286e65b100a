package runtimeapi_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hearth-compute/hearth/agent/admit"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
)

// observed lets an environment be observed for as long, ten times a second.
func observed(api *runtimeapi.API, whole time.Duration) admit.Replace {
	const interval = 100 * time.Millisecond
	for range whole / interval {
		time.Sleep(interval)
		api.Observe(admit.Usage{Elapsed: interval})
	}
	return api.Replace()
}

// TestARuntimeThatStopsAskingIsReplaced: it lives, nothing runs, and everything
// would be refused for ever.
func TestARuntimeThatStopsAskingIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, c, stop := serve(t, runtimeapi.Config{Concurrency: 2})
		defer stop()
		ctx, hangUp := context.WithCancelCause(t.Context())
		gone := c.poll(ctx)
		<-api.Ready()
		hangUp(errors.New("no more"))
		<-gone
		if got := observed(api, time.Minute); got != admit.ReplaceNot {
			t.Errorf("while nobody calls: %q", got)
		}
		refused := func() {
			if _, err := api.Invoke(t.Context(), invocation("r"), nil); err == nil {
				t.Error("an invocation without a poll was not refused")
			}
		}
		refused()
		if got := observed(api, 9*time.Second); got != admit.ReplaceNot {
			t.Errorf("after 9 s: %q", got)
		}
		if got := observed(api, 2*time.Second); got != runtimeapi.ReplaceDeaf {
			t.Errorf("after 11 s: %q", got)
		}
		next := c.poll(t.Context())
		synctest.Wait()
		if got := observed(api, time.Second); got != admit.ReplaceNot {
			t.Errorf("once it asks: %q", got)
		}
		result := call(t.Context(), api, "slow")
		<-next
		refused()
		if got := observed(api, 2*time.Second); got != admit.ReplaceNot {
			t.Errorf("while something runs: %q", got)
		}
		<-result // it has overrun
		refused()
		if got := observed(api, 11*time.Second); got != runtimeapi.ReplaceDeaf {
			t.Errorf("once what runs is overrun: %q", got)
		}
	})
}
