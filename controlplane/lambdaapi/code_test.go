package lambdaapi

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// hanging is a bucket that never answers.
type hanging struct{}

func (hanging) Read(ctx context.Context, _ controlplane.Object, _ int64) ([]byte, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func TestABucketThatHangsMakesOthersWaitForTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bare()
		s.cfg.Buckets = hanging{}
		from := source{bucket: "hangs", key: "k"}
		began := time.Now()
		first := make(chan error, 1)
		go func() {
			_, err := s.keepCode(t.Context(), from, "Zip", "creating")
			first <- err
		}()
		synctest.Wait()
		_, err := s.keepCode(t.Context(), source{bucket: "other", key: "k"}, "Zip", "creating")
		e, ok := errors.AsType[*exception](err)
		if !ok || e.name != "TooManyRequestsException" || e.status != http.StatusTooManyRequests || e.retryAfter <= 0 {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("waited %v", waited)
		}
		if err := <-first; !errors.Is(err, errBucketTooSlow) || time.Since(began) != time.Minute {
			t.Errorf("the first: %v after %v", err, time.Since(began))
		}
		if done, err := s.turn(t.Context(), from); err != nil {
			t.Errorf("when the first is gone: %v", err)
		} else {
			done()
		}
	})
}
