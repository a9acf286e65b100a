package sampler

import (
	"log/slog"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/admit"
)

// gauge measures one group of processes: it turns CPU time into CPU use.
type gauge struct {
	read Reader
	// round is the last one that it was wanted in.
	round int
	// last is what was read last, if it is known; at is when that was tried.
	last  Usage
	known bool
	at    time.Time
	// marks are what had been used, and when, at each of the samples of the last
	// second; next is the oldest.
	marks [second]mark
	next  int
	// tmp is the environment's, with what was last seen to be used of it.
	tmp              fileSystem
	tmpUsed, tmpSize agent.Bytes
	// heat is of the last second.
	heat agent.EnvironmentHeat
	// short says that the host has too little memory left.
	short bool
}

type mark struct {
	at             time.Time
	cpu, throttled time.Duration
}

func (g *gauge) close(log *slog.Logger, name string) {
	if g.read == nil {
		return
	}
	if err := g.read.Close(); err != nil {
		log.Debug("usage reader cannot be closed", "sandbox", name, "err", err)
	}
}

// depth is how much to read now: everything once a second, and when the
// reclaimable part of the memory matters.
func (g *gauge) depth(due bool) Depth {
	matters := g.last.MemoryLimit > 0 && g.last.Memory >= g.last.MemoryLimit/1000*tight
	return Depth(g.known && !due && !matters)
}

// measure returns what was used since the call before and what is held now, as
// far as it can be read. Elapsed is zero the first time.
func (g *gauge) measure(log *slog.Logger, name string, now time.Time, how Depth) admit.Usage {
	var u admit.Usage
	if !g.at.IsZero() {
		u.Elapsed = max(0, now.Sub(g.at))
	}
	g.at = now
	if g.read == nil {
		return u
	}
	use, err := g.read.Read(how)
	if err != nil {
		log.Debug("usage cannot be read", "sandbox", name, "err", err)
		g.heat = agent.EnvironmentHeat{}
		return u
	}
	if g.known {
		u.CPU, u.Throttled = max(0, use.CPU-g.last.CPU), max(0, use.Throttled-g.last.Throttled)
		u.Stalled = max(0, use.Stalled.CPU-g.last.Stalled.CPU)
	}
	u.Memory, u.MemoryLimit = use.Memory, use.MemoryLimit
	g.average(mark{at: now, cpu: use.CPU, throttled: use.Throttled})
	g.last, g.known = use, true
	return u
}

// measureTmp adds what is used of /tmp to what measure has returned. Who used no CPU
// time has not written.
func (g *gauge) measureTmp(u *admit.Usage, path string, how Depth) {
	if how == Whole || u.CPU > 0 || g.read == nil {
		g.tmpUsed, _, g.tmpSize = g.tmp.fill(path)
	}
	u.Tmp, u.TmpSize = g.tmpUsed, g.tmpSize
}

// average works out how the last second was, or as much of it as there is.
func (g *gauge) average(now mark) {
	oldest := g.marks[g.next]
	for i := 1; oldest.at.IsZero() && i < second; i++ {
		oldest = g.marks[(g.next+i)%second]
	}
	g.marks[g.next] = now
	g.next = (g.next + 1) % second
	elapsed := now.at.Sub(oldest.at)
	if oldest.at.IsZero() || elapsed <= 0 {
		return
	}
	g.heat.CPU = agent.MilliCPU(float64(max(0, now.cpu-oldest.cpu)) * 1000 / float64(elapsed))
	g.heat.ThrottledPermille = min(1000, int(float64(max(0, now.throttled-oldest.throttled))*1000/float64(elapsed)))
}

// A host is full when less than a share of its memory or disk, or less than an
// amount that is plenty, is left; it is not any more when half as much again is.
const (
	leastShare               = 20 // one part in so many
	plentyMemory agent.Bytes = 256 << 20
	plentyDisk   agent.Bytes = 1 << 30
)

// memoryFull says whether the host has too little memory left.
func (g *gauge) memoryFull(u admit.Usage) bool {
	g.short = u.MemoryLimit > 0 && short(g.short, u.MemoryLimit-u.Memory, u.MemoryLimit, plentyMemory)
	return g.short
}

// short says whether too little of total is left; was is what was said before.
func short(was bool, left, total, plenty agent.Bytes) bool {
	least := min(total/leastShare, plenty)
	if was {
		least += least / 2
	}
	return left < least
}

// disk is the file system of the data directory.
type disk struct {
	system      fileSystem
	used, total agent.Bytes
	full        bool
}

func (d *disk) read(path string) {
	var left agent.Bytes
	d.used, left, d.total = d.system.fill(path)
	d.full = d.total > 0 && short(d.full, left, d.total, plentyDisk)
}
