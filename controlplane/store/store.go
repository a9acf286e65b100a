// Package store keeps what users asked for: capacity providers, functions,
// versions, layers, the instances asked of a fleet, join tokens and the leadership
// epoch. [DB] is the seam; sqlite is the default driver. The suite in storetest
// holds for every driver.
//
// # Invariants
//
//  1. What Update returned nil for survives a crash of the process and of the
//     machine.
//  2. An Update whose function fails, or whose commit fails, changed nothing.
//  3. View sees every Update that returned before it began.
//
// # Concurrency
//
// Updates that arrive together share one commit; each still succeeds or fails
// alone. Functions given to View and Update must not call the store again.
package store

import (
	"context"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
)

// DB is a durable store. Errors carry a class of containerd/errdefs.
type DB interface {
	// View runs fn on a consistent state. Errors: those of fn; Unavailable.
	View(ctx context.Context, fn func(Reader) error) error
	// Update runs fn and commits what it wrote, durably, before it returns. fn
	// may be run more than once and must have no other effect. Errors: those of
	// fn; Unavailable (nothing was written), Internal.
	Update(ctx context.Context, fn func(Writer) error) error
	// Close waits for running calls and releases the files.
	Close() error
}

// Reader reads one consistent state. Getters fail with NotFound; lists are
// ordered by name, number or id and never nil-checked: empty is empty.
type Reader interface {
	Provider(controlplane.ProviderName) (controlplane.CapacityProvider, error)
	Providers() ([]controlplane.CapacityProvider, error)
	Function(controlplane.FunctionName) (controlplane.Function, error)
	Functions() ([]controlplane.Function, error)
	Version(controlplane.FunctionName, controlplane.Qualifier) (controlplane.Version, error)
	// Versions lists the versions of a function except $LATEST: numbers
	// ascending, then $LATEST.PUBLISHED. An empty name means of all functions.
	Versions(controlplane.FunctionName) ([]controlplane.Version, error)
	Alias(controlplane.FunctionName, controlplane.Qualifier) (controlplane.Alias, error)
	// Aliases lists the aliases of a function by name; an empty name means of all
	// functions.
	Aliases(controlplane.FunctionName) ([]controlplane.Alias, error)
	Layer(controlplane.LayerName) (controlplane.Layer, error)
	Layers() ([]controlplane.Layer, error)
	LayerVersion(controlplane.LayerName, int64) (controlplane.LayerVersion, error)
	// LayerVersions lists the versions of a layer, numbers ascending; an empty name
	// means of all layers.
	LayerVersions(controlplane.LayerName) ([]controlplane.LayerVersion, error)
	Instance(controlplane.InstanceID) (controlplane.Instance, error)
	Instances() ([]controlplane.Instance, error)
	JoinToken(id string) (JoinToken, error)
	JoinTokens() ([]JoinToken, error)
	// Epoch is the last leadership term, 0 if there was none.
	Epoch() (uint64, error)
}

// Writer also writes. Puts insert or replace; deletes of what is not there do
// nothing.
type Writer interface {
	Reader
	PutProvider(controlplane.CapacityProvider) error
	DeleteProvider(controlplane.ProviderName) error
	PutFunction(controlplane.Function) error
	// DeleteFunction deletes the function, its versions and its aliases.
	DeleteFunction(controlplane.FunctionName) error
	PutVersion(controlplane.Version) error
	DeleteVersion(controlplane.FunctionName, controlplane.Qualifier) error
	PutAlias(controlplane.Alias) error
	DeleteAlias(controlplane.FunctionName, controlplane.Qualifier) error
	PutLayer(controlplane.Layer) error
	PutLayerVersion(controlplane.LayerVersion) error
	DeleteLayerVersion(controlplane.LayerName, int64) error
	PutInstance(controlplane.Instance) error
	DeleteInstance(controlplane.InstanceID) error
	PutJoinToken(JoinToken) error
	DeleteJoinToken(id string) error
	// NextEpoch begins a leadership term and returns it.
	NextEpoch() (uint64, error)
}

// JoinToken is a token an agent may exchange for a certificate, once.
type JoinToken struct {
	ID string
	// SecretHash is the SHA-256 of the secret; the secret itself is not kept.
	SecretHash []byte
	Provider   controlplane.ProviderName
	// Instance is set for instances we launched; empty means a new one joins.
	Instance controlplane.InstanceID
	Expires  time.Time
	// UsedBy is the instance that used it; a repeated join of the same instance
	// with the same token is allowed until it expires, so that a lost answer
	// does not cost the instance.
	UsedBy controlplane.InstanceID
	// UsedKey is the SHA-256 of the public key it was used with: only a request
	// with the same key may use it again.
	UsedKey []byte
}
