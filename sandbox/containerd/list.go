package containerd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"

	"github.com/hearth-compute/hearth/sandbox"
)

// process is what a task says about a sandbox's init process.
type process struct {
	state sandbox.State
	pid   int
	code  int
	at    time.Time
}

// List implements sandbox.Runtime: two calls to containerd.
func (d *Driver) List(ctx context.Context) ([]sandbox.Status, error) {
	ctx = d.scope(ctx)
	records, err := d.client.ContainerService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing sandboxes: %w", d.blame(classify(err)))
	}
	// What is being created has a record and no task yet. Asked in between, so that
	// one whose creation ends meanwhile is not taken for one that stopped.
	creating := d.beingCreated()
	list, err := d.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing sandboxes: %w", d.blame(classify(err)))
	}
	processes := make(map[string]*process, len(list.Tasks))
	for _, t := range list.Tasks {
		processes[t.ID] = fromTask(t)
	}
	return d.statuses(records, processes, creating), nil
}

// statuses joins records with tasks. What was being created when the tasks were
// asked for may have one by now.
func (d *Driver) statuses(records []containers.Container, processes map[string]*process, creating map[sandbox.ID]bool) []sandbox.Status {
	all := make([]sandbox.Status, 0, len(records))
	for _, c := range records {
		p := processes[c.ID]
		if p == nil && creating[sandbox.ID(c.ID)] {
			continue
		}
		all = append(all, d.status(c, p))
	}
	slices.SortFunc(all, func(a, b sandbox.Status) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return all
}

// beingCreated returns the sandboxes that are being created now.
func (d *Driver) beingCreated() map[sandbox.ID]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.creating)
}

func (d *Driver) isCreating(id sandbox.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.creating[id]
}

func fromTask(t *task.Process) *process {
	p := &process{pid: int(t.Pid), code: int(t.ExitStatus)}
	switch t.Status { //nolint:exhaustive // whatever else it says, something is running
	case task.Status_CREATED:
		p.state = sandbox.StateCreated
	case task.Status_STOPPED:
		p.state = sandbox.StateStopped
		p.at = t.ExitedAt.AsTime()
	default:
		p.state = sandbox.StateRunning
	}
	return p
}

// status joins a container with its task; p is nil if it has none.
func (d *Driver) status(c containers.Container, p *process) sandbox.Status {
	id := sandbox.ID(c.ID)
	s := sandbox.Status{
		ID: id, CreatedAt: c.CreatedAt, Labels: map[string]string{},
		CgroupPath: d.cfg.cgroupPath(id), TmpPath: d.cfg.tmpDir(id),
	}
	for k, v := range c.Labels {
		if name, ours := strings.CutPrefix(k, labelPrefix); ours {
			s.Labels[name] = v
		}
	}
	if ext := c.Extensions[metadataExtension]; ext != nil && len(ext.GetValue()) > 0 {
		s.Metadata = ext.GetValue()
	}
	if p == nil {
		p = &process{state: sandbox.StateStopped, code: -1}
	}
	s.State = p.state
	switch p.state {
	case sandbox.StateCreated:
	case sandbox.StateRunning:
		s.PID = p.pid
	case sandbox.StateStopped:
		s.Exit = d.exit(id, p.code, p.at)
	}
	return s
}

func (d *Driver) exit(id sandbox.ID, code int, at time.Time) sandbox.Exit {
	return sandbox.Exit{Code: code, At: at, OOMKilled: oomKills(d.cfg.cgroupPath(id)) > 0}
}
