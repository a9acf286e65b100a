// Package builtin makes the images that need no registry. There is one,
// "static": certificate authorities, time zones, the user sbx_user and empty
// directories to mount on; enough for a statically linked program.
package builtin

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	_ "embed" // the time zone database
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

//go:generate sh -c "cp $(go env GOROOT)/lib/time/zoneinfo.zip zoneinfo.zip"

//go:embed zoneinfo.zip
var zoneinfo []byte

// Static is the reference of the built-in image.
const Static = "builtin:static"

// UID and GID are of the user sbx_user.
const (
	UID = 993
	GID = 990
)

const users = `root:x:0:0:root:/root:/sbin/nologin
sbx_user:x:993:990::/home/sbx_user:/sbin/nologin
`

const groups = `root:x:0:
sbx_user:x:990:
`

// Archive returns the built-in image for linux on the given architecture (as in
// GOARCH) as an OCI image layout in a tar archive, and the digest of its
// manifest. Equal arguments give equal bytes.
func Archive(arch string) (archive []byte, digest string, err error) {
	layer, err := rootfs()
	if err != nil {
		return nil, "", fmt.Errorf("built-in image: root file system: %w", err)
	}
	img, err := image(layer, arch)
	if err != nil {
		return nil, "", fmt.Errorf("built-in image: %w", err)
	}
	return pack(img)
}

// rootfs returns the one layer, an uncompressed tar.
func rootfs() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, dir := range []string{
		"dev", "etc", "etc/ssl", "etc/ssl/certs", ".hearth", "home", "opt", "proc", "run", "sys",
		"tmp", "usr", "usr/share", "usr/share/zoneinfo", "var", "var/runtime", "var/task",
	} {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
	}
	certificates, err := roots()
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{".hearth/init", nil}, // mount points
		{"etc/group", []byte(groups)},
		{"etc/hosts", nil},
		{"etc/nsswitch.conf", []byte("hosts: files dns\n")},
		{"etc/passwd", []byte(users)},
		{"etc/resolv.conf", nil},
		{"etc/ssl/certs/ca-certificates.crt", certificates},
	} {
		if err := file(w, f.name, f.data); err != nil {
			return nil, err
		}
	}
	if err := zones(w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func file(w *tar.Writer, name string, data []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644, ModTime: time.Unix(0, 0)}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// roots returns the certificate authorities in PEM.
func roots() ([]byte, error) {
	var buf bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue // valid only under conditions a PEM file cannot express
		}
		if err := pem.Encode(&buf, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), nil
}

// zones writes the time zone database.
func zones(w *tar.Writer) error {
	r, err := zip.NewReader(bytes.NewReader(zoneinfo), int64(len(zoneinfo)))
	if err != nil {
		return err
	}
	seen := map[string]bool{".": true}
	for _, f := range slices.SortedFunc(slices.Values(r.File), func(a, b *zip.File) int { return strings.Compare(a.Name, b.Name) }) {
		name := path.Clean(f.Name)
		if f.FileInfo().IsDir() || !fsPath(name) {
			continue
		}
		if err := parents(w, path.Dir(name), seen); err != nil {
			return err
		}
		data, err := contents(f)
		if err != nil {
			return err
		}
		if err := file(w, "usr/share/zoneinfo/"+name, data); err != nil {
			return err
		}
	}
	return nil
}

func fsPath(name string) bool { return !path.IsAbs(name) && !strings.HasPrefix(name, "..") }

func parents(w *tar.Writer, dir string, seen map[string]bool) error {
	if seen[dir] {
		return nil
	}
	seen[dir] = true
	if err := parents(w, path.Dir(dir), seen); err != nil {
		return err
	}
	return w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeDir, Name: "usr/share/zoneinfo/" + dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0),
	})
}

func contents(f *zip.File) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return data, err
}

func image(layer []byte, arch string) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, static.NewLayer(layer, types.OCIUncompressedLayer))
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	if arch == "arm64" {
		cfg.Variant = "v8"
	}
	cfg.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	cfg.Config = v1.Config{
		User: "sbx_user",
		Env: []string{
			"PATH=/usr/local/bin:/usr/bin:/bin:/opt/bin",
			"SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
		},
		WorkingDir: "/var/task",
	}
	return mutate.ConfigFile(img, cfg)
}

// pack writes the image as an OCI image layout in a tar archive.
func pack(img v1.Image) ([]byte, string, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	digest, err := blobs(w, img)
	if err != nil {
		return nil, "", err
	}
	size, err := img.Size()
	if err != nil {
		return nil, "", err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, "", err
	}
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1, Size: size, Digest: digest,
			Platform: &v1.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant},
		}},
	})
	if err != nil {
		return nil, "", err
	}
	if err := file(w, "index.json", index); err != nil {
		return nil, "", err
	}
	if err := file(w, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return nil, "", err
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	return buf.Bytes(), digest.String(), nil
}

// blobs writes layer, configuration and manifest and returns the manifest's
// digest.
func blobs(w *tar.Writer, img v1.Image) (v1.Hash, error) {
	layers, err := img.Layers()
	if err != nil {
		return v1.Hash{}, err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return v1.Hash{}, err
		}
		r, err := layer.Compressed()
		if err != nil {
			return v1.Hash{}, err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return v1.Hash{}, err
		}
		if err := file(w, "blobs/sha256/"+digest.Hex, data); err != nil {
			return v1.Hash{}, err
		}
	}
	name, err := img.ConfigName()
	if err != nil {
		return v1.Hash{}, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return v1.Hash{}, err
	}
	if err := file(w, "blobs/sha256/"+name.Hex, config); err != nil {
		return v1.Hash{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return v1.Hash{}, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	return digest, file(w, "blobs/sha256/"+digest.Hex, manifest)
}
