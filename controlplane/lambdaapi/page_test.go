package lambdaapi

import (
	"encoding/base64"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func itself(s string) string { return s }

func TestPagesSurviveInsertionsAndDeletions(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list := func(name string) []string {
			l := rapid.SliceOfDistinct(rapid.StringMatching(`[a-d][a-d-]{0,2}`), itself).Draw(t, name)
			slices.Sort(l)
			return l
		}
		before, after := list("before"), list("after")
		n := rapid.Int32Range(1, 4).Draw(t, "items")
		got, marker, err := page(before, itself, nil, &n, 3)
		for i := 0; err == nil && marker != nil; i++ {
			var more []string
			more, marker, err = page(after, itself, marker, &n, 3)
			got = append(slices.Clip(got), more...)
			if len(more) == 0 || i > len(after) {
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Fatalf("pages repeat or disorder: %v", got)
		}
		if len(before) <= int(min(n, 3)) {
			return // all was said before it changed
		}
		for _, s := range before {
			if slices.Contains(after, s) && !slices.Contains(got, s) {
				t.Errorf("%s, there all the time, is not in the pages %v", s, got)
			}
		}
	})
}

func TestAMarkerOfNobodyIsRefused(t *testing.T) {
	t.Parallel()
	for _, marker := range []string{"garbage", "%%", base64.RawURLEncoding.EncodeToString([]byte("f\x00")), "YWZ0ZXI"} {
		_, _, err := page([]string{"a"}, itself, &marker, nil, 50)
		if e := asExceptionOf(t, err); e.name != "InvalidParameterValueException" || e.message != "Invalid value for marker: "+marker {
			t.Errorf("marker %q: %v", marker, err)
		}
	}
	some, next, err := page([]string{"a"}, itself, new(""), nil, 50)
	if err != nil || next != nil || !slices.Equal(some, []string{"a"}) {
		t.Errorf("an empty marker gave %v, %v, %v", some, next, err)
	}
}

// asExceptionOf is the exception err is, which must not be nil.
func asExceptionOf(t *testing.T, err error) *exception {
	t.Helper()
	if err == nil {
		t.Fatal("accepted")
	}
	return asException(err)
}
