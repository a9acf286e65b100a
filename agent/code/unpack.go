package code

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

const (
	// maxUnpacked and maxEntries bound what one archive may become: AWS's 250 MB
	// for code and layers, and a number of files nobody needs.
	maxUnpacked = 250 << 20
	maxEntries  = 100_000
	// maxDirectory bounds what is read of an archive's table of contents, which is
	// kept in memory at several times its size.
	maxDirectory = 16 << 20
	// maxName is the longest name within an archive: with a path before it, it
	// still is one the kernel takes.
	maxName = 2048
	// maxLink is the longest target of a symbolic link, maxLinks bounds those of
	// one archive together: they are kept in memory until the end.
	maxLink  = 4096
	maxLinks = 8 << 20
	// encrypted is the flag of an entry that needs a password.
	encrypted = 1
)

// unpack writes the zip archive into the new directory dir. Whatever the
// archive says: nothing is written outside dir, nothing but directories,
// regular files and links within the tree is made, and everything is readable
// by all and writable by its owner alone; a file that anybody may execute, all
// may. Of several entries with one name the last counts, as with unzip. Errors:
// InvalidArgument (the archive is to blame), ResourceExhausted (the disk is
// full), Unavailable (the host fails).
func (c *Cache) unpack(ctx context.Context, archive, dir string) (err error) {
	f, err := os.Open(archive) //nolint:gosec // our own working file
	if err != nil {
		return classify("opening the archive", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	entries, err := contents(f, c.cfg.MaxEntries)
	if err != nil {
		return err
	}
	if err := mkdir(dir); err != nil {
		return hostFault("making a directory", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return hostFault("opening a directory", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	u := &unpacker{root: root, left: int64(c.cfg.MaxUnpacked), mayMake: c.cfg.MaxEntries, made: map[string]bool{".": true}}
	for _, f := range entries {
		if ctx.Err() != nil {
			return fmt.Errorf("stopped: %w", context.Cause(ctx))
		}
		if err := u.entry(f); err != nil {
			return fmt.Errorf("entry %.200q: %w", f.Name, err)
		}
	}
	return u.finish()
}

// contents returns the entries of a zip archive.
func contents(f *os.File, most int) ([]*zip.File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, hostFault("measuring the archive", err)
	}
	b := &bounded{r: f, left: maxDirectory}
	r, err := zip.NewReader(b, info.Size())
	switch {
	case b.exceeded:
		return nil, invalid("the table of contents of the archive is larger than %d bytes", maxDirectory)
	case err != nil:
		return nil, classify("not a zip archive", err)
	case len(r.File) > most:
		return nil, invalid("archive has %d entries, at most %d are allowed", len(r.File), most)
	}
	b.unbounded = true
	return r.File, nil
}

// bounded is a reader that reads a limited number of bytes, until it is made
// unbounded.
type bounded struct {
	r                   io.ReaderAt
	left                int
	unbounded, exceeded bool
}

// ReadAt implements io.ReaderAt.
func (b *bounded) ReadAt(p []byte, off int64) (int, error) {
	if b.unbounded {
		return b.r.ReadAt(p, off)
	}
	if b.left -= len(p); b.left < 0 {
		b.exceeded = true
		return 0, zip.ErrFormat
	}
	return b.r.ReadAt(p, off)
}

type unpacker struct {
	root *os.Root
	// left is how many bytes, mayMake how many directories may still be written.
	left    int64
	mayMake int
	made    map[string]bool // directories
	links   []link
	linked  int // bytes in the targets of links
}

type link struct{ name, target string }

// inContainer tells whether a link leads to where a function has files of its
// own while it runs, as frameworks make them for what they write to /tmp. On the
// host nothing follows it.
func inContainer(target string) bool {
	for _, dir := range []string{"/tmp", "/opt", "/var/task"} {
		if clean := path.Clean(target); clean == dir || strings.HasPrefix(clean, dir+"/") {
			return true
		}
	}
	return false
}

// entry unpacks one file or directory, or remembers one link.
func (u *unpacker) entry(f *zip.File) error {
	name, err := cleanName(f.Name)
	if err != nil || name == "." {
		return err
	}
	mode := f.Mode()
	switch {
	case f.Flags&encrypted != 0:
		return invalid("it is encrypted")
	case mode.IsDir():
		return u.directory(name)
	case f.UncompressedSize64 > uint64(u.left): //nolint:gosec // never negative
		return u.tooLarge()
	case mode.IsRegular():
		return u.file(f, name)
	case mode&fs.ModeSymlink != 0:
		return u.remember(f, name)
	}
	return invalid("it is neither file, directory nor link (%v)", mode)
}

func (*unpacker) tooLarge() error {
	return invalid("archive unpacks to more bytes than are allowed")
}

// cleanName refuses names that mean anything but a place below the root. Names
// need not be UTF-8: a file system takes any bytes.
func cleanName(name string) (string, error) {
	trimmed := strings.TrimSuffix(name, "/")
	switch {
	case trimmed == "" || strings.ContainsRune(trimmed, 0):
		return "", invalid("bad name")
	case strings.Contains(trimmed, `\`):
		return "", invalid("its name has a backslash: directories are separated by slashes")
	case len(trimmed) > maxName:
		return "", invalid("its name is longer than %d bytes", maxName)
	case !filepath.IsLocal(trimmed):
		return "", invalid("its name leaves the archive")
	}
	return path.Clean(trimmed), nil
}

// directory makes a directory and those it is in.
func (u *unpacker) directory(name string) error {
	if u.made[name] {
		return nil
	}
	if err := u.directory(path.Dir(name)); err != nil {
		return err
	}
	if u.mayMake--; u.mayMake < 0 {
		return invalid("archive has too many directories")
	}
	if err := u.root.Mkdir(name, 0o755); err != nil {
		return classify("making a directory", err)
	}
	u.made[name] = true
	if err := u.root.Chmod(name, 0o755); err != nil {
		return hostFault("making a directory", err)
	}
	return nil
}

func (u *unpacker) file(f *zip.File, name string) (err error) {
	if err := u.directory(path.Dir(name)); err != nil {
		return err
	}
	// Set-user-id, sticky and write bits are not kept. The owner of the file is not
	// who runs it, so what its owner may execute everybody may.
	perm := fs.FileMode(0o644)
	if f.Mode().Perm()&0o111 != 0 {
		perm = 0o755
	}
	src, err := f.Open()
	if err != nil {
		return classify("opening", err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return classify("creating", err)
	}
	defer func() {
		if e := dst.Close(); err == nil && e != nil {
			err = hostFault("writing", e)
		}
	}()
	n, err := io.Copy(dst, io.LimitReader(src, u.left+1))
	if err != nil {
		return classify("unpacking", err)
	}
	if u.left -= n; u.left < 0 {
		return u.tooLarge()
	}
	if err := dst.Chmod(perm); err != nil {
		return hostFault("writing", err)
	}
	return nil
}

// remember reads a link, which is made after everything else.
func (u *unpacker) remember(f *zip.File, name string) (err error) {
	src, err := f.Open()
	if err != nil {
		return classify("opening", err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	target, err := io.ReadAll(io.LimitReader(src, maxLink+1))
	if err != nil {
		return classify("reading a link", err)
	}
	u.linked += len(target)
	switch {
	case len(target) == 0 || len(target) > maxLink || strings.ContainsRune(string(target), 0):
		return invalid("bad link target")
	case u.linked > maxLinks:
		return invalid("the links of the archive have more than %d bytes", maxLinks)
	case !inContainer(string(target)) && (path.IsAbs(string(target)) || !filepath.IsLocal(path.Join(path.Dir(name), string(target)))):
		return leaves(string(target))
	}
	u.links = append(u.links, link{name: name, target: string(target)})
	return nil
}

// finish makes the links, which come last: nothing is ever written through one.
func (u *unpacker) finish() error {
	for _, l := range u.links {
		if err := u.directory(path.Dir(l.name)); err != nil {
			return fmt.Errorf("link %.200q: %w", l.name, err)
		}
		if err := u.root.Symlink(l.target, l.name); err != nil {
			return fmt.Errorf("link %.200q: %w", l.name, classify("linking", err))
		}
	}
	// A target may look harmless and lead out over other links. One that leads
	// nowhere or in a circle within the tree is the function's own affair.
	for _, l := range u.links {
		if inContainer(l.target) {
			continue
		}
		_, err := u.root.Stat(l.name)
		if _, system := errors.AsType[syscall.Errno](err); err != nil && !system {
			return fmt.Errorf("link %.200q: %w", l.name, leaves(l.target))
		}
	}
	return nil
}

func leaves(target string) error { return invalid("link leaves the archive: %.200q", target) }

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// classify tells what an archive cannot have from what the host cannot do.
func classify(what string, err error) error {
	errno, system := errors.AsType[syscall.Errno](err)
	if !system {
		return invalid("%s: %v", what, err)
	}
	switch errno { //nolint:exhaustive // there are more than a hundred
	case syscall.EEXIST, syscall.ENOTDIR, syscall.EISDIR, syscall.ENAMETOOLONG, syscall.EINVAL, syscall.ELOOP, syscall.EILSEQ:
		return invalid("%s: %v", what, err)
	}
	return hostFault(what, err)
}

// hostFault is what a disk that is full or fails leads to.
func hostFault(what string, err error) error {
	var class error = errdefs.ErrUnavailable
	if diskFull(err) {
		class = errdefs.ErrResourceExhausted
	}
	return fmt.Errorf("%s: %w: %w", what, class, err)
}

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
