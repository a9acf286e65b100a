// Package artifact keeps code archives, named by their SHA-256, in a bucket of
// gocloud.dev/blob: a directory by default.
//
// # Invariants
//
//  1. What Open returns is what some Put was given, whole, or an error.
//  2. In a directory, what Put returned nil for survives a crash of the machine.
//  3. Sweep leaves what was Put since the time it is given, again or for the
//     first time: who puts an archive has until then to write down its name.
//     For what this process Put that holds whatever the wall clock does.
package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"
)

// Store keeps archives. Its methods may be called from everywhere at once.
type Store struct {
	bucket *blob.Bucket
	// persist makes the object of that name survive a crash of the machine; nil
	// when the bucket does so itself.
	persist func(name string) error
	names   turns
	recent  recent
}

// New returns a store in bucket, which Close closes.
func New(bucket *blob.Bucket) *Store { return &Store{bucket: bucket} }

// OpenDir returns a store in the directory dir, made with mode 0700 if there is
// none. Files are for their owner only. Errors: Unavailable.
func OpenDir(dir string) (*Store, error) {
	bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{
		CreateDir:   true,
		DirFileMode: 0o700,
		NoTempDir:   true, // rename must not cross file systems
		Metadata:    fileblob.MetadataDontWrite,
	})
	if err != nil {
		return nil, fmt.Errorf("opening artifact directory %s: %w: %w", dir, err, errdefs.ErrUnavailable)
	}
	return &Store{bucket: bucket, persist: func(name string) error {
		// The file, then the directory that names it.
		file := filepath.Join(dir, name)
		return errors.Join(os.Chmod(file, 0o600), fsync(file), fsync(dir))
	}}, nil
}

// Put keeps content and returns its name, the SHA-256 in lower-case
// hexadecimal, and its size. It is atomic, and safe to repeat. Errors:
// Unavailable.
func (s *Store) Put(ctx context.Context, content []byte) (sha string, size int64, err error) {
	sum := sha256.Sum256(content)
	sha = hex.EncodeToString(sum[:])
	done, err := s.names.take(ctx, sha)
	if err != nil {
		return "", 0, err
	}
	defer done()
	if err := s.write(ctx, sha, content); err != nil {
		return "", 0, classify("writing", sha, err)
	}
	if s.persist != nil {
		if err := s.persist(sha); err != nil {
			return "", 0, fmt.Errorf("writing artifact %s: %w: %w", sha, err, errdefs.ErrUnavailable)
		}
	}
	s.recent.add(sha, time.Now())
	return sha, int64(len(content)), nil
}

// write is bucket.WriteAll, which after an error of writing, such as a full
// disk, keeps what was written by then as if it were the whole.
func (s *Store) write(ctx context.Context, sha string, content []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errWritten)
	w, err := s.bucket.NewWriter(ctx, sha, &blob.WriterOptions{
		ContentType: "application/zip", DisableContentTypeDetection: true,
	})
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		cancel(err)
		_ = w.Close() // drops it, because ctx has ended
		return err
	}
	return w.Close()
}

var errWritten = errors.New("writing has ended")

// Open returns the content of that name, which the caller closes. Errors:
// InvalidArgument when sha is no SHA-256; NotFound; Unavailable.
func (s *Store) Open(ctx context.Context, sha string) (io.ReadCloser, error) {
	if err := valid(sha); err != nil {
		return nil, err
	}
	r, err := s.bucket.NewReader(ctx, sha, nil)
	if err != nil {
		return nil, classify("opening", sha, err)
	}
	return r, nil
}

// Delete removes the content of that name; it is no error if there is none.
// Errors: InvalidArgument when sha is no SHA-256; Unavailable.
func (s *Store) Delete(ctx context.Context, sha string) error {
	if err := valid(sha); err != nil {
		return err
	}
	if err := classify("deleting", sha, s.bucket.Delete(ctx, sha)); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// Close releases the bucket.
func (s *Store) Close() error {
	if err := s.bucket.Close(); err != nil {
		return fmt.Errorf("closing the artifact bucket: %w: %w", err, errdefs.ErrUnavailable)
	}
	return nil
}

// valid keeps names that are no digest, such as paths, away from the bucket.
func valid(sha string) error {
	digits, err := hex.DecodeString(sha)
	if err != nil || len(digits) != sha256.Size || hex.EncodeToString(digits) != sha {
		return fmt.Errorf("artifact %q: not a SHA-256 in lower-case hexadecimal: %w", sha, errdefs.ErrInvalidArgument)
	}
	return nil
}

func classify(doing, sha string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s artifact %s: %w", doing, sha, err)
	case gcerrors.Code(err) == gcerrors.NotFound:
		return fmt.Errorf("%s artifact %s: %w", doing, sha, errdefs.ErrNotFound)
	}
	return fmt.Errorf("%s artifact %s: %w: %w", doing, sha, err, errdefs.ErrUnavailable)
}

func fsync(path string) error {
	f, err := os.Open(path) //nolint:gosec // the store's own directory and a digest
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
