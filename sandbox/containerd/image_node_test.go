//go:build node

package containerd_test

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/builtin"
)

// registryServer is a registry on loopback that counts what it is asked.
type registryServer struct {
	host  string
	blobs atomic.Int32 // downloads of layers and configurations
}

// serveRegistry serves a registry, for which user and password are needed
// unless they are empty.
func serveRegistry(t *testing.T, user, password string) *registryServer {
	t.Helper()
	s := &registryServer{}
	handler := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			s.blobs.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

// push pushes an image of two layers for an architecture and returns its digest.
func (s *registryServer) push(t *testing.T, ref, arch string, auth authn.Authenticator) string {
	t.Helper()
	img, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	file.Config = v1.Config{
		Entrypoint: []string{"/entry"}, Cmd: []string{"app.handler"}, Env: []string{"A=1"},
		WorkingDir: "/var/task", User: "1000",
	}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	target, err := name.ParseReference(s.host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(target, img, remote.WithAuth(auth)); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

func TestPullsFromARegistryOnce(t *testing.T) {
	cfg := config(t)
	d := open(t, cfg)
	s := serveRegistry(t, "", "")
	digest := s.push(t, "f/app:v1", runtime.GOARCH, authn.Anonymous)
	image := sandbox.Image{Ref: s.host + "/f/app:v1"}
	want := sandbox.ImageConfig{
		Digest: digest, Entrypoint: []string{"/entry"}, Cmd: []string{"app.handler"}, Env: []string{"A=1"},
		WorkingDir: "/var/task", User: "1000",
	}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			got, err := d.Pull(t.Context(), image)
			if err != nil {
				t.Errorf("pulling: %v", err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	wg.Wait()
	if n := s.blobs.Load(); n != 3 {
		t.Errorf("%d downloads, want the configuration and two layers once", n)
	}
	byDigest := sandbox.Image{Ref: s.host + "/f/app@" + digest}
	if got, err := d.Pull(t.Context(), byDigest); err != nil || got.Digest != digest {
		t.Errorf("by digest: %+v %v", got, err)
	}
}

func TestCredentialsReachTheRegistry(t *testing.T) {
	d := open(t, config(t))
	s := serveRegistry(t, "user", "s3cret")
	s.push(t, "private:v1", runtime.GOARCH, &authn.Basic{Username: "user", Password: "s3cret"})
	ref := s.host + "/private:v1"
	for _, image := range []sandbox.Image{{Ref: ref}, {Ref: ref, Username: "user", Password: "wrong"}} {
		_, err := d.Pull(t.Context(), image)
		if !errdefs.IsUnauthorized(err) {
			t.Errorf("as %q: %v, want Unauthenticated", image.Username, err)
		}
		if err != nil && image.Password != "" && strings.Contains(err.Error(), image.Password) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
	if _, err := d.Pull(t.Context(), sandbox.Image{Ref: ref, Username: "user", Password: "s3cret"}); err != nil {
		t.Errorf("with the right credentials: %v", err)
	}
}

func TestPlainHTTPIsForLoopbackOnly(t *testing.T) {
	d := open(t, config(t))
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	var plain atomic.Int32
	handler := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		plain.Add(1)
		handler.ServeHTTP(w, r)
	}))
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	addresses := hostAddresses(t, netip.Prefix{})
	if len(addresses) == 0 {
		t.Skip("this host has no address but loopback")
	}
	_, err = d.Pull(t.Context(), sandbox.Image{Ref: net.JoinHostPort(addresses[0], port) + "/x:v1"})
	if !errdefs.IsUnavailable(err) || plain.Load() != 0 {
		t.Errorf("%v after %d requests in plain text, want Unavailable and none", err, plain.Load())
	}
	_, err = d.Pull(t.Context(), sandbox.Image{Ref: net.JoinHostPort("127.0.0.1", port) + "/x:v1"})
	if !errdefs.IsNotFound(err) || plain.Load() == 0 {
		t.Errorf("on loopback: %v after %d requests, want NotFound and some", err, plain.Load())
	}
}

func TestPullErrorsHaveClasses(t *testing.T) {
	d := open(t, config(t))
	s := serveRegistry(t, "", "")
	s.push(t, "foreign:v1", "s390x", authn.Anonymous)
	for ref, is := range map[string]func(error) bool{
		s.host + "/missing:v1":       errdefs.IsNotFound,
		s.host + "/foreign:v1":       errdefs.IsFailedPrecondition,
		"UPPER CASE":                 errdefs.IsInvalidArgument,
		"127.0.0.1:1/unreachable:v1": errdefs.IsUnavailable,
		"oci-archive:/nowhere.tar":   errdefs.IsNotFound,
		"builtin:none":               errdefs.IsNotFound,
	} {
		if _, err := d.Pull(t.Context(), sandbox.Image{Ref: ref}); !is(err) {
			t.Errorf("pulling %s: %v has another class", ref, err)
		}
	}
}

func TestImportsAnArchiveAgainWhenItChanged(t *testing.T) {
	d := open(t, config(t))
	archive, digest, err := builtin.Archive(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	image := sandbox.Image{Ref: "oci-archive:" + file}
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := d.Pull(t.Context(), image); err != nil || got.Digest != digest {
			t.Errorf("got %+v %v, want digest %s", got, err, digest)
		}
	}
	s := spec(t, "archived", "print", "x")
	s.Image = image
	if _, err := d.Create(t.Context(), s); err != nil {
		t.Errorf("a sandbox of it: %v", err)
	}
	foreign, _, err := builtin.Archive("s390x")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, foreign, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Pull(t.Context(), image); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the changed archive: %v, want FailedPrecondition", err)
	}
}
