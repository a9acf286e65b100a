// Command ociarchive makes an image of one layer from a directory, as an OCI
// archive. Equal directories give equal archives: owners are root, times are
// the epoch.
package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	var c config
	flag.StringVar(&c.root, "root", "", "`directory` that becomes the root of the image")
	flag.StringVar(&c.arch, "arch", "amd64", "the image's `architecture`, as in GOARCH")
	flag.StringVar(&c.out, "o", "", "`file` to write")
	flag.Func("env", "`NAME=value` of the image's environment; may be repeated", func(s string) error {
		if !strings.Contains(s, "=") {
			return errors.New("want NAME=value")
		}
		c.env = append(c.env, s)
		return nil
	})
	flag.Parse()
	if err := write(c); err != nil {
		fmt.Fprintln(os.Stderr, "ociarchive:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	root, arch, out string
	env             []string
}

// write makes the image.
func write(c config) (err error) {
	work, err := os.MkdirTemp("", "ociarchive-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	content := filepath.Join(work, "layer.tar")
	if err := pack(content, c.root); err != nil {
		return err
	}
	img, err := image(c, content)
	if err != nil {
		return err
	}
	dir := filepath.Join(work, "layout")
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendImage(img); err != nil {
		return err
	}
	return pack(c.out, dir)
}

// image is one layer with its configuration.
func image(c config, content string) (v1.Image, error) {
	layer, err := tarball.LayerFromFile(content, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", c.arch
	file.Config = v1.Config{Env: c.env, Entrypoint: []string{"/var/runtime/bootstrap"}, WorkingDir: "/var/task"}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, err
	}
	return mutate.ConfigMediaType(img, types.OCIConfigJSON), nil
}

// pack writes a directory as a tar archive.
func pack(out, dir string) (err error) {
	f, err := os.Create(out) //nolint:gosec // G304: the caller's file
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	defer func() { err = errors.Join(err, w.Close()) }()
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return add(w, dir, path, entry)
	})
}

// add writes one file, directory or link; nothing else is in packages.
func add(w *tar.Writer, dir, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	var target string
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	*h = tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode, ModTime: time.Unix(0, 0)}
	if info.IsDir() {
		h.Name += "/"
	}
	if !slices.Contains([]byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink}, h.Typeflag) {
		return fmt.Errorf("%s: neither file, directory nor link", path)
	}
	if err := w.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(path) //nolint:gosec // G304: below the caller's directory
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(w, f)
	return err
}
