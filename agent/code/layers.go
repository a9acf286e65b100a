package code

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hearth-compute/hearth/agent"
)

// AcquireLayers returns a directory with the files of all layers, of two with
// one name that of the later layer, and holds it there until release is called,
// once. There is at least one layer. Errors: those of Acquire.
func (c *Cache) AcquireLayers(ctx context.Context, layers []agent.Code) (dir string, release func(), err error) {
	if len(layers) == 1 {
		return c.Acquire(ctx, layers[0])
	}
	return c.acquire(ctx, nameOf(layers), func(_, tree string) (agent.Bytes, error) { return c.merge(ctx, layers, tree) })
}

// HoldLayers is AcquireLayers for layers that are already there; it reports
// whether they are.
func (c *Cache) HoldLayers(layers []agent.Code) (release func(), ok bool) {
	if len(layers) == 1 {
		return c.Hold(layers[0].SHA256)
	}
	return c.Hold(nameOf(layers))
}

// nameOf names the tree of a list of layers.
func nameOf(layers []agent.Code) string {
	h := sha256.New()
	for _, l := range layers {
		_, _ = fmt.Fprintln(h, l.SHA256) // never fails
	}
	return layersPrefix + hex.EncodeToString(h.Sum(nil))
}

// merge makes tree of the layers, which it holds meanwhile.
func (c *Cache) merge(ctx context.Context, layers []agent.Code, tree string) (agent.Bytes, error) {
	if err := mkdir(tree); err != nil {
		return 0, fmt.Errorf("merging layers: %w", hostFault("making a directory", err))
	}
	for _, l := range layers {
		if err := c.lay(ctx, l, tree); err != nil {
			return 0, errors.Join(err, c.makeRoom(err))
		}
	}
	size, err := treeSize(tree)
	if err != nil {
		return 0, fmt.Errorf("measuring merged layers: %w", hostFault("reading", err))
	}
	return size, nil
}

// lay links the files of one layer into tree.
func (c *Cache) lay(ctx context.Context, layer agent.Code, tree string) error {
	dir, release, err := c.Acquire(ctx, layer)
	if err != nil {
		return err
	}
	defer release()
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return put(path, filepath.Join(tree, name), d)
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("merging layer %s: %w", layer.SHA256, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("merging layer %s: %w", layer.SHA256, hostFault("linking", err))
	}
	return nil
}

// put makes to what from, an entry of a layer, is, instead of what an earlier
// layer has there; two directories become one. The parent of to is a directory
// that this merge made: no link of any layer is followed.
func put(from, to string, d fs.DirEntry) error {
	there, err := os.Lstat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case d.IsDir() && there.IsDir():
		return nil
	default:
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	if d.IsDir() {
		return mkdir(to)
	}
	return os.Link(from, to) // of a symbolic link, the link
}

// mkdir makes a directory that functions can read, whatever the umask.
func mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // functions read it under their own user
		return err
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // the umask may have taken bits
}
