package builtin_test

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/sandbox/builtin"
)

// untar returns the files of a tar archive.
func untar(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !fs.ValidPath(strings.TrimSuffix(h.Name, "/")) {
			t.Errorf("file name %q", h.Name)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// layer returns the files of the image's root file system and its configuration.
func layer(t *testing.T, arch string) (files map[string][]byte, config []byte) {
	t.Helper()
	archive, digest, err := builtin.Archive(arch)
	if err != nil {
		t.Fatal(err)
	}
	layout := untar(t, archive)
	blob := func(digest string) []byte {
		content, ok := layout["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]
		if !ok {
			t.Fatalf("no blob %s", digest)
		}
		return content
	}
	var index struct{ Manifests []struct{ Digest string } }
	if err := json.Unmarshal(layout["index.json"], &index); err != nil || len(index.Manifests) != 1 || index.Manifests[0].Digest != digest {
		t.Fatalf("index %s: %v, want the one manifest %s", layout["index.json"], err, digest)
	}
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err := json.Unmarshal(blob(digest), &manifest); err != nil || len(manifest.Layers) != 1 {
		t.Fatalf("manifest %s: %v", blob(digest), err)
	}
	return untar(t, blob(manifest.Layers[0].Digest)), blob(manifest.Config.Digest)
}

func TestEqualArgumentsGiveEqualBytes(t *testing.T) {
	t.Parallel()
	a, x, err := builtin.Archive("amd64")
	if err != nil {
		t.Fatal(err)
	}
	b, y, err := builtin.Archive("amd64")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) || x != y {
		t.Error("two archives differ")
	}
	if _, z, err := builtin.Archive("arm64"); err != nil || x == z {
		t.Errorf("another architecture: %s %v", z, err)
	}
}

func TestHoldsWhatAStaticProgramNeeds(t *testing.T) {
	t.Parallel()
	files, config := layer(t, "arm64")
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(files["etc/ssl/certs/ca-certificates.crt"]) {
		t.Error("no certificate authority")
	}
	for _, zone := range []string{"UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"} {
		if _, err := time.LoadLocationFromTZData(zone, files["usr/share/zoneinfo/"+zone]); err != nil {
			t.Errorf("time zone %s: %v", zone, err)
		}
	}
	if !strings.Contains(string(files["etc/passwd"]), "sbx_user:x:993:990:") || !strings.Contains(string(files["etc/group"]), "sbx_user:x:990:") {
		t.Errorf("users are %q, groups %q", files["etc/passwd"], files["etc/group"])
	}
	for _, dir := range []string{"tmp/", "var/task/", "opt/", "proc/", "sys/", "dev/"} {
		if _, ok := files[dir]; !ok {
			t.Errorf("no directory %s", dir)
		}
	}
	for _, text := range []string{`"os":"linux"`, `"architecture":"arm64"`, `"variant":"v8"`, `"WorkingDir":"/var/task"`} {
		if !bytes.Contains(config, []byte(text)) {
			t.Errorf("no %s in %s", text, config)
		}
	}
}
