//go:build node

package containerd_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	layers "github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/hearth-compute/hearth/sandbox"
)

// gzipped is a layer as registries have them.
func gzipped(t *testing.T, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// withContent as a size stands for that of the content.
const withContent = -1

// tarred is an archive of headers, some with a content.
func tarred(t *testing.T, content []byte, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		var body []byte
		if h.Size == withContent {
			body, h.Size = content, int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// pushLayer pushes an image of one layer, whatever that is.
func (s *registryServer) pushLayer(t *testing.T, ref string, layer []byte) sandbox.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers.NewLayer(layer, types.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	target, err := name.ParseReference(s.host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(target, img, remote.WithAuth(authn.Anonymous)); err != nil {
		t.Fatal(err)
	}
	return sandbox.Image{Ref: s.host + "/" + ref}
}

// TestAnImageThatIsBrokenIsNotTheFaultOfTheHost: trying again does not help, so
// the class must not be Unavailable.
func TestAnImageThatIsBrokenIsNotTheFaultOfTheHost(t *testing.T) {
	d := open(t, config(t))
	s := serveRegistry(t, "", "")
	noise := make([]byte, 4096)
	_, _ = rand.Read(noise)
	whole := gzipped(t, tarred(t, noise, tar.Header{Name: "f", Size: withContent, Mode: 0o644}))
	for what, layer := range map[string][]byte{
		"noise": noise, "gzipped noise": gzipped(t, noise), "half an archive": whole[:len(whole)/2],
		"escaping hard link": gzipped(t, tarred(t, nil, tar.Header{Name: "x", Mode: 0o644},
			tar.Header{Typeflag: tar.TypeLink, Name: "shadow", Linkname: "../../../../../../../../etc/shadow"})),
	} {
		image := s.pushLayer(t, fmt.Sprintf("broken:%d", len(layer)), layer)
		_, err := d.Pull(t.Context(), image)
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) || errdefs.IsUnavailable(err) {
			t.Errorf("%s: got %v", what, err)
		}
		t.Log(what, err)
	}
}

// answering is a registry that answers everything the same.
func answering(t *testing.T, status int, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", string(types.DockerManifestSchema2))
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestRegistriesInTroubleAreWaitedFor(t *testing.T) {
	d := open(t, config(t))
	for status, is := range map[int]func(error) bool{
		http.StatusInternalServerError: errdefs.IsUnavailable,
		http.StatusBadGateway:          errdefs.IsUnavailable,
		http.StatusServiceUnavailable:  errdefs.IsUnavailable,
		http.StatusTooManyRequests:     errdefs.IsUnavailable,
		http.StatusForbidden:           errdefs.IsPermissionDenied,
		http.StatusUnauthorized:        errdefs.IsUnauthorized,
		http.StatusNotFound:            errdefs.IsNotFound,
	} {
		host := answering(t, status, "{}")
		_, err := d.Pull(t.Context(), sandbox.Image{Ref: host + "/f:v1"})
		if !is(err) || !strings.Contains(err.Error(), host) {
			t.Errorf("%d: got %v", status, err)
		}
	}
	for _, body := range []string{"<html>sign in</html>", `{"schemaVersion":2}`, ""} {
		_, err := d.Pull(t.Context(), sandbox.Image{Ref: answering(t, http.StatusOK, body) + "/f:v1"})
		if err == nil || errdefs.IsUnavailable(err) {
			t.Errorf("a manifest %q: got %v", body, err)
		}
		t.Log(body, err)
	}
}

// TestAnImageThatCannotBeMountedOnIsRefused: its /tmp leads in a circle.
func TestAnImageThatCannotBeMountedOnIsRefused(t *testing.T) {
	d := open(t, config(t))
	image := serveRegistry(t, "", "").pushLayer(t, "circle:v1", tarred(t, nil, tar.Header{Typeflag: tar.TypeSymlink, Name: "tmp", Linkname: "/tmp"}))
	if _, err := d.Pull(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	s := spec(t, "circle", "print", "x")
	s.Image = image
	if _, err := d.Create(t.Context(), s); !errdefs.IsFailedPrecondition(err) || errdefs.IsUnavailable(err) {
		t.Errorf("got %v, want FailedPrecondition", err)
	}
}

// TestAnImageGainsNothing: whatever its layers contain, what runs in it has no
// more than before, and the host is left alone.
func TestAnImageGainsNothing(t *testing.T) {
	w := newWorld(t)
	s := serveRegistry(t, "", "")
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	prog, err := os.ReadFile(filepath.Join(bin, "task", "prog"))
	if err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	layer := tarred(t, prog,
		tar.Header{Name: "prog", Size: withContent, Mode: 0o755},
		tar.Header{Name: "setuid", Size: withContent, Mode: 0o6755},
		tar.Header{Name: "capable", Size: withContent, Mode: 0o755, PAXRecords: map[string]string{
			// cap_sys_admin and all others, effective, revision 2
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\xff\x01\x00\x00\x00\x00\x00\x00",
		}},
		tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o666, Devmajor: 8},
		tar.Header{Typeflag: tar.TypeChar, Name: "mem", Mode: 0o666, Devmajor: 1, Devminor: 1},
		tar.Header{Typeflag: tar.TypeChar, Name: "kmsg", Mode: 0o666, Devmajor: 1, Devminor: 11},
		tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o666},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "/etc/shadow"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "climb", Linkname: "../../../../../../../../etc/shadow"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "out", Linkname: outside},
		tar.Header{Typeflag: tar.TypeReg, Name: "out/written", Mode: 0o644},
		tar.Header{Typeflag: tar.TypeReg, Name: "../../../../../../../../" + outside + "/traversed", Mode: 0o644},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/hosts", Linkname: "../../../../../../../../" + outside + "/hosts"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "tmp", Linkname: "../../../../../../../../hearth-elsewhere"},
	)
	image := s.pushLayer(t, "evil:v1", layer)
	run := func(id sandbox.ID, args ...string) sandbox.Spec {
		return sandbox.Spec{
			ID: id, Image: image, Args: args, User: sandbox.User{UID: 993, GID: 990},
			Limits: sandbox.Limits{CPU: 1000, Memory: 64 << 20, Tmp: 8 << 20, PIDs: 64, OpenFiles: 1024},
		}
	}
	got := w.ends(t,
		run("setuid", "/setuid", "cat", "/proc/self/status"), run("capable", "/capable", "cat", "/proc/self/status"),
		run("disk", "/prog", "cat", "/disk"), run("mem", "/prog", "cat", "/mem"), run("kmsg", "/prog", "cat", "/kmsg"),
		run("link", "/prog", "cat", "/link"), run("climb", "/prog", "cat", "/climb"),
	)
	status := strings.Join(got["setuid"].lines, "\n")
	for _, want := range []string{"Uid:\t993\t993\t993\t993", "Gid:\t990\t990\t990\t990", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in %s", want, status)
		}
	}
	for id, want := range map[sandbox.ID]string{
		"capable": "fork/exec /capable: operation not permitted", // the kernel runs it with all of them or not at all
		"disk":    "operation not permitted", "mem": "operation not permitted", "kmsg": "operation not permitted",
		"link": "no such file or directory", "climb": "no such file or directory",
	} {
		if lines := got[id].lines; len(lines) != 1 || !strings.Contains(lines[0], want) {
			t.Errorf("%s: got %.200q, want %s", id, lines, want)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("written to the host: %v %v", left, err)
	}
	if _, err := os.Stat("/hearth-elsewhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a mount point was made on the host: %v", err)
	}
}
