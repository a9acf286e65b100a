package daemon

import (
	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/sampler"
	"github.com/hearth-compute/hearth/metrics/cgroup"
)

// cgroupReader makes a cgroup a sampler.Reader.
type cgroupReader struct{ *cgroup.Reader }

// openCgroup returns the reader of a cgroup.
func openCgroup(path string) (sampler.Reader, error) {
	r, err := cgroup.Open(path)
	if err != nil {
		return nil, err
	}
	return cgroupReader{r}, nil
}

// Read implements sampler.Reader.
func (r cgroupReader) Read() (sampler.Usage, error) {
	s, err := r.Sample()
	if err != nil {
		return sampler.Usage{}, err
	}
	return sampler.Usage{CPU: s.CPU, Memory: agent.Bytes(s.Memory)}, nil
}

// parentReader reads the parent cgroup, which may not exist yet.
type parentReader struct {
	path string
	open sampler.Reader
}

// Read implements sampler.Reader.
func (p *parentReader) Read() (sampler.Usage, error) {
	if p.open == nil {
		r, err := openCgroup(p.path)
		if err != nil {
			return sampler.Usage{}, err
		}
		p.open = r
	}
	return p.open.Read()
}

// Close implements sampler.Reader.
func (p *parentReader) Close() error {
	if p.open == nil {
		return nil
	}
	return p.open.Close()
}

// hostReader measures the parent cgroup when that is the instance, else the
// machine.
func (a *Agent) hostReader() sampler.Reader {
	if a.cfg.LimitParent {
		return &parentReader{path: a.cfg.CgroupParent}
	}
	return sampler.Machine{}
}
