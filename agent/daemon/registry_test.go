package daemon

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
)

// TestCredentialsComeFromTheHostsDockerConfiguration, unless the assignment
// brought some.
func TestCredentialsComeFromTheHostsDockerConfiguration(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	config := fmt.Sprintf(`{"auths":{"registry.example.com":{"auth":%q}}}`, base64.StdEncoding.EncodeToString([]byte("me:secret")))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		image      agent.Image
		user, pass string
	}{
		{agent.Image{Ref: "registry.example.com/a/b:1"}, "me", "secret"},
		{agent.Image{Ref: "registry.example.com/a/b:1", Username: "you", Password: "x"}, "you", "x"},
		{agent.Image{Ref: "other.example.com/a/b:1"}, "", ""},
		{agent.Image{Ref: "builtin:static"}, "", ""},
		{agent.Image{Ref: "oci-archive:/tmp/x.tar"}, "", ""},
	} {
		got, err := withCredentials(c.image)
		if err != nil || got.Username != c.user || got.Password != c.pass || got.Ref != c.image.Ref {
			t.Errorf("%s: got %+v, %v; want user %q", c.image.Ref, got, err, c.user)
		}
	}
	if _, err := withCredentials(agent.Image{Ref: "Not A Reference"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}
