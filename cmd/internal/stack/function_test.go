package stack

import (
	"archive/zip"
	"bytes"
	"testing"
)

func TestTheArchiveHoldsAnExecutable(t *testing.T) {
	archive, err := Zip("bootstrap", []byte("code"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.File) != 1 || r.File[0].Name != "bootstrap" || r.File[0].Mode().Perm() != 0o755 {
		t.Errorf("archive holds %+v, want one executable bootstrap", r.File)
	}
}
