//go:build !race

package sigv4

import "testing"

// Not under the race detector, which allocates too.
func TestVerifyingAllocatesLittle(t *testing.T) {
	v := New(keysOf(t, file), "us-east-1", "lambda")
	r, body, at := invocation(t, exampleID)
	n := testing.AllocsPerRun(200, func() {
		q, err := v.Begin(r, at)
		if err == nil {
			_, err = q.Finish(body)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if n > 14 {
		t.Errorf("%v allocations, at most 14 may be", n)
	}
}
