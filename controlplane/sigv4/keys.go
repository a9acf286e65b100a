package sigv4

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// reloadInterval is how soon a changed file counts.
	reloadInterval = 5 * time.Second
	// maxFile bounds the file of keys.
	maxFile = 1 << 20
	// minSecret is the shortest secret, AWS's have 40 characters.
	minSecret = 16
	maxID     = 128
)

// Keys are the access keys of a file, which belong to one Verifier. The file has
// the form of ~/.aws/credentials: sections with a name each, of who the key is
// for, and in them aws_access_key_id, aws_secret_access_key and perhaps
// aws_session_token, which requests must then have too. Other settings mean
// nothing.
type Keys struct {
	path string
	log  *slog.Logger
	all  atomic.Pointer[map[string]*key]
	// read is what was read last; it belongs to Run.
	read []byte
}

// OpenKeys reads the file at path. Errors: InvalidArgument when it is not as it
// should be; Unavailable when it cannot be read.
func OpenKeys(path string, log *slog.Logger) (*Keys, error) {
	k := &Keys{path: path, log: log}
	content, err := k.content()
	if err != nil {
		return nil, err
	}
	return k, k.set(content)
}

// Run reads the file again whenever it changes, until ctx is cancelled. A file
// that is not as it should be changes nothing.
func (k *Keys) Run(ctx context.Context) error {
	tick := time.NewTicker(reloadInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			k.reload(ctx)
		}
	}
}

func (k *Keys) reload(ctx context.Context) {
	content, err := k.content()
	switch {
	case err != nil:
		k.log.WarnContext(ctx, "access keys cannot be read again, the ones before count", "err", err)
		return
	case bytes.Equal(content, k.read):
		return
	}
	if err := k.set(content); err != nil {
		k.log.WarnContext(ctx, "changed access keys are not used, the ones before count", "err", err)
		return
	}
	k.log.InfoContext(ctx, "access keys have changed", "keys", len(*k.all.Load()))
}

func (k *Keys) content() ([]byte, error) {
	f, err := os.Open(k.path)
	if err != nil {
		return nil, fmt.Errorf("reading access keys: %w: %w", err, errdefs.ErrUnavailable)
	}
	defer func() { _ = f.Close() }() // it was read
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading access keys: %w: %w", err, errdefs.ErrUnavailable)
	case len(content) > maxFile:
		return nil, fmt.Errorf("access keys %s: more than %d bytes: %w", k.path, maxFile, errdefs.ErrInvalidArgument)
	}
	return content, nil
}

// set makes content count, which it remembers even if it cannot: it is said once.
func (k *Keys) set(content []byte) error {
	k.read = content
	all, err := parse(content)
	if err != nil {
		return fmt.Errorf("access keys %s: %w: %w", k.path, err, errdefs.ErrInvalidArgument)
	}
	k.all.Store(&all)
	return nil
}

// find returns the key of that id, nil if there is none.
func (k *Keys) find(id string) *key { return (*k.all.Load())[id] }

// First is the key whose id comes first, for a service that calls itself.
func (k *Keys) First() (id, secret, token string) {
	all := *k.all.Load()
	first := all[slices.Min(slices.Collect(maps.Keys(all)))]
	return first.id, first.secret, first.token
}

// parse reads the sections of a file. Its errors repeat no secret.
func parse(content []byte) (map[string]*key, error) {
	all, current := map[string]*key{}, &key{}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
			continue
		case line[0] == '[':
			if err := add(all, current); err != nil {
				return nil, err
			}
			current = &key{name: strings.TrimSpace(strings.Trim(line, "[]"))}
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d is neither a [section] nor NAME = VALUE", n)
		}
		current.set(strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value))
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if err := add(all, current); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("there is no key")
	}
	return all, nil
}

// set makes a setting of a section count, if it is one of ours.
func (k *key) set(name, value string) {
	switch name {
	case "aws_access_key_id":
		k.id = value
	case "aws_secret_access_key":
		k.secret = value
	case "aws_session_token":
		k.token = value
	}
}

// add adds what a section says. A section without a key is none of ours.
func add(all map[string]*key, k *key) error {
	switch {
	case k.id == "" && k.secret == "":
		return nil
	case k.id == "" || len(k.id) > maxID || strings.ContainsAny(k.id, "/ \t,"):
		return fmt.Errorf("section %q: aws_access_key_id is missing or strange", k.name)
	case len(k.secret) < minSecret:
		return fmt.Errorf("section %q: aws_secret_access_key has fewer than %d characters", k.name, minSecret)
	case all[k.id] != nil:
		return fmt.Errorf("section %q: the key of section %q again", k.name, all[k.id].name)
	}
	all[k.id] = k
	return nil
}
