package pool

import (
	"context"

	"github.com/hearth-compute/hearth/agent"
)

// layerRoot is where a function finds its layers, merged.
const layerRoot = "/opt"

// unpacked is where the code of an assignment and its layers lie on the host;
// empty means that there are none.
type unpacked struct{ codeDir, layerDir string }

// unpack makes code and layers available. release gives both back, also after
// an error.
func (p *Pool) unpack(ctx context.Context, a agent.Assignment) (dirs unpacked, release func(), err error) {
	var taken []func()
	release = func() {
		for _, r := range taken {
			r()
		}
	}
	if a.Code != (agent.Code{}) {
		dir, r, err := p.cfg.Code.Acquire(ctx, a.Code)
		if err != nil {
			return dirs, release, codeError(err)
		}
		dirs.codeDir, taken = dir, append(taken, r)
	}
	if len(a.Layers) > 0 {
		dir, r, err := p.cfg.Code.AcquireLayers(ctx, a.Layers)
		if err != nil {
			return dirs, release, codeError(err)
		}
		dirs.layerDir, taken = dir, append(taken, r)
	}
	return dirs, release, nil
}

// keepUnpacked holds what a sandbox that was adopted has mounted.
func (p *Pool) keepUnpacked(a agent.Assignment) (release func()) {
	var taken []func()
	if r, ok := p.cfg.Code.Hold(a.Code.SHA256); ok {
		taken = append(taken, r)
	}
	if len(a.Layers) > 0 {
		if r, ok := p.cfg.Code.HoldLayers(a.Layers); ok {
			taken = append(taken, r)
		}
	}
	return func() {
		for _, r := range taken {
			r()
		}
	}
}
