package session_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"
)

// A control service that hangs takes connections and says nothing, as long as
// its kernel has room for them.
func TestDataConnectionsComeBackAfterAControlServiceHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		c := newControl(t, a, "hearth-control")
		defer c.stop()
		h := &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}
		r := run(t, t.TempDir(), a.token(), h, "c:1")
		defer r.stop()
		first, second := <-c.data, <-c.data
		hung := bufconn.Listen(64 << 10)
		defer func() { _ = hung.Close() }()
		go func() {
			for {
				if _, err := hung.Accept(); err != nil {
					return
				}
			}
		}()
		h.set(hung)
		_, _ = first.Close(), second.Close()
		time.Sleep(time.Minute)
		h.set(c.lis)
		late := time.After(20 * time.Second)
		for n := range 2 {
			select {
			case <-c.data:
			case <-late:
				t.Fatalf("%d of 2 data connections came back", n)
			}
		}
	})
}
