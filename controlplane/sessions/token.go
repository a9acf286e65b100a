package sessions

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// tokenPrefix begins every join token: "hearth1.ID.SECRET.CAHASH".
const tokenPrefix = "hearth1"

// MaxTokenLifetime bounds how long a join token may be good for.
const MaxTokenLifetime = 30 * 24 * time.Hour

// Tokens makes join tokens and exchanges them for identities.
type Tokens struct {
	db store.DB
	ca *CA
	// fleet is recorded with instances that join by themselves.
	fleet string
}

// NewTokens returns the tokens kept in db. fleet is the name recorded with
// instances that join by themselves.
func NewTokens(db store.DB, ca *CA, fleet string) *Tokens {
	return &Tokens{db: db, ca: ca, fleet: fleet}
}

// Mint makes a token, good once, for one instance of a provider: id if we
// launch it ourselves, empty for a host that joins. Errors: InvalidArgument
// (lifetime), NotFound (provider).
func (t *Tokens) Mint(ctx context.Context, p controlplane.ProviderName, id controlplane.InstanceID, lifetime time.Duration, now time.Time) (string, time.Time, error) {
	if lifetime <= 0 || lifetime > MaxTokenLifetime {
		return "", time.Time{}, fmt.Errorf("join token: lifetime %v is not between 0 and %v: %w", lifetime, MaxTokenLifetime, errdefs.ErrInvalidArgument)
	}
	tokenID, secret := rand.Text()[:12], rand.Text()
	hash := sha256.Sum256([]byte(secret))
	expires := now.Add(lifetime)
	err := t.db.Update(ctx, func(w store.Writer) error {
		if _, err := w.Provider(p); err != nil {
			return err
		}
		if err := purge(w, now); err != nil {
			return err
		}
		return w.PutJoinToken(store.JoinToken{
			ID: tokenID, SecretHash: hash[:], Provider: p, Instance: id, Expires: expires,
		})
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("join token for %s: %w", p, err)
	}
	return strings.Join([]string{tokenPrefix, tokenID, secret, t.ca.Hash()}, "."), expires, nil
}

// purge deletes the tokens that expired, so that they do not pile up: every
// attempt to launch an instance makes one.
func purge(w store.Writer, now time.Time) error {
	all, err := w.JoinTokens()
	if err != nil {
		return err
	}
	for _, t := range all {
		if !now.After(t.Expires) {
			continue
		}
		if err := w.DeleteJoinToken(t.ID); err != nil {
			return err
		}
	}
	return nil
}

// identity is who a token stands for.
type identity struct {
	instance controlplane.InstanceID
	provider controlplane.ProviderName
}

// redeem exchanges a token for the identity it stands for. key is the SHA-256 of
// the public key in the request: only who used the token first, with the same
// key, may use it again, so that a lost answer does not cost the instance.
func (t *Tokens) redeem(ctx context.Context, token string, key []byte, now time.Time) (identity, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 4 || parts[0] != tokenPrefix {
		return identity{}, fmt.Errorf("join token is malformed: %w", errdefs.ErrUnauthenticated)
	}
	hash := sha256.Sum256([]byte(parts[2]))
	var who identity
	err := t.db.Update(ctx, func(w store.Writer) error {
		tok, err := w.JoinToken(parts[1])
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if err := acceptable(tok, hash[:], key, now); err != nil {
			return err
		}
		if tok.Instance == "" && tok.UsedBy == "" {
			tok.Instance = newInstanceID()
			if err := w.PutInstance(controlplane.Instance{
				ID: tok.Instance, Provider: tok.Provider, State: controlplane.InstanceLaunching,
				Fleet: t.fleet, CreatedAt: now,
			}); err != nil {
				return err
			}
		}
		tok.UsedBy, tok.UsedKey = tok.Instance, key
		who = identity{instance: tok.Instance, provider: tok.Provider}
		return w.PutJoinToken(tok)
	})
	return who, err
}

// acceptable tells whether tok, zero if there is none, is good for who shows the
// secret and the key with these hashes.
func acceptable(tok store.JoinToken, secret, key []byte, now time.Time) error {
	switch {
	case tok.ID == "" || subtle.ConstantTimeCompare(tok.SecretHash, secret) != 1:
		return fmt.Errorf("join token is unknown: %w", errdefs.ErrUnauthenticated)
	case now.After(tok.Expires):
		return fmt.Errorf("join token %s expired: %w", tok.ID, errdefs.ErrUnauthenticated)
	case tok.UsedBy != "" && !bytes.Equal(tok.UsedKey, key):
		return fmt.Errorf("join token %s was used by another host: %w", tok.ID, errdefs.ErrUnauthenticated)
	}
	return nil
}

// known fails with NotFound unless the instance is one of ours: a certificate
// outlives the instance it was made for.
func (t *Tokens) known(ctx context.Context, id controlplane.InstanceID) error {
	err := t.db.View(ctx, func(r store.Reader) error {
		_, err := r.Instance(id)
		return err
	})
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("instance %s no longer exists; remove its identity and join with a new token: %w", id, errdefs.ErrNotFound)
	}
	return err
}

func newInstanceID() controlplane.InstanceID {
	var b [9]byte
	_, _ = rand.Read(b[:]) // never fails
	return controlplane.InstanceID("i-" + hex.EncodeToString(b[:])[:17])
}
