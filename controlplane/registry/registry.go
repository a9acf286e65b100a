// Package registry finds out which image a reference names by asking its
// registry. It pulls nothing.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Resolver asks registries, with the credentials that the Docker configuration
// of this process's user has for them. Plain HTTP is for registries on loopback
// only, as it is for agents. It may be used from everywhere at once.
type Resolver struct {
	client http.RoundTripper
}

// New returns a Resolver.
func New() *Resolver { return &Resolver{client: encrypted{remote.DefaultTransport}} }

// Resolve returns ref with its digest, without its tag: REPOSITORY@sha256:DIGEST.
// Errors: InvalidArgument when ref is no reference; NotFound when the registry
// says that there is no such image; Unavailable for everything else, missing
// credentials among it.
func (r *Resolver) Resolve(ctx context.Context, ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("resolving image %s: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	if digested, ok := named.(reference.Canonical); ok {
		return reference.TrimNamed(named).Name() + "@" + digested.Digest().String(), nil
	}
	image, err := name.ParseReference(named.String())
	if err != nil {
		return "", fmt.Errorf("resolving image %s: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	found, err := remote.Head(image, remote.WithContext(ctx), remote.WithTransport(r.client),
		remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if answer, ok := errors.AsType[*transport.Error](err); ok && answer.StatusCode == http.StatusNotFound {
		return "", fmt.Errorf("resolving image %s: %w: %w", ref, err, errdefs.ErrNotFound)
	}
	if err != nil {
		return "", fmt.Errorf("resolving image %s: %w: %w", ref, err, errdefs.ErrUnavailable)
	}
	return named.Name() + "@" + found.Digest.String(), nil
}

// encrypted refuses plain HTTP to other machines, which go-containerregistry
// would try on private networks.
type encrypted struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (e encrypted) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Hostname()
	if r.URL.Scheme == "http" && host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("plain HTTP to %s: %w", host, errdefs.ErrPermissionDenied)
	}
	return e.next.RoundTrip(r)
}
