package code

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"os"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
)

// fetch downloads an archive into path and checks that it is the one asked for.
func (c *Cache) fetch(ctx context.Context, code agent.Code, path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // our own directory
	if err != nil {
		return fmt.Errorf("fetching code %s: %w", code.SHA256, hostFault("creating a file", err))
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("fetching code %s: %w", code.SHA256, hostFault("writing", cerr))
		}
	}()
	w := &checker{file: f, hash: sha256.New(), left: int64(code.Size)}
	err = c.cfg.Fetcher.Fetch(ctx, code.SHA256, w)
	switch {
	case w.fault != nil: // whatever the fetcher made of it
		return fmt.Errorf("fetching code %s: %w", code.SHA256, w.fault)
	case err != nil:
		return fmt.Errorf("fetching code %s: %w", code.SHA256, err)
	}
	if w.left != 0 {
		return fmt.Errorf("fetching code %s: %d of %d bytes missing: %w", code.SHA256, w.left, code.Size, errdefs.ErrInvalidArgument)
	}
	if got := hex.EncodeToString(w.hash.Sum(nil)); got != code.SHA256 {
		return fmt.Errorf("fetching code %s: content has sha-256 %s: %w", code.SHA256, got, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checker writes to a file what it hashes, up to the expected size.
type checker struct {
	file *os.File
	hash hash.Hash
	left int64
	// fault is the first error of Write.
	fault error
}

// Write implements io.Writer.
func (c *checker) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		c.fault = fmt.Errorf("archive is longer than announced: %w", errdefs.ErrInvalidArgument)
		return 0, c.fault
	}
	n, err := c.file.Write(p)
	c.left -= int64(n)
	_, _ = c.hash.Write(p[:n]) // never fails
	if err != nil {
		c.fault = hostFault("writing", err)
	}
	return n, c.fault
}
