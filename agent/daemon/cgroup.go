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
func (r cgroupReader) Read(how sampler.Depth) (sampler.Usage, error) {
	read := r.Sample
	if how == sampler.Quick {
		read = r.Quick
	}
	s, err := read()
	if err != nil {
		return sampler.Usage{}, err
	}
	return sampler.Usage{
		CPU: s.CPU, Throttled: s.Throttled,
		Memory: agent.Bytes(s.Memory), MemoryLimit: agent.Bytes(s.MemoryLimit),
		Stalled: sampler.Stalls(s.Stalled),
	}, nil
}

// parentReader reads the parent cgroup, which may not exist yet.
type parentReader struct {
	path string
	open sampler.Reader
}

// Read implements sampler.Reader.
func (p *parentReader) Read(how sampler.Depth) (sampler.Usage, error) {
	if p.open == nil {
		r, err := openCgroup(p.path)
		if err != nil {
			return sampler.Usage{}, err
		}
		p.open = r
	}
	return p.open.Read(how)
}

// Close implements sampler.Reader.
func (p *parentReader) Close() error {
	if p.open == nil {
		return nil
	}
	return p.open.Close()
}

// hostReader measures the parent cgroup when that is the instance, else the
// machine; it also says how much CPU that has.
func (a *Agent) hostReader() (sampler.Reader, agent.MilliCPU, error) {
	if a.cfg.LimitParent {
		return &parentReader{path: a.cfg.CgroupParent}, a.cfg.Allocatable.CPU, nil
	}
	size, err := sampler.Size()
	return &sampler.Machine{}, size.CPU, err
}
