// Package sampler measures how hot environments and the host are: once per
// interval it reads the CPU time and memory of every sandbox, what is used of
// its /tmp, and the same for the instance as a whole.
//
// # Concurrency
//
// Run is one goroutine; Environment and Host may be called from anywhere and
// return what was measured last.
//
// # Failure
//
// What cannot be read counts as zero until it can: sandboxes end at any time.
package sampler

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/agent"
)

// Usage is what a group of processes has used.
type Usage struct {
	// CPU is all CPU time since the group exists.
	CPU time.Duration
	// Memory is without reclaimable cache.
	Memory agent.Bytes
}

// Reader reads the usage of one group of processes.
type Reader interface {
	// Read returns the usage now.
	Read() (Usage, error)
	// Close releases what the reader holds.
	Close() error
}

// Target is one sandbox.
type Target struct {
	Environment agent.EnvironmentID
	Sandbox     string
	// CgroupPath and TmpPath may be empty: nothing is measured then.
	CgroupPath, TmpPath string
}

// Config is what a sampler needs.
type Config struct {
	// Interval between samples; zero means a second.
	Interval time.Duration
	// Targets is what to measure.
	Targets func() []Target
	// Open returns the reader of a cgroup.
	Open func(cgroupPath string) (Reader, error)
	// Host reads the instance as a whole; Run closes it.
	Host Reader
	// DataDir is on the file system whose fill is reported.
	DataDir string
	Log     *slog.Logger
}

// Sampler measures. Make it with New.
type Sampler struct {
	cfg Config
	// gauges, by sandbox, and host belong to Run.
	gauges map[string]*gauge
	host   gauge

	mu           sync.RWMutex // guards the fields below; the maps are replaced, not changed
	environments map[agent.EnvironmentID]agent.EnvironmentHeat
	hostHeat     agent.HostHeat
}

// gauge turns CPU time into CPU use.
type gauge struct {
	read Reader
	last Usage
	at   time.Time
}

// New returns a sampler that has measured nothing yet.
func New(cfg Config) *Sampler {
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	return &Sampler{cfg: cfg, gauges: map[string]*gauge{}, host: gauge{read: cfg.Host}}
}

// Environment is the heat of an environment when it was last measured, without
// the invokes in flight.
func (s *Sampler) Environment(id agent.EnvironmentID) agent.EnvironmentHeat {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.environments[id]
}

// Host is the heat of the instance when it was last measured, without the
// invokes in flight.
func (s *Sampler) Host() agent.HostHeat {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.hostHeat
}

// Run measures until ctx is cancelled.
func (s *Sampler) Run(ctx context.Context) error {
	defer s.closeAll()
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	for {
		s.sample()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Sampler) closeAll() {
	for id, g := range s.gauges {
		g.close(s.cfg.Log, id)
	}
	s.host.close(s.cfg.Log, "host")
}

func (s *Sampler) sample() {
	targets := s.cfg.Targets()
	environments := make(map[agent.EnvironmentID]agent.EnvironmentHeat, len(targets))
	live := make(map[string]bool, len(targets))
	for _, t := range targets {
		live[t.Sandbox] = true
		heat := environments[t.Environment]
		cpu, memory := s.gauge(t).measure(s.cfg.Log, t.Sandbox)
		heat.CPU += cpu
		heat.Memory += memory
		if used, _, err := fill(t.TmpPath); err == nil {
			heat.Tmp += used
		}
		environments[t.Environment] = heat
	}
	maps.DeleteFunc(s.gauges, func(id string, g *gauge) bool {
		if !live[id] {
			g.close(s.cfg.Log, id)
		}
		return !live[id]
	})
	var host agent.HostHeat
	host.CPU, host.Memory = s.host.measure(s.cfg.Log, "host")
	if used, total, err := fill(s.cfg.DataDir); err == nil {
		host.DiskUsed, host.DiskTotal = used, total
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.environments, s.hostHeat = environments, host
}

// gauge returns the gauge of a sandbox, which has no reader while its cgroup
// cannot be opened.
func (s *Sampler) gauge(t Target) *gauge {
	g := s.gauges[t.Sandbox]
	if g == nil {
		g = &gauge{}
		s.gauges[t.Sandbox] = g
	}
	if g.read == nil && t.CgroupPath != "" {
		read, err := s.cfg.Open(t.CgroupPath)
		if err != nil {
			s.cfg.Log.Debug("cgroup cannot be read yet", "sandbox", t.Sandbox, "err", err)
			return g
		}
		g.read = read
	}
	return g
}

func (g *gauge) close(log *slog.Logger, name string) {
	if g.read == nil {
		return
	}
	if err := g.read.Close(); err != nil {
		log.Debug("usage reader cannot be closed", "sandbox", name, "err", err)
	}
}

// measure returns the CPU used since the call before and the memory used now.
func (g *gauge) measure(log *slog.Logger, name string) (agent.MilliCPU, agent.Bytes) {
	if g.read == nil {
		return 0, 0
	}
	now, err := g.read.Read()
	if err != nil {
		log.Debug("usage cannot be read", "sandbox", name, "err", err)
		return 0, 0
	}
	at := time.Now()
	var cpu agent.MilliCPU
	if elapsed := at.Sub(g.at); !g.at.IsZero() && elapsed > 0 && now.CPU > g.last.CPU {
		cpu = agent.MilliCPU(float64(now.CPU-g.last.CPU) * 1000 / float64(elapsed))
	}
	g.last, g.at = now, at
	return cpu, now.Memory
}

// fill is how much of the file system at path is used, and its size.
func fill(path string) (used, total agent.Bytes, err error) {
	if path == "" {
		return 0, 0, unix.ENOENT
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0, err
	}
	block := agent.Bytes(st.Bsize)
	return agent.Bytes(st.Blocks-st.Bfree) * block, agent.Bytes(st.Blocks) * block, nil //nolint:gosec // sizes of real disks
}
