package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

var errRefused = fmt.Errorf("refused by the test: %w", errdefs.ErrConflict)

func testReopen(t *testing.T, open Open) {
	dir := t.TempDir()
	db := open(t, dir)
	update(t, db, func(w store.Writer) error { return fill(w, example()) })
	update(t, db, func(w store.Writer) error { return w.PutJoinToken(store.JoinToken{ID: "t"}) })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, dir)
	defer db.Close() //nolint:errcheck // read only from here
	if diff := cmp.Diff(example(), snapshot(t, db)); diff != "" {
		t.Errorf("after reopening (-put +read):\n%s", diff)
	}
	view(t, db, func(r store.Reader) error {
		_, err := r.JoinToken("t")
		return err
	})
}

func testFailedUpdate(t *testing.T, open Open) {
	db := fresh(t, open)
	update(t, db, func(w store.Writer) error { return fill(w, example()) })
	err := db.Update(t.Context(), func(w store.Writer) error {
		if _, err := w.NextEpoch(); err != nil {
			return err
		}
		if err := errors.Join(w.DeleteProvider("pool"), w.DeleteFunction("thumb"), w.DeleteInstance("i-1"),
			w.PutProvider(controlplane.CapacityProvider{Name: "new"})); err != nil {
			return err
		}
		return errRefused
	})
	if !errors.Is(err, errRefused) {
		t.Errorf("error %v, want the function's own", err)
	}
	if diff := cmp.Diff(example(), snapshot(t, db)); diff != "" {
		t.Errorf("a failed update changed (-before +after):\n%s", diff)
	}
}

func testHiddenFailure(t *testing.T, open Open) {
	db := fresh(t, open)
	err := db.Update(t.Context(), func(w store.Writer) error {
		if err := w.PutProvider(controlplane.CapacityProvider{Name: "p"}); err != nil {
			return err
		}
		_ = w.PutVersion(controlplane.Version{Function: "f", Qualifier: "not a version"})
		return nil
	})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("error %v, want InvalidArgument", err)
	}
	if c := snapshot(t, db); len(c.Providers) != 0 {
		t.Errorf("half an update was written: %+v", c.Providers)
	}
}

func testPanic(t *testing.T, open Open) {
	db := fresh(t, open)
	func() {
		defer func() {
			if got := recover(); got != "on purpose" {
				t.Errorf("recovered %v, want the panic of the function", got)
			}
		}()
		_ = db.Update(t.Context(), func(w store.Writer) error {
			_ = w.PutProvider(controlplane.CapacityProvider{Name: "p"})
			panic("on purpose")
		})
	}()
	update(t, db, func(w store.Writer) error { return w.PutProvider(controlplane.CapacityProvider{Name: "q"}) })
	equal(t, "providers", []string{"q"}, snapshot(t, db).Providers,
		func(p controlplane.CapacityProvider) string { return string(p.Name) })
}

func testViewSeesUpdates(t *testing.T, open Open) {
	db := fresh(t, open)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := controlplane.InstanceID(fmt.Sprintf("i-%d", i))
			for n := range int64(20) {
				size := controlplane.Resources{CPU: controlplane.MilliCPU(n)}
				err := db.Update(t.Context(), func(w store.Writer) error {
					return w.PutInstance(controlplane.Instance{ID: id, Size: size})
				})
				if err != nil {
					t.Error(err)
					return
				}
				err = db.View(t.Context(), func(r store.Reader) error {
					instances, err := r.Instances()
					for _, in := range instances {
						if in.ID == id && in.Size == size {
							return err
						}
					}
					return errors.Join(err, fmt.Errorf("%s has not its size %d yet", id, n))
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func testViewIsOneState(t *testing.T, open Open) {
	db := fresh(t, open)
	put := func(n int) func(store.Writer) error {
		return func(w store.Writer) error {
			return errors.Join(w.PutProvider(controlplane.CapacityProvider{Name: "p", MaxVCPU: n}),
				w.PutFunction(controlplane.Function{Name: "f", NextNumber: n}))
		}
	}
	update(t, db, put(0))
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := range 50 {
			if err := db.Update(t.Context(), put(n)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 50 {
		view(t, db, func(r store.Reader) error {
			p, err1 := r.Provider("p")
			f, err2 := r.Function("f")
			if p.MaxVCPU != f.NextNumber {
				t.Errorf("one view saw %d and %d", p.MaxVCPU, f.NextNumber)
			}
			return errors.Join(err1, err2)
		})
	}
	wg.Wait()
}

func testFailingAmongOthers(t *testing.T, open Open) {
	db := fresh(t, open)
	const updates = 120
	var wg sync.WaitGroup
	for i := range updates {
		wg.Go(func() {
			err := db.Update(t.Context(), func(w store.Writer) error {
				if err := w.PutInstance(controlplane.Instance{ID: controlplane.InstanceID(fmt.Sprintf("i-%03d", i))}); err != nil {
					return err
				}
				if i%3 == 0 {
					return errRefused
				}
				return nil
			})
			if fails := i%3 == 0; fails != errors.Is(err, errRefused) || (!fails && err != nil) {
				t.Errorf("update %d: error %v", i, err)
			}
		})
	}
	wg.Wait()
	var want []string
	for i := range updates {
		if i%3 != 0 {
			want = append(want, fmt.Sprintf("i-%03d", i))
		}
	}
	equal(t, "instances", want, snapshot(t, db).Instances, func(i controlplane.Instance) string { return string(i.ID) })
}

func testSerial(t *testing.T, open Open) {
	db := fresh(t, open)
	update(t, db, func(w store.Writer) error { return w.PutFunction(controlplane.Function{Name: "f"}) })
	const workers, each = 16, 10
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				err := db.Update(t.Context(), func(w store.Writer) error {
					f, err := w.Function("f")
					if err != nil {
						return err
					}
					f.NextNumber++
					return w.PutFunction(f)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := snapshot(t, db).Functions[0].NextNumber; got != workers*each {
		t.Errorf("counted to %d, want %d: an update was lost", got, workers*each)
	}
}

func testCancelled(t *testing.T, open Open) {
	db := fresh(t, open)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errRefused)
	ran := false
	err := db.Update(ctx, func(store.Writer) error {
		ran = true
		return nil
	})
	if err == nil || ran {
		t.Errorf("error %v, ran %v; want an error and no run", err, ran)
	}
}

func testClosed(t *testing.T, open Open) {
	db := open(t, t.TempDir())
	for range 2 {
		if err := db.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	}
	if err := db.Update(t.Context(), func(store.Writer) error { return nil }); !errdefs.IsUnavailable(err) {
		t.Errorf("update: error %v, want Unavailable", err)
	}
	if err := db.View(t.Context(), func(store.Reader) error { return nil }); !errdefs.IsUnavailable(err) {
		t.Errorf("view: error %v, want Unavailable", err)
	}
}
