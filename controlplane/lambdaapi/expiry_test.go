package lambdaapi

import (
	"net/http"
	"net/url"
	"testing"
	"time"
)

func TestALocationExpiresAfterTenMinutes(t *testing.T) {
	t.Parallel()
	l, made := newLocations(), time.Unix(1_800_000_000, 0)
	at, err := url.Parse(l.of("https://host", "abc", made))
	if err != nil {
		t.Fatal(err)
	}
	r := &http.Request{URL: at}
	r.SetPathValue("sha", "abc")
	for after, want := range map[time.Duration]bool{0: true, 10*time.Minute - time.Second: true, 10 * time.Minute: false} {
		if got := l.valid(r, made.Add(after)); got != want {
			t.Errorf("%s after it was made: valid %t, want %t", after, got, want)
		}
	}
}
