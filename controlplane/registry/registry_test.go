package registry

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestATagIsResolvedByItsRegistry(t *testing.T) {
	t.Parallel()
	host := serve(t, ggcr.New(ggcr.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug))))
	image, err := random.Image(16, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(host + "/team/f:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	r := New()
	want := host + "/team/f@" + digest.String()
	for _, ref := range []string{host + "/team/f:v1", host + "/team/f@" + digest.String(), host + "/team/f:v1@" + digest.String()} {
		if got, err := r.Resolve(t.Context(), ref); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", ref, got, err, want)
		}
	}
	for _, ref := range []string{host + "/team/f:v2", host + "/team/g:v1"} {
		if _, err := r.Resolve(t.Context(), ref); !errdefs.IsNotFound(err) {
			t.Errorf("%s: got %v, want NotFound", ref, err)
		}
	}
}

func TestWhatCannotBeAskedIsUnavailable(t *testing.T) {
	t.Parallel()
	secret := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Www-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	for _, ref := range []string{secret + "/f:v1", "127.0.0.1:1/f:v1"} {
		if _, err := New().Resolve(t.Context(), ref); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: got %v, want Unavailable", ref, err)
		}
	}
	if _, err := New().Resolve(t.Context(), "UPPER/case"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}

func TestPlainHTTPIsForLoopbackOnly(t *testing.T) {
	t.Parallel()
	sent := errors.New("sent")
	e := encrypted{roundTripper(func(*http.Request) (*http.Response, error) { return nil, sent })}
	for url, allowed := range map[string]bool{
		"http://127.0.0.1:5000/v2/": true, "http://localhost/v2/": true, "http://[::1]:5000/v2/": true, "https://10.0.0.1/v2/": true,
		"http://10.0.0.1/v2/": false, "http://example.com/v2/": false,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.RoundTrip(r); errors.Is(err, sent) != allowed || !allowed && !errdefs.IsPermissionDenied(err) { //nolint:bodyclose // there is none
			t.Errorf("%s: %v", url, err)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}
