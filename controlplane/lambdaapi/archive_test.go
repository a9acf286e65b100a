package lambdaapi_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"io/fs"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
)

// entry is one of an archive. size, unless 0, is what it claims to unpack to.
type entry struct {
	name, content string
	mode          fs.FileMode
	size          uint64
	flags         uint16
}

func archiveOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Flags: e.flags, UncompressedSize64: e.size, CompressedSize64: uint64(len(e.content))}
		h.SetMode(e.mode)
		if e.size == 0 {
			h.UncompressedSize64 = uint64(len(e.content))
		}
		w, err := z.CreateRaw(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileArchivesAreRefusedAtOnce(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil).withFunction(), context.WithoutCancel(t.Context())
	const unzip = "Could not unzip uploaded file. Please check your file, then try to upload again."
	const tooLarge = "Unzipped size must be smaller than 262144000 bytes"
	because := func(why string) string { return unzip + " The archive is refused: " + why + "." }
	link := func(name, target string) []byte {
		return archiveOf(t, entry{name: name, content: target, mode: fs.ModeSymlink | 0o777})
	}
	many := make([]entry, 100_001)
	for i := range many {
		many[i].name = "d/"
	}
	whole := archiveOf(t, entry{name: "bootstrap", content: strings.Repeat("x", 1000)})
	for name, c := range map[string]struct {
		zip     []byte
		message string
	}{
		"text":                  {[]byte("text"), unzip},
		"cut":                   {whole[:len(whole)-10], unzip},
		"nothing in it":         {archiveOf(t), "Uploaded file must be a non-empty zip"},
		"one huge file":         {archiveOf(t, entry{name: "a", size: 250<<20 + 1}), tooLarge},
		"huge files":            {archiveOf(t, entry{name: "a", size: 200 << 20}, entry{name: "b", size: 51 << 20}), tooLarge},
		"sizes that overflow":   {archiveOf(t, entry{name: "a", size: 1<<64 - 2}, entry{name: "b", size: 1<<64 - 2}), tooLarge},
		"many entries":          {archiveOf(t, many...), because("it has 100001 entries, and may have 100000")},
		"a long name":           {archiveOf(t, entry{name: strings.Repeat("x", 60000)}), because(`entry "` + strings.Repeat("x", 200) + `" has a bad name`)},
		"an absolute path":      {archiveOf(t, entry{name: "/etc/passwd"}), because(`entry "/etc/passwd" leaves the archive`)},
		"a path upwards":        {archiveOf(t, entry{name: "a/../../b"}), because(`entry "a/../../b" leaves the archive`)},
		"a backslash":           {archiveOf(t, entry{name: `a\b`}), because(`entry "a\\b" has a bad name`)},
		"no name":               {archiveOf(t, entry{name: ""}), because(`entry "" has a bad name`)},
		"a device":              {archiveOf(t, entry{name: "d", mode: fs.ModeDevice | 0o666}), because(`entry "d" is neither file, directory nor link`)},
		"a pipe":                {archiveOf(t, entry{name: "p", mode: fs.ModeNamedPipe | 0o666}), because(`entry "p" is neither file, directory nor link`)},
		"an absolute link":      {link("l", "/etc"), because(`entry "l" is a link that leaves the archive`)},
		"a link over /tmp":      {link("l", "/tmp/../etc"), because(`entry "l" is a link that leaves the archive`)},
		"a link upwards":        {link("a/l", "../../b"), because(`entry "a/l" is a link that leaves the archive`)},
		"a link to nothing":     {link("l", ""), because(`entry "l" is a link that leaves the archive`)},
		"a link of 4097 bytes":  {link("l", strings.Repeat("x", 4097)), because(`entry "l" is a link that leaves the archive`)},
		"a password":            {archiveOf(t, entry{name: "a", flags: 1}), because(`entry "a" is encrypted`)},
		"a directory out there": {archiveOf(t, entry{name: "../"}), because(`entry "../" leaves the archive`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: c.zip})
			refused(t, err, "InvalidParameterValueException", 400, c.message)
		})
	}
}

func TestATableOfContentsIsBounded(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	// The end record says where the table begins and how long it is: 17 MB here.
	content := make([]byte, 17<<20)
	one := archiveOf(t, entry{name: strings.Repeat("x", 60000)})
	header := one[bytes.Index(one, []byte("PK\x01\x02")):bytes.Index(one, []byte("PK\x05\x06"))]
	for at := 0; at+len(header) < len(content); at += len(header) {
		copy(content[at:], header)
	}
	n := len(content) / len(header)
	content = content[:n*len(header)]
	end := bytes.Clone(one[bytes.Index(one, []byte("PK\x05\x06")):])
	binary.LittleEndian.PutUint16(end[8:], uint16(n))
	binary.LittleEndian.PutUint16(end[10:], uint16(n))
	binary.LittleEndian.PutUint32(end[12:], uint32(len(content)))
	binary.LittleEndian.PutUint32(end[16:], 0)
	_, err := s.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: append(content, end...)})
	refused(t, err, "InvalidParameterValueException", 400, "Could not unzip uploaded file. Please check your file, then try to upload again. "+
		"The archive is refused: its table of contents is larger than 16777216 bytes.")
}

func TestLinksWithinAnArchiveAreTaken(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	in := archiveOf(t, entry{name: "bin/", mode: fs.ModeDir | 0o755}, entry{name: "bin/tool", content: "x", mode: fs.ModeSetuid | 0o4755},
		entry{name: "lib/a/link", content: "../../bin/tool", mode: fs.ModeSymlink | 0o777},
		entry{name: "cache", content: "/tmp/cache", mode: fs.ModeSymlink | 0o777})
	must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: in}))
}
