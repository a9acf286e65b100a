package daemon

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/hearth-compute/hearth/agent"
)

// withCredentials adds what the host knows about the image's registry: the
// Docker or Podman configuration of the user the agent runs as, as "docker
// login" writes it (DOCKER_CONFIG, ~/.docker/config.json,
// XDG_RUNTIME_DIR/containers/auth.json), credential helpers included. What came
// with the assignment wins. Errors: InvalidArgument (reference), Unauthenticated
// (the configuration cannot be read).
func withCredentials(image agent.Image) (agent.Image, error) {
	if image.Username != "" || image.Password != "" || strings.HasPrefix(image.Ref, "builtin:") || strings.HasPrefix(image.Ref, "oci-archive:") {
		return image, nil
	}
	ref, err := name.ParseReference(image.Ref)
	if err != nil {
		return image, fmt.Errorf("image %q: %w: %w", image.Ref, err, errdefs.ErrInvalidArgument)
	}
	found, err := authn.DefaultKeychain.Resolve(ref.Context())
	if err != nil {
		return image, fmt.Errorf("credentials for %s: %w: %w", ref.Context().RegistryStr(), err, errdefs.ErrUnauthenticated)
	}
	auth, err := found.Authorization()
	if err != nil {
		return image, fmt.Errorf("credentials for %s: %w: %w", ref.Context().RegistryStr(), err, errdefs.ErrUnauthenticated)
	}
	image.Username, image.Password = auth.Username, auth.Password
	return image, nil
}
