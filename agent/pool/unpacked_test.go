package pool

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/sandbox"
)

func layered() agent.Assignment {
	return agent.Assignment{Code: agent.Code{SHA256: "code"}, Layers: []agent.Code{{SHA256: "one"}, {SHA256: "two"}}}
}

func TestLayersAreMountedAtOpt(t *testing.T) {
	t.Parallel()
	b := zip()
	b.layerDir = "/data/code/layers-1"
	want := []sandbox.Mount{{Source: "/data/code/abc", Target: "/var/task"}, {Source: "/data/code/layers-1", Target: "/opt"}}
	if diff := cmp.Diff(want, b.spec().Mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
}

func TestCodeAndLayersAreHeldTogether(t *testing.T) {
	t.Parallel()
	code := shelf{}
	p := &Pool{cfg: Config{Code: code}}
	dirs, release, err := p.unpack(t.Context(), layered())
	if err != nil || dirs != (unpacked{"/code/code", "/code/one+two"}) {
		t.Errorf("unpacked to %+v, %v", dirs, err)
	}
	kept := p.keepUnpacked(layered())
	release()
	want := map[string]int{"code": 1, "one+two": 1}
	if diff := cmp.Diff(want, map[string]int(code)); diff != "" {
		t.Errorf("held for a sandbox that was adopted (-want +got):\n%s", diff)
	}
	kept()
	if diff := cmp.Diff(map[string]int{"code": 0, "one+two": 0}, map[string]int(code)); diff != "" {
		t.Errorf("held in the end (-want +got):\n%s", diff)
	}
}

func TestCodeIsGivenBackWhenItsLayersCannotBeHad(t *testing.T) {
	t.Parallel()
	code := shelf{}
	p := &Pool{cfg: Config{Code: layersFail{code}}}
	_, release, err := p.unpack(t.Context(), layered())
	if err == nil {
		t.Error("no error")
	}
	release()
	if code["code"] != 0 {
		t.Errorf("held %d times", code["code"])
	}
}

// layersFail has code and no layers.
type layersFail struct{ shelf }

func (layersFail) AcquireLayers(context.Context, []agent.Code) (string, func(), error) {
	return "", nil, errdefs.ErrUnavailable
}

// shelf counts who holds what.
type shelf map[string]int

func (s shelf) take(name string) (dir string, release func()) {
	s[name]++
	return "/code/" + name, func() { s[name]-- }
}

func (s shelf) Acquire(_ context.Context, code agent.Code) (string, func(), error) {
	dir, release := s.take(code.SHA256)
	return dir, release, nil
}

func (s shelf) Hold(sha string) (func(), bool) {
	_, release := s.take(sha)
	return release, true
}

func (s shelf) AcquireLayers(_ context.Context, layers []agent.Code) (string, func(), error) {
	dir, release := s.take(layers[0].SHA256 + "+" + layers[1].SHA256)
	return dir, release, nil
}

func (s shelf) HoldLayers(layers []agent.Code) (func(), bool) {
	_, release, err := s.AcquireLayers(context.Background(), layers)
	return release, err == nil
}
