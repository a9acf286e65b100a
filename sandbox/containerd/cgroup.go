package containerd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/oci"
)

// hierarchy is one mounted cgroup tree: of version 2, or one of version 1 with
// the controllers it has.
type hierarchy struct {
	mount       string
	unified     bool
	controllers []string
}

// hierarchies lists the mounted cgroup trees.
func hierarchies() ([]hierarchy, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseHierarchies(content), nil
}

func parseHierarchies(mountinfo []byte) []hierarchy {
	var hs []hierarchy
	for line := range strings.Lines(string(mountinfo)) {
		left, right, ok := strings.Cut(line, " - ")
		before, after := strings.Fields(left), strings.Fields(right)
		if !ok || len(before) < 5 || len(after) < 3 || before[3] != "/" {
			continue
		}
		switch after[0] {
		case "cgroup2":
			hs = append(hs, hierarchy{mount: before[4], unified: true})
		case "cgroup":
			hs = append(hs, hierarchy{mount: before[4], controllers: strings.Split(after[2], ",")})
		}
	}
	return hs
}

// with returns the tree that has the controller: version 1 if it is mounted
// there, as on hybrid hosts, else version 2.
func with(hs []hierarchy, controller string) (hierarchy, bool) {
	if i := slices.IndexFunc(hs, func(h hierarchy) bool { return slices.Contains(h.controllers, controller) }); i >= 0 {
		return hs[i], true
	}
	if i := slices.IndexFunc(hs, func(h hierarchy) bool { return h.unified }); i >= 0 {
		return hs[i], true
	}
	return hierarchy{}, false
}

// makeParentCgroup makes the cgroup above all sandboxes and sets its limits.
func (d *Driver) makeParentCgroup(context.Context) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	return errors.Join(
		d.limitParent(hs, "cpu", d.cfg.CgroupLimits.cpuFiles),
		d.limitParent(hs, "memory", d.cfg.CgroupLimits.memoryFiles),
	)
}

// setting is a value for a cgroup file; optional ones may not exist.
type setting struct {
	file, value string
	optional    bool
}

func (d *Driver) limitParent(hs []hierarchy, controller string, settings func(unified bool) []setting) error {
	h, ok := with(hs, controller)
	if !ok {
		return fmt.Errorf("no cgroup hierarchy has the controller %s", controller)
	}
	dir := filepath.Join(h.mount, d.cfg.CgroupParent)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // G301: as every cgroup
		return err
	}
	if h.unified {
		if err := delegate(h.mount, d.cfg.CgroupParent); err != nil {
			return err
		}
	}
	for _, s := range settings(h.unified) {
		err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.value), 0)
		if err != nil && (!s.optional || !errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// delegate makes the controllers available in every cgroup from the root down
// to parent.
func delegate(mount, parent string) error {
	dir := mount
	for part := range strings.SplitSeq(strings.Trim(parent, "/"), "/") {
		file := filepath.Join(dir, "cgroup.subtree_control")
		if err := os.WriteFile(file, []byte("+cpu +memory +pids"), 0); err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+cpu +memory +pids"), 0)
}

func (l CgroupLimits) cpuFiles(unified bool) []setting {
	quota := "-1"
	if l.CPU > 0 {
		quota = strconv.FormatInt(int64(l.CPU)*oci.CPUPeriod/1000, 10)
	}
	if !unified {
		return []setting{
			{file: "cpu.cfs_period_us", value: strconv.Itoa(oci.CPUPeriod)},
			{file: "cpu.cfs_quota_us", value: quota},
		}
	}
	if quota == "-1" {
		quota = "max"
	}
	return []setting{{file: "cpu.max", value: fmt.Sprintf("%s %d", quota, oci.CPUPeriod)}}
}

func (l CgroupLimits) memoryFiles(unified bool) []setting {
	limit := strconv.FormatInt(int64(l.Memory), 10)
	switch {
	case unified && l.Memory == 0:
		return []setting{{file: "memory.max", value: "max"}, {file: "memory.swap.max", value: "max", optional: true}}
	case unified:
		return []setting{{file: "memory.max", value: limit}, {file: "memory.swap.max", value: "0", optional: true}}
	case l.Memory == 0:
		return []setting{{file: "memory.memsw.limit_in_bytes", value: "-1", optional: true}, {file: "memory.limit_in_bytes", value: "-1"}}
	default: // the limit with swap is never below the one without, so first lift it
		return []setting{
			{file: "memory.memsw.limit_in_bytes", value: "-1", optional: true},
			{file: "memory.limit_in_bytes", value: limit},
			{file: "memory.memsw.limit_in_bytes", value: limit, optional: true},
		}
	}
}

// oomKills returns how often the kernel killed a process in the cgroup for want
// of memory; 0 if the cgroup is gone.
func oomKills(cgroup string) int64 {
	hs, err := hierarchies()
	if err != nil {
		return 0
	}
	h, ok := with(hs, "memory")
	if !ok {
		return 0
	}
	name := "memory.oom_control"
	if h.unified {
		name = "memory.events"
	}
	content, err := os.ReadFile(filepath.Join(h.mount, cgroup, name)) //nolint:gosec // G304: in cgroupfs
	if err != nil {
		return 0
	}
	return counter(content, "oom_kill")
}

// counter returns the value of a key in a file of "key value" lines, else 0.
func counter(content []byte, key string) int64 {
	for scan := bufio.NewScanner(bytes.NewReader(content)); scan.Scan(); {
		name, value, _ := strings.Cut(scan.Text(), " ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && name == key {
			return n
		}
	}
	return 0
}

// killCgroup kills all processes of a cgroup until none is left.
func killCgroup(ctx context.Context, cgroup string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	h, ok := with(hs, "pids")
	if !ok {
		return nil
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		content, err := os.ReadFile(filepath.Join(h.mount, cgroup, "cgroup.procs")) //nolint:gosec // G304: in cgroupfs
		if err != nil || len(bytes.TrimSpace(content)) == 0 {
			return nil // a cgroup that is gone has no processes
		}
		for field := range strings.FieldsSeq(string(content)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("processes in cgroup %s do not end: %w", cgroup, context.Cause(ctx))
		}
	}
}

// removeCgroup deletes a cgroup and all below it in every hierarchy.
func removeCgroup(cgroup string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hs {
		errs = append(errs, removeTree(filepath.Join(h.mount, cgroup)))
	}
	return errors.Join(errs...)
}

// removeTree deletes a cgroup directory, innermost first: their files cannot be
// deleted, only the directories.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing cgroup %s: %w", dir, err)
	}
	return nil
}

// removeParentCgroup deletes the cgroups of sandboxes, then the parent and its
// ancestors, as far as nobody else has cgroups there.
func (d *Driver) removeParentCgroup() error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hs {
		errs = append(errs, removeParent(h.mount, d.cfg.CgroupParent))
	}
	return errors.Join(errs...)
}

func removeParent(mount, parent string) error {
	dir := filepath.Join(mount, parent)
	names, err := children(dir)
	if err != nil {
		return err
	}
	foreign := false
	for _, name := range names {
		if !strings.HasPrefix(name, cgroupPrefix) {
			foreign = true
			continue
		}
		if err := removeTree(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if foreign {
		return nil
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing cgroup %s: %w", dir, err)
	}
	above := path.Dir(parent)
	for above != "/" && unix.Rmdir(filepath.Join(mount, above)) == nil { // until one is in use by others
		above = path.Dir(above)
	}
	return nil
}

// sandboxCgroups returns the sandboxes that have a cgroup below the parent.
func (d *Driver) sandboxCgroups() ([]sandbox.ID, error) {
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var ids []sandbox.ID
	for _, h := range hs {
		names, err := children(filepath.Join(h.mount, d.cfg.CgroupParent))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if id, ours := strings.CutPrefix(name, cgroupPrefix); ours && id != "" {
				ids = append(ids, sandbox.ID(id))
			}
		}
	}
	return ids, nil
}

// children returns the names of the cgroups in a directory; none if it does not
// exist.
func children(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
