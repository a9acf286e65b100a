package lambdaapi

import (
	"archive/zip"
	"bytes"
	"math"
)

// Bounds of an archive, AWS's.
const (
	maxZip      = 50 << 20
	maxUnzipped = 250 << 20
)

// checkArchive checks what the directory of an archive shows.
func checkArchive(content []byte) error {
	r, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return invalidParameter("Could not unzip uploaded file. Please check your file, then try to upload again.")
	}
	var size uint64
	for _, f := range r.File {
		if f.UncompressedSize64 > math.MaxUint64-size {
			size = math.MaxUint64
			break
		}
		size += f.UncompressedSize64
	}
	if size > maxUnzipped {
		return invalidParameter("Unzipped size must be smaller than %d bytes", maxUnzipped)
	}
	return nil
}
