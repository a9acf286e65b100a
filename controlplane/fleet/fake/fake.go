// Package fake is a fleet for tests that misbehaves on request: machines take
// time to boot and to go away, zones run out of capacity, replies are lost. A
// hook is told of every machine that boots, so that a test can start an agent
// for it.
package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet"
)

// Config is how the machines behave from the start.
type Config struct {
	// BootDelay is the time from Launch to OnBoot.
	BootDelay time.Duration
	// StopDelay is the time from Terminate to OnGone.
	StopDelay time.Duration
	// OnBoot is called once for each machine that has booted. Optional.
	OnBoot func(fleet.LaunchRequest)
	// OnGone is called once for each booted machine, before List stops naming
	// it; it must end what OnBoot began. Optional.
	OnGone func(controlplane.InstanceID)
}

// Cloud is the driver. It implements [fleet.Cloud]. Hooks are called by Run,
// one at a time.
type Cloud struct {
	cfg   Config
	nudge chan struct{}

	mu       sync.Mutex
	machines map[controlplane.InstanceID]*machine
	zones    map[controlplane.Zone]error
	lost     int
	down     error
	launches int
}

type machine struct {
	req     fleet.LaunchRequest
	bootAt  time.Time
	booted  bool
	leaving bool
	goneAt  time.Time
}

var _ fleet.Cloud = (*Cloud)(nil)

// New makes a cloud without machines.
func New(cfg Config) *Cloud {
	return &Cloud{
		cfg:      cfg,
		nudge:    make(chan struct{}, 1),
		machines: map[controlplane.InstanceID]*machine{},
		zones:    map[controlplane.Zone]error{},
	}
}

// FailZone makes every Launch in a zone fail with err, such as
// [fleet.ErrCapacity], until it is called with nil.
func (c *Cloud) FailZone(zone controlplane.Zone, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.zones[zone] = err
}

// LoseReplies makes the next n calls of Launch and Terminate have their effect
// and fail with Unavailable all the same.
func (c *Cloud) LoseReplies(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = n
}

// FailAll makes every call fail with err and have no effect, until it is called
// with nil.
func (c *Cloud) FailAll(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = err
}

// Launches counts the machines that were ever launched.
func (c *Cloud) Launches() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.launches
}

// Name implements [fleet.Cloud].
func (*Cloud) Name() string { return "fake" }

// Launch implements [fleet.Cloud].
func (c *Cloud) Launch(_ context.Context, req fleet.LaunchRequest) error {
	if req.Instance == "" || strings.ContainsAny(string(req.Instance), "/.") || req.Provider == "" ||
		req.Zone == "" || req.JoinToken == "" || req.Size.CPU <= 0 || req.Size.Memory <= 0 {
		return fmt.Errorf("launching %q: malformed request: %w", req.Instance, errdefs.ErrInvalidArgument)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != nil {
		return fmt.Errorf("launching %s: %w", req.Instance, c.down)
	}
	if c.machines[req.Instance] == nil {
		if err := c.zones[req.Zone]; err != nil {
			return fmt.Errorf("launching %s in %s: %w", req.Instance, req.Zone, err)
		}
		c.machines[req.Instance] = &machine{req: req, bootAt: time.Now().Add(c.cfg.BootDelay)}
		c.launches++
		c.poke()
	}
	return c.reply("launching", req.Instance)
}

// List implements [fleet.Cloud].
func (c *Cloud) List(context.Context) ([]controlplane.InstanceID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != nil {
		return nil, fmt.Errorf("listing instances: %w", c.down)
	}
	return slices.Sorted(maps.Keys(c.machines)), nil
}

// Terminate implements [fleet.Cloud].
func (c *Cloud) Terminate(_ context.Context, id controlplane.InstanceID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != nil {
		return fmt.Errorf("terminating %s: %w", id, c.down)
	}
	if m := c.machines[id]; m != nil && !m.leaving {
		m.leaving, m.goneAt = true, time.Now().Add(c.cfg.StopDelay)
		c.poke()
	}
	return c.reply("terminating", id)
}

// Run boots machines and takes them away until ctx ends. Then it calls OnGone
// for every machine that is left.
func (c *Cloud) Run(ctx context.Context) error {
	for {
		next := c.step()
		select {
		case <-ctx.Done():
			for _, id := range c.booted() {
				c.gone(id)
			}
			return nil
		case <-time.After(next):
		case <-c.nudge:
		}
	}
}

// step does what is due and says how long until something else may be.
func (c *Cloud) step() time.Duration {
	const idle = time.Hour
	next := idle
	for _, id := range c.ids() {
		boot, leave, wait := c.due(id)
		if wait > 0 {
			next = min(next, wait)
		}
		if boot != nil && c.cfg.OnBoot != nil {
			c.cfg.OnBoot(*boot)
		}
		if leave {
			c.gone(id)
		}
	}
	return next
}

// due says what is to be done about a machine now, or how long until then.
func (c *Cloud) due(id controlplane.InstanceID) (boot *fleet.LaunchRequest, leave bool, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, now := c.machines[id], time.Now()
	switch {
	case m.leaving && !now.Before(m.goneAt):
		return nil, true, 0
	case m.leaving:
		return nil, false, m.goneAt.Sub(now)
	case m.booted:
		return nil, false, 0
	case !now.Before(m.bootAt):
		m.booted = true
		return &m.req, false, 0
	default:
		return nil, false, m.bootAt.Sub(now)
	}
}

// gone takes a machine away.
func (c *Cloud) gone(id controlplane.InstanceID) {
	if slices.Contains(c.booted(), id) && c.cfg.OnGone != nil {
		c.cfg.OnGone(id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.machines, id)
}

func (c *Cloud) ids() []controlplane.InstanceID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.machines))
}

func (c *Cloud) booted() []controlplane.InstanceID {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := slices.Sorted(maps.Keys(c.machines))
	return slices.DeleteFunc(ids, func(id controlplane.InstanceID) bool { return !c.machines[id].booted })
}

// reply is the answer to a call that had its effect. mu is held.
func (c *Cloud) reply(doing string, id controlplane.InstanceID) error {
	if c.lost > 0 {
		c.lost--
		return fmt.Errorf("%s %s: the reply was lost: %w", doing, id, errdefs.ErrUnavailable)
	}
	return nil
}

func (c *Cloud) poke() {
	select {
	case c.nudge <- struct{}{}:
	default:
	}
}
