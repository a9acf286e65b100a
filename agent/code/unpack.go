package code

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// maxUnpacked and maxEntries bound what one archive may become: AWS's 250 MB
	// for code and layers, and a number of files nobody needs.
	maxUnpacked = 250 << 20
	maxEntries  = 100_000
	// maxLink is the longest target of a symbolic link.
	maxLink = 4096
)

// unpack writes the zip archive into the new directory dir. Whatever the
// archive says: nothing is written outside dir, nothing but directories,
// regular files and links within the tree is made, and everything is readable
// by all and writable by its owner alone.
func (c *Cache) unpack(archive, dir string) (err error) {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return invalid("not a zip archive: %v", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if len(r.File) > c.cfg.MaxEntries {
		return invalid("archive has %d entries, at most %d are allowed", len(r.File), c.cfg.MaxEntries)
	}
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // functions read it under their own user
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the umask may have taken bits
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	u := &unpacker{root: root, left: int64(c.cfg.MaxUnpacked)}
	for _, f := range r.File {
		if err := u.entry(f); err != nil {
			return fmt.Errorf("entry %.200q: %w", f.Name, err)
		}
	}
	// Links come last: nothing is ever written through one.
	for _, l := range u.links {
		if err := u.link(l); err != nil {
			return fmt.Errorf("link %.200q: %w", l.name, err)
		}
	}
	return nil
}

type unpacker struct {
	root  *os.Root
	left  int64
	links []link
}

type link struct{ name, target string }

// entry unpacks one file or directory, or remembers one link.
func (u *unpacker) entry(f *zip.File) error {
	name, err := cleanName(f.Name)
	if err != nil || name == "." {
		return err
	}
	mode := f.Mode()
	switch {
	case mode.IsDir():
		return u.directory(name)
	case mode.IsRegular():
		return u.file(f, name)
	case mode&fs.ModeSymlink != 0:
		return u.remember(f, name)
	}
	return invalid("neither file, directory nor link (%v)", mode)
}

// cleanName refuses names that mean anything but a place below the root.
func cleanName(name string) (string, error) {
	trimmed := strings.TrimSuffix(name, "/")
	if trimmed == "" || strings.HasPrefix(trimmed, "/") || strings.ContainsAny(trimmed, "\\\x00") {
		return "", invalid("bad name")
	}
	clean := path.Clean(trimmed)
	if !fs.ValidPath(clean) {
		return "", invalid("name leaves the archive")
	}
	return clean, nil
}

func (u *unpacker) directory(name string) error {
	if err := u.root.MkdirAll(name, 0o755); err != nil {
		return invalid("making a directory: %v", err)
	}
	return u.root.Chmod(name, 0o755)
}

func (u *unpacker) parent(name string) error {
	if dir := path.Dir(name); dir != "." {
		return u.directory(dir)
	}
	return nil
}

func (u *unpacker) file(f *zip.File, name string) (err error) {
	if err := u.parent(name); err != nil {
		return err
	}
	// Executable bits are kept; set-user-id, sticky and write bits are not.
	perm := 0o644 | f.Mode().Perm()&0o111
	src, err := f.Open()
	if err != nil {
		return invalid("opening: %v", err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return invalid("creating: %v", err)
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	n, err := io.Copy(dst, io.LimitReader(src, u.left+1))
	if err != nil {
		return invalid("unpacking: %v", err)
	}
	if u.left -= n; u.left < 0 {
		return invalid("archive unpacks to more bytes than are allowed")
	}
	return dst.Chmod(perm)
}

func (u *unpacker) remember(f *zip.File, name string) (err error) {
	src, err := f.Open()
	if err != nil {
		return invalid("opening: %v", err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	target, err := io.ReadAll(io.LimitReader(src, maxLink+1))
	switch {
	case err != nil:
		return invalid("reading a link: %v", err)
	case len(target) == 0 || len(target) > maxLink || strings.ContainsRune(string(target), 0):
		return invalid("bad link target")
	case path.IsAbs(string(target)) || !fs.ValidPath(path.Join(path.Dir(name), string(target))):
		return invalid("link leaves the archive: %.200q", target)
	}
	u.links = append(u.links, link{name: name, target: string(target)})
	return nil
}

func (u *unpacker) link(l link) error {
	if err := u.parent(l.name); err != nil {
		return err
	}
	if err := u.root.Symlink(l.target, l.name); err != nil {
		return invalid("linking: %v", err)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
