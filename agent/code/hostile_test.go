package code_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent/code"
)

const mebibyte = 1 << 20

// refuse acquires an archive that may unpack to 1 MiB in three entries and
// requires that it is refused for the reason given, with nothing left of it.
func refuse(t *testing.T, content []byte, reason string) {
	t.Helper()
	s := newStore()
	parent := t.TempDir()
	dir := filepath.Join(parent, "code")
	cache, err := code.New(code.Config{Dir: dir, Budget: 1 << 30, Fetcher: s, MaxUnpacked: mebibyte, MaxEntries: 3})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_, _, err = cache.Acquire(t.Context(), s.add(content))
	if !errdefs.IsInvalidArgument(err) || errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), reason) {
		t.Fatalf("got %v, want %q", err, reason)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("that took %v", took)
	}
	onlyMarker(t, dir)
	if left := tree(t, parent); len(left) != 3 {
		t.Errorf("something was written outside: %v", left)
	}
	if cache.Used() != 0 {
		t.Errorf("%d bytes are counted", cache.Used())
	}
}

func TestHostileArchivesAreRefusedAndLeaveNothing(t *testing.T) {
	t.Parallel()
	const symlink = fs.ModeSymlink | 0o777
	for name, c := range map[string]struct {
		reason string
		files  []file
	}{
		"parent":             {"leaves the archive", []file{{"../x", "", 0o644}}},
		"hidden parent":      {"leaves the archive", []file{{"a/../../x", "", 0o644}}},
		"only a parent":      {"leaves the archive", []file{{"..", "", 0o644}}},
		"absolute":           {"leaves the archive", []file{{"/etc/passwd", "", 0o644}}},
		"two slashes":        {"leaves the archive", []file{{"//x", "", 0o644}}},
		"no name":            {"bad name", []file{{"", "", 0o644}}},
		"backslash":          {"has a backslash", []file{{`..\x`, "", 0o644}}},
		"nul":                {"bad name", []file{{"a\x00b", "", 0o644}}},
		"name of 4 KiB":      {"longer than 2048 bytes", []file{{strings.Repeat("a/", 2047) + "bc", "", 0o644}}},
		"part of 300 bytes":  {"file name too long", []file{{strings.Repeat("a", 300), "", 0o644}}},
		"deep":               {"too many directories", []file{{"a/b/c/d/e", "", 0o644}}},
		"deep link":          {"too many directories", []file{{"a/b/c/d/e", "x", symlink}}},
		"absolute link":      {"link leaves the archive", []file{{"l", "/etc/passwd", symlink}}},
		"link over /tmp":     {"link leaves the archive", []file{{"l", "/tmp/../etc", symlink}}},
		"link by /tmp":       {"link leaves the archive", []file{{"t", "/tmp", symlink}, {"l", "t/x", symlink}}},
		"file by /tmp":       {"file exists", []file{{"t", "/tmp", symlink}, {"t/x", "x", 0o644}}},
		"link out":           {"link leaves the archive", []file{{"a/l", "../../x", symlink}}},
		"link out by a link": {"link leaves the archive", []file{{"a/b/l", "../..", symlink}, {"o", "a/b/l/../etc", symlink}}},
		"empty link":         {"bad link target", []file{{"l", "", symlink}}},
		"long link":          {"bad link target", []file{{"l", strings.Repeat("x", 4097), symlink}}},
		"link over a file":   {"file exists", []file{{"l", "x", 0o644}, {"l", "y", symlink}}},
		"file over a link":   {"file exists", []file{{"l", "y", symlink}, {"l", "x", 0o644}}},
		"file through link":  {"file exists", []file{{"d", "e", symlink}, {"e/", "", fs.ModeDir | 0o755}, {"d/x", "", 0o644}}},
		"link under a link":  {"file exists", []file{{"d", "e", symlink}, {"e/", "", fs.ModeDir | 0o755}, {"d/l", "x", symlink}}},
		"link twice":         {"file exists", []file{{"l", "x", symlink}, {"l", "y", symlink}}},
		"file under a file":  {"file exists", []file{{"a", "x", 0o644}, {"a/b", "y", 0o644}}},
		"file over a folder": {"is a directory", []file{{"a/b", "x", 0o644}, {"a", "y", 0o644}}},
		"folder over a file": {"file exists", []file{{"a", "x", 0o644}, {"a/", "", fs.ModeDir | 0o755}}},
		"device":             {"neither file, directory nor link", []file{{"d", "", fs.ModeDevice | fs.ModeCharDevice | 0o666}}},
		"block device":       {"neither file, directory nor link", []file{{"d", "", fs.ModeDevice | 0o666}}},
		"pipe":               {"neither file, directory nor link", []file{{"p", "", fs.ModeNamedPipe | 0o666}}},
		"socket":             {"neither file, directory nor link", []file{{"s", "", fs.ModeSocket | 0o666}}},
		"bomb":               {"more bytes than are allowed", []file{{"a", "x", 0o644}, {"b", strings.Repeat("\x00", mebibyte), 0o644}}},
		"bomb of one name":   {"more bytes than are allowed", []file{{"b", strings.Repeat("\x00", mebibyte-1), 0o644}, {"b", "xx", 0o644}}},
		"many entries":       {"has 4 entries, at most 3", []file{{"1", "", 0o644}, {"2", "", 0o644}, {"3", "", 0o644}, {"4", "", 0o644}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refuse(t, archive(t, c.files...), c.reason)
		})
	}
}

// TestLinksIntoTheContainerAreTaken as they are: frameworks link what they write
// to /tmp. Nothing on the host follows them.
func TestLinksIntoTheContainerAreTaken(t *testing.T) {
	t.Parallel()
	const symlink = fs.ModeSymlink | 0o777
	s := newStore()
	content := archive(t, file{"bootstrap", "x", 0o755}, file{"cache", "/tmp/cache", symlink}, file{"lib", "/opt/lib", symlink})
	dir, release, err := open(t, t.TempDir(), 1<<30, s).Acquire(t.Context(), s.add(content))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for name, want := range map[string]string{"cache": "/tmp/cache", "lib": "/opt/lib"} {
		if got, err := os.Readlink(filepath.Join(dir, name)); err != nil || got != want {
			t.Errorf("%s leads to %q, %v; want %q", name, got, err, want)
		}
	}
}

// raw makes a zip of one entry with a header as given.
func raw(t *testing.T, h *zip.FileHeader, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	e, err := w.CreateRaw(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestHeadersThatLieAreRefused(t *testing.T) {
	t.Parallel()
	whole := archive(t, file{"f", strings.Repeat("\x00", 4*mebibyte), 0o644})
	r, err := zip.NewReader(bytes.NewReader(whole), int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	body, err := r.File[0].OpenRaw()
	if err != nil {
		t.Fatal(err)
	}
	deflated, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		reason string
		change func(h *zip.FileHeader)
	}{
		"says it is small": {"entry", func(h *zip.FileHeader) { h.UncompressedSize64 = 10 }},
		"says it is huge":  {"more bytes than are allowed", func(h *zip.FileHeader) { h.UncompressedSize64 = 1 << 62 }},
		"says 2^64-1":      {"more bytes than are allowed", func(h *zip.FileHeader) { h.UncompressedSize64 = 1<<64 - 1 }},
		"is not deflated":  {"entry", func(h *zip.FileHeader) { h.Method, h.UncompressedSize64 = zip.Store, 100 }},
		"other method":     {"unsupported compression", func(h *zip.FileHeader) { h.Method, h.UncompressedSize64 = 93, 10 }},
		"encrypted":        {"is encrypted", func(h *zip.FileHeader) { h.Flags |= 1 }},
		"other sum":        {"entry", func(h *zip.FileHeader) { h.CRC32++; h.UncompressedSize64 = mebibyte }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := r.File[0].FileHeader
			c.change(&h)
			refuse(t, raw(t, &h, deflated), c.reason)
		})
	}
}

func TestTooManyEntriesAreRefusedByDefault(t *testing.T) {
	t.Parallel()
	const count = 100_001
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for i := range count {
		if _, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := newStore()
	dir := t.TempDir()
	_, _, err := open(t, dir, 1<<30, s).Acquire(t.Context(), s.add(buf.Bytes()))
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "100001 entries") {
		t.Errorf("got %v", err)
	}
	onlyMarker(t, dir)
}

// TestTheTableOfContentsIsBounded: comments make it as large as one likes, and
// the reader keeps all of it in memory.
func TestTheTableOfContentsIsBounded(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for i := range 300 {
		if _, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprint(i), Comment: strings.Repeat("c", 65_000)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	refuse(t, buf.Bytes(), "table of contents")
}

// TestEntriesThatShareTheirContentAreCounted: a bomb without nesting, in which
// every entry of the table of contents is about the same few bytes.
func TestEntriesThatShareTheirContentAreCounted(t *testing.T) {
	t.Parallel()
	one := archive(t, file{"f", strings.Repeat("\x00", mebibyte), 0o644})
	const endSize, copies = 22, 400 // 400 MiB
	end := one[len(one)-endSize:]
	start := binary.LittleEndian.Uint32(end[16:])
	header := one[start : len(one)-endSize]
	bomb := bytes.Clone(one[:start])
	for i := range copies {
		h := bytes.Clone(header)
		h[46] = byte('a' + i%26) // the name
		bomb = append(bomb, h...)
	}
	end = bytes.Clone(end)
	binary.LittleEndian.PutUint16(end[8:], copies)
	binary.LittleEndian.PutUint16(end[10:], copies)
	binary.LittleEndian.PutUint32(end[12:], uint32(copies*len(header)))
	bomb = append(bomb, end...)
	s := newStore()
	dir := t.TempDir()
	_, _, err := open(t, dir, 1<<30, s).Acquire(t.Context(), s.add(bomb))
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "more bytes than are allowed") {
		t.Errorf("%d bytes: got %v", len(bomb), err)
	}
	onlyMarker(t, dir)
}

func TestOddButHarmlessArchivesAreUnpacked(t *testing.T) {
	t.Parallel()
	const symlink = fs.ModeSymlink | 0o777
	deep := strings.Repeat("d/", 60) + "f"
	s := newStore()
	c := s.add(archive(t,
		file{"./", "", fs.ModeDir | 0o755},
		file{"a/../b", "b", 0o644},
		file{"Readme", "1", 0}, // no mode at all
		file{"README", "2", 0o400},
		file{"\xff\xfe latin \xe4", "3", 0o644},
		file{"line\nfeed\x1b[31m", "4", 0o644},
		file{"..a", "5", 0o644},
		file{"sticky/", "", fs.ModeDir | fs.ModeSticky | fs.ModeSetgid | 0o777},
		file{"x", "6", fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky | 0o4},
		file{"twice", "first and longer", 0o755},
		file{"twice", "second", 0o644},
		file{deep, "7", 0o001},
		file{"dangling", "nowhere", symlink},
		file{"circle", "circle", symlink},
		file{"into a file", "b/c", symlink},
		file{"sticky/up", "../d/d", symlink},
	))
	dir, release, err := open(t, t.TempDir(), 1<<30, s).Acquire(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	got := tree(t, dir)
	want := map[string]string{
		".": "drwxr-xr-x", "b": "-rw-r--r-- b", "Readme": "-rw-r--r-- 1", "README": "-rw-r--r-- 2",
		"\xff\xfe latin \xe4": "-rw-r--r-- 3", "line\nfeed\x1b[31m": "-rw-r--r-- 4", "..a": "-rw-r--r-- 5",
		"sticky": "drwxr-xr-x", "x": "-rw-r--r-- 6", "twice": "-rw-r--r-- second", deep: "-rwxr-xr-x 7",
		"dangling": "Lrwxrwxrwx nowhere", "circle": "Lrwxrwxrwx circle", "into a file": "Lrwxrwxrwx b/c",
		"sticky/up": "Lrwxrwxrwx ../d/d",
	}
	for parent := filepath.Dir(deep); parent != "."; parent = filepath.Dir(parent) {
		want[parent] = "drwxr-xr-x"
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}
