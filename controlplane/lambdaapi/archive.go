package lambdaapi

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"path/filepath"
	"strings"
)

// Bounds of an archive, AWS's, and then those of the agents, which unpack it.
const (
	maxZip      = 50 << 20
	maxUnzipped = 250 << 20

	maxFiles     = 100_000
	maxDirectory = 16 << 20 // of the table of contents
	maxEntryName = 2048
	maxLink      = 4096 // of the target of one link
	maxLinks     = 8 << 20
	encrypted    = 1 // the flag of an entry
)

// checkArchive refuses at once what agents would refuse to unpack, as far as
// the archive's table of contents and its links show it. It returns how many
// bytes the archive says it unpacks to.
func checkArchive(content []byte) (unpacked int64, err error) {
	d := &directory{r: bytes.NewReader(content), left: maxDirectory}
	r, err := zip.NewReader(d, int64(len(content)))
	switch {
	case d.left < 0:
		return 0, unzippable("its table of contents is larger than %d bytes", maxDirectory)
	case err != nil:
		return 0, invalidParameter(unzipMessage)
	case len(r.File) == 0:
		return 0, invalidParameter("Uploaded file must be a non-empty zip")
	case len(r.File) > maxFiles:
		return 0, unzippable("it has %d entries, and may have %d", len(r.File), maxFiles)
	}
	d.left = math.MaxInt // from here on links are read
	var size uint64
	links := 0
	for _, f := range r.File {
		if f.UncompressedSize64 > maxUnzipped-size {
			return 0, invalidParameter("Unzipped size must be smaller than %d bytes", maxUnzipped)
		}
		size += f.UncompressedSize64
		target, err := checkEntry(f)
		if err != nil {
			return 0, err
		}
		if links += target; links > maxLinks {
			return 0, unzippable("its links have more than %d bytes", maxLinks)
		}
	}
	return int64(size), nil
}

const unzipMessage = "Could not unzip uploaded file. Please check your file, then try to upload again."

// unzippable is AWS's error with what the matter is.
func unzippable(format string, args ...any) error {
	return invalidParameter("%s The archive is refused: %s.", unzipMessage, fmt.Sprintf(format, args...))
}

// directory bounds what is read of an archive to find its entries: each takes
// several times its size of memory.
type directory struct {
	r    *bytes.Reader
	left int
}

// ReadAt implements io.ReaderAt.
func (d *directory) ReadAt(p []byte, off int64) (int, error) {
	if d.left >= 0 {
		d.left -= len(p)
	}
	if d.left < 0 {
		return 0, zip.ErrFormat
	}
	return d.r.ReadAt(p, off)
}

// checkEntry wants a directory, a file, or a link that stays within the
// archive. It returns the length of the link's target.
func checkEntry(f *zip.File) (target int, err error) {
	name := strings.TrimSuffix(f.Name, "/")
	refused := func(why string) (int, error) { return 0, unzippable("entry %.200q %s", f.Name, why) }
	switch mode := f.Mode(); {
	case name == "" || strings.ContainsAny(name, "\x00\\") || len(name) > maxEntryName:
		return refused("has a bad name")
	case !filepath.IsLocal(name):
		return refused("leaves the archive")
	case f.Flags&encrypted != 0:
		return refused("is encrypted")
	case mode.IsDir(), mode.IsRegular():
		return 0, nil
	case mode&fs.ModeSymlink == 0:
		return refused("is neither file, directory nor link")
	}
	link, err := readLink(f)
	if err != nil {
		return 0, invalidParameter(unzipMessage)
	}
	if !stays(name, link) {
		return refused("is a link that leaves the archive")
	}
	return len(link), nil
}

// stays reports whether a link leads to what may be in the archive, unless it
// does so over other links, or to where a function has files while it runs.
func stays(name, target string) bool {
	switch {
	case target == "" || len(target) > maxLink || strings.ContainsRune(target, 0):
		return false
	case path.IsAbs(target):
		clean := path.Clean(target) + "/"
		return strings.HasPrefix(clean, "/tmp/") || strings.HasPrefix(clean, "/opt/") || strings.HasPrefix(clean, "/var/task/")
	}
	return filepath.IsLocal(path.Join(path.Dir(name), target))
}

func readLink(f *zip.File) (string, error) {
	r, err := f.Open()
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }() // it was read
	text, err := io.ReadAll(io.LimitReader(r, maxLink+1))
	return string(text), err
}
