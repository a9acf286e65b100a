//go:build node

package sqlite

import "context"

// OpenUnsynced is Open without waiting for the disk at commits.
func OpenUnsynced(ctx context.Context, path string) (*DB, error) { return open(ctx, path, "OFF") }
