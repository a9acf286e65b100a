package server

import (
	"context"
	"time"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

const (
	// sweepInterval is how often code nobody uses is removed.
	sweepInterval = time.Hour
	// sweepGrace is how long code stays that nobody uses yet, or any more: much
	// longer than a request takes from keeping code to naming it. The wall clock
	// may jump by more: the artifacts know what this process has kept.
	sweepGrace = time.Hour
)

// sweepCode removes code archives that no function has any more, at start and
// every now and then. What fails is tried again the next time.
func (s *Server) sweepCode(ctx context.Context) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		n, err := s.artifacts.Sweep(ctx, time.Now().Add(-sweepGrace), s.usedCode)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.log.WarnContext(ctx, "unused code not removed, trying again later", "err", err)
		case n > 0:
			s.log.InfoContext(ctx, "unused code removed", "archives", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// usedCode is the code and the layers of every version, and of what serves for
// it, and every version of a layer.
func (s *Server) usedCode(ctx context.Context) (map[string]bool, error) {
	used := map[string]bool{}
	err := s.db.View(ctx, func(r store.Reader) error {
		functions, err := r.Functions()
		if err != nil {
			return err
		}
		versions, err := r.Versions("")
		if err != nil {
			return err
		}
		layers, err := r.LayerVersions("")
		if err != nil {
			return err
		}
		for i := range layers {
			used[layers[i].Code.SHA256] = true
		}
		for i := range functions {
			use(used, &functions[i].Latest)
		}
		for i := range versions {
			use(used, &versions[i])
		}
		return nil
	})
	return used, err
}

func use(used map[string]bool, v *controlplane.Version) {
	publications := []controlplane.Publication{v.Publication()}
	if v.Serving != nil {
		publications = append(publications, *v.Serving)
	}
	for _, p := range publications {
		used[p.Code.SHA256] = true
		for _, l := range p.Config.Layers {
			used[l.Code.SHA256] = true
		}
	}
}
