// Package sampler measures how hot environments and the host are: ten times a
// second it reads the CPU time and memory of every sandbox, what is used of its
// /tmp, and the same for the instance as a whole. Each environment is told at
// once what was measured of it; reports say how the last second was.
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
	"sync"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
)

// Usage is what a group of processes has used.
type Usage struct {
	// CPU is all CPU time since the group exists; for Throttled of it, it was kept
	// from running by its quota.
	CPU, Throttled time.Duration
	// Memory is without reclaimable cache. A limit of 0 is not known.
	Memory, MemoryLimit agent.Bytes
	// Stalled is how long tasks have waited, where the kernel tells.
	Stalled Stalls
}

// Stalls is time lost waiting, by resource.
type Stalls struct{ CPU, Memory, IO time.Duration }

// Depth is how much of a usage is read.
type Depth bool

// The depths. Quick may leave what is dear to read as it was.
const (
	Whole Depth = false
	Quick Depth = true
)

// Reader reads the usage of one group of processes.
type Reader interface {
	// Read returns the usage now.
	Read(how Depth) (Usage, error)
	// Close releases what the reader holds.
	Close() error
}

// Observer is told what was measured of its sandbox. It must not block.
type Observer interface {
	Observe(u admit.Usage)
}

// Target is one sandbox.
type Target struct {
	Environment agent.EnvironmentID
	Sandbox     string
	// CgroupPath and TmpPath may be empty: nothing is measured then.
	CgroupPath, TmpPath string
	// Observer may be nil.
	Observer Observer
}

// Config is what a sampler needs.
type Config struct {
	// Interval between samples; zero means 100 ms.
	Interval time.Duration
	// Targets appends what to measure to into.
	Targets func(into []Target) []Target
	// Open returns the reader of a cgroup.
	Open func(cgroupPath string) (Reader, error)
	// Host reads the instance as a whole; Run closes it.
	Host Reader
	// HostCPU is how much CPU the instance has; zero means not known.
	HostCPU agent.MilliCPU
	// DataDir is on the file system whose fill is reported.
	DataDir string
	Log     *slog.Logger
}

const (
	defaultInterval = 100 * time.Millisecond
	// second is how many samples reports are averaged over, and after how many
	// everything is read again.
	second = 10
	// tight is the part of a memory limit, in thousandths, from which on reclaimable
	// cache is read in every sample: below, it decides nothing.
	tight = 700
)

// Sampler measures. Make it with New.
type Sampler struct {
	cfg Config
	// The fields up to the mutex belong to Run.
	gauges  map[string]*gauge
	host    gauge
	disk    disk
	targets []Target
	round   int

	mu           sync.RWMutex // guards the fields below
	environments map[agent.EnvironmentID]agent.EnvironmentHeat
	hostHeat     agent.HostHeat
	hostStalled  Stalls
	hostFull     bool
}

// New returns a sampler that has measured nothing yet.
func New(cfg Config) *Sampler {
	if cfg.Interval == 0 {
		cfg.Interval = defaultInterval
	}
	return &Sampler{
		cfg: cfg, gauges: map[string]*gauge{}, host: gauge{read: cfg.Host},
		environments: map[agent.EnvironmentID]agent.EnvironmentHeat{},
	}
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

// HostFull says that the instance has too little memory left for anything new.
func (s *Sampler) HostFull() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.hostFull
}

// HostStalled is how long tasks of the instance have waited so far.
func (s *Sampler) HostStalled() Stalls {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.hostStalled
}

// Run measures until ctx is cancelled.
func (s *Sampler) Run(ctx context.Context) error {
	defer s.closeAll()
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	for {
		s.Sample(time.Now())
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

// Sample measures everything once; Run calls it. It does not allocate unless
// sandboxes came or went.
func (s *Sampler) Sample(now time.Time) {
	host, heat := s.sampleHost(now)
	s.targets = s.cfg.Targets(s.targets[:0])
	s.round++
	for i := range s.targets {
		t := &s.targets[i]
		g := s.gauge(t)
		g.round = s.round
		// Not all are read wholly in the same round.
		how := g.depth((s.round+i)%second == 0)
		u := g.measure(s.cfg.Log, t.Sandbox, now, how)
		g.measureTmp(&u, t.TmpPath, how)
		g.heat.Memory, g.heat.Tmp = u.Memory, u.Tmp
		if u.Host = host; t.Observer != nil && u.Elapsed > 0 {
			t.Observer.Observe(u)
		}
	}
	for id, g := range s.gauges {
		if g.round != s.round {
			g.close(s.cfg.Log, id)
			delete(s.gauges, id)
		}
	}
	s.publish(heat)
}

// sampleHost measures the instance.
func (s *Sampler) sampleHost(now time.Time) (admit.HostUsage, agent.HostHeat) {
	u := s.host.measure(s.cfg.Log, "host", now, Depth(s.round%second != 0))
	s.disk.read(s.cfg.DataDir)
	usage := admit.HostUsage{
		MemoryFull: s.host.memoryFull(u),
		DiskFull:   s.disk.full,
	}
	if available := s.cfg.HostCPU; available > 0 && u.Elapsed > 0 {
		usage.CPUPermille = int(float64(u.CPU) / float64(u.Elapsed) * 1e6 / float64(available))
	}
	return usage, agent.HostHeat{CPU: s.host.heat.CPU, Memory: u.Memory, DiskUsed: s.disk.used, DiskTotal: s.disk.total}
}

// publish makes what was measured what is reported.
func (s *Sampler) publish(host agent.HostHeat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.environments)
	for i := range s.targets {
		t := &s.targets[i]
		g, heat := s.gauges[t.Sandbox], s.environments[t.Environment]
		heat.CPU += g.heat.CPU
		heat.Memory += g.heat.Memory
		heat.Tmp += g.heat.Tmp
		heat.ThrottledPermille = max(heat.ThrottledPermille, g.heat.ThrottledPermille)
		s.environments[t.Environment] = heat
	}
	s.hostHeat, s.hostStalled, s.hostFull = host, s.host.last.Stalled, s.host.short
}

// gauge returns the gauge of a sandbox, which has no reader while its cgroup
// cannot be opened.
func (s *Sampler) gauge(t *Target) *gauge {
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
