// Package leftovers lists what sandboxes leave on a host: tests take a Snapshot
// before and after and want the Diff to be empty.
package leftovers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Scope says what on a host is looked at, so that others who use it do not
// disturb.
type Scope struct {
	// Containerd is the socket to ask; empty skips containerd.
	Containerd string
	// Prefix is what the names of our containerd namespaces and nftables tables
	// begin with; also a process or mount with it in its command line or path is
	// ours. Required.
	Prefix string
	// DataDirs are the directories with our files, mounts and images.
	DataDirs []string
	// Cgroups are the roots of our cgroups.
	Cgroups []string
	// Subnets are the ranges our sandboxes have addresses in.
	Subnets []netip.Prefix
}

// State is what there is, one line for each thing: kind and name.
type State []string

// Snapshot lists what there is in the scope.
func Snapshot(ctx context.Context, s Scope) (State, error) {
	if s.Prefix == "" {
		return nil, errors.New("leftovers: the scope has no prefix")
	}
	var state State
	for name, list := range map[string]func(context.Context) ([]string, error){
		"containerd": s.containerd,
		"nftables":   func(context.Context) ([]string, error) { return s.nftables() },
		"routes":     func(context.Context) ([]string, error) { return s.routes() },
		"mounts":     func(context.Context) ([]string, error) { return s.mounts() },
		"loops":      func(context.Context) ([]string, error) { return s.loops() },
		"cgroups":    func(context.Context) ([]string, error) { return s.cgroups(cgroupMount) },
		"processes":  func(context.Context) ([]string, error) { return s.processes() },
		"files":      func(context.Context) ([]string, error) { return s.files() },
	} {
		found, err := list(ctx)
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", name, err)
		}
		state = append(state, found...)
	}
	slices.Sort(state)
	return slices.Compact(state), nil
}

// Diff returns what is in after and not in before.
func Diff(before, after State) []string {
	var left []string
	for _, line := range after {
		if !slices.Contains(before, line) {
			left = append(left, line)
		}
	}
	return left
}

// ours says whether a path or command line is in the scope.
func (s Scope) ours(text string) bool {
	return strings.Contains(text, s.Prefix) ||
		slices.ContainsFunc(s.DataDirs, func(dir string) bool { return strings.Contains(text, dir) })
}

func (s Scope) inSubnet(a netip.Addr) bool {
	return slices.ContainsFunc(s.Subnets, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

func (s Scope) nftables() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	var found []string
	tables, err := conn.ListTables()
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		if strings.HasPrefix(t.Name, s.Prefix) {
			found = append(found, "nft table "+t.Name)
		}
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	for _, c := range chains {
		if strings.HasPrefix(c.Table.Name, s.Prefix) || strings.HasPrefix(c.Name, s.Prefix) {
			found = append(found, fmt.Sprintf("nft chain %s/%s", c.Table.Name, c.Name))
		}
	}
	return found, nil
}

// routes lists the host's ends of veth pairs that lead to our subnets: each has
// a route and an address there.
func (s Scope) routes() ([]string, error) {
	var found []string
	all, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, 0)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Dst == nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok && s.inSubnet(a) {
			found = append(found, "route "+r.Dst.String())
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && s.inSubnet(ip) {
			found = append(found, fmt.Sprintf("interface %d with address %s", a.LinkIndex, a.IPNet))
		}
	}
	return found, nil
}

// mounts lists mounts of all kinds: network namespaces, /tmp images, root file
// systems.
func (s Scope) mounts() ([]string, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 4 && s.ours(fields[4]) {
			found = append(found, "mount "+fields[4])
		}
	}
	return found, nil
}

func (s Scope) loops() ([]string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, file := range files {
		content, err := os.ReadFile(file) //nolint:gosec // G304: from sysfs
		if err == nil && s.ours(string(content)) {
			found = append(found, "loop device of "+strings.TrimSpace(string(content)))
		}
	}
	return found, nil
}

// cgroupMount has version 2 itself, or the hierarchies of version 1 below it.
const cgroupMount = "/sys/fs/cgroup"

func (s Scope) cgroups(mount string) ([]string, error) {
	entries, err := os.ReadDir(mount)
	if err != nil {
		return nil, err
	}
	hierarchies := []string{mount}
	for _, e := range entries {
		if e.IsDir() { // version 2 has files here too
			hierarchies = append(hierarchies, filepath.Join(mount, e.Name()))
		}
	}
	var found []string
	for _, root := range s.Cgroups {
		for _, h := range hierarchies {
			list, err := tree(filepath.Join(h, root), fs.DirEntry.IsDir)
			if err != nil {
				return nil, err
			}
			for _, dir := range list {
				found = append(found, "cgroup "+dir)
			}
		}
	}
	return found, nil
}

func (s Scope) processes() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || pid == os.Getppid() {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // ended meanwhile
		}
		command := strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " ")
		if s.ours(command) {
			found = append(found, fmt.Sprintf("process %d %.200s", pid, command))
		}
	}
	return found, nil
}

// files lists our files, address leases among them, and the directories of
// containerd and runc for our namespaces.
func (s Scope) files() ([]string, error) {
	roots := slices.Clone(s.DataDirs)
	for _, pattern := range []string{
		"/run/containerd/runc/*", "/run/containerd/io.containerd.runtime.v2.task/*",
		"/var/lib/containerd/io.containerd.runtime.v2.task/*", "/var/lib/cni/networks/*", "/run/netns/*",
	} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, m := range matches {
			if strings.Contains(filepath.Base(m), s.Prefix) {
				roots = append(roots, m)
			}
		}
	}
	var found []string
	for _, root := range roots {
		list, err := tree(root, func(fs.DirEntry) bool { return true })
		if err != nil {
			return nil, err
		}
		for _, file := range list {
			if !slices.Contains(s.DataDirs, file) { // the directory itself is its owner's
				found = append(found, "file "+file)
			}
		}
	}
	return found, nil
}

// tree lists a directory with all below it, as far as it is there.
func tree(root string, want func(fs.DirEntry) bool) ([]string, error) {
	var found []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case want(e):
			found = append(found, path)
		}
		return nil
	})
	return found, err
}
