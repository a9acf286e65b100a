// Package oci turns a sandbox.Spec into an OCI runtime specification. It is a
// function of its arguments alone: it opens no file and makes no system call,
// so what a sandbox may do can be read, tested and diffed as plain JSON.
//
// # Invariants
//
//  1. The process never runs as root, holds no capability and can gain none.
//  2. Everything but /tmp, /dev/shm and /proc/self is read-only.
//  3. PID, mount, IPC, UTS, cgroup and network namespaces are the sandbox's own.
package oci

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hearth-compute/hearth/sandbox"
)

// InitPath is where the init process is mounted inside every sandbox.
const InitPath = "/.hearth/init"

// CPUPeriod is the CFS period in microseconds: a quota is enforced in each.
const CPUPeriod = 100_000

// The least each limit may be, see sandbox.Limits.
const (
	minCPU    = 10
	minMemory = 16 << 20
	minTmp    = 1 << 20
	// minQuota is the kernel's: one millisecond.
	minQuota = 1000
)

// Host says where the pieces of a sandbox are on the host. All fields are
// required.
type Host struct {
	// InitPath is the hearth-init binary.
	InitPath string
	// NetNS is the path of the sandbox's network namespace.
	NetNS string
	// TmpDir is the directory that becomes /tmp; its file system has the size
	// limit.
	TmpDir string
	// HostsFile and ResolvConf become /etc/hosts and /etc/resolv.conf.
	HostsFile, ResolvConf string
	// CgroupsPath is the sandbox's cgroup, absolute from the root of each
	// hierarchy.
	CgroupsPath string
}

// HostsFile is the content of /etc/hosts in every sandbox.
const HostsFile = "127.0.0.1\tlocalhost sandbox sandbox.localdomain\n"

// Validate reports the first thing about spec that no driver could run, with
// class InvalidArgument.
func Validate(spec sandbox.Spec) error {
	l := spec.Limits
	for _, fault := range []struct {
		there bool
		text  string
	}{
		{!validID(spec.ID), "id must be 1 to 63 lower-case letters, digits and hyphens"},
		{len(spec.Args) == 0 || spec.Args[0] == "", "args are empty"},
		{spec.User.UID == 0 || spec.User.GID == 0, "user or group 0 is not allowed"},
		{spec.WorkingDir != "" && !path.IsAbs(spec.WorkingDir), "working directory is not absolute"},
		{l.CPU < minCPU, "cpu limit is below 10 milli-CPU"},
		{l.Memory < minMemory, "memory limit is below 16 MiB"},
		{l.Tmp < minTmp, "tmp limit is below 1 MiB"},
		{l.PIDs < 1, "pids limit is below 1"},
		{l.OpenFiles < 1, "open files limit is below 1"},
	} {
		if fault.there {
			return invalid(spec.ID, fault.text)
		}
	}
	if err := validateMounts(spec); err != nil {
		return err
	}
	for _, e := range spec.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			return invalid(spec.ID, "an environment entry is not NAME=value")
		}
	}
	return nil
}

func validateMounts(spec sandbox.Spec) error {
	for _, m := range spec.Mounts {
		if !path.IsAbs(m.Source) || !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
			return invalid(spec.ID, fmt.Sprintf("mount %q on %q must be absolute paths and not on the root", m.Source, m.Target))
		}
	}
	return nil
}

func invalid(id sandbox.ID, why string) error {
	return fmt.Errorf("sandbox %q: %s: %w", id, why, errdefs.ErrInvalidArgument)
}

func validID(id sandbox.ID) bool {
	if len(id) < 1 || len(id) > 63 || id[0] == '-' || id[len(id)-1] == '-' {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Spec returns the runtime specification of one sandbox. The root file system
// is "rootfs" beside the specification, where containerd mounts the snapshot.
// The seccomp profile is left to the caller, because it depends on the host's
// kernel and architecture. Errors: InvalidArgument.
func Spec(spec sandbox.Spec, host Host) (*specs.Spec, error) {
	if err := Validate(spec); err != nil {
		return nil, err
	}
	cwd := spec.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: "sandbox",
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Args:            initArgs(spec, cwd),
			Env:             spec.Env,
			Cwd:             "/", // the runtime would make another if it does not exist
			User:            specs.User{UID: spec.User.UID, GID: spec.User.GID},
			Capabilities:    &specs.LinuxCapabilities{},
			NoNewPrivileges: true,
			// Otherwise it has containerd's own, with systemd -999: then the kernel
			// ends almost everything else on the host before a function.
			OOMScoreAdj: new(0),
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Hard: spec.Limits.OpenFiles, Soft: spec.Limits.OpenFiles},
				{Type: "RLIMIT_CORE", Hard: 0, Soft: 0},
			},
		},
		Mounts: mounts(spec, host),
		Linux:  linux(spec, host),
	}, nil
}

// initArgs is the command line of the init process.
func initArgs(spec sandbox.Spec, directory string) []string {
	args := []string{InitPath}
	if spec.Link != (sandbox.Link{}) {
		args = append(args, "-link", spec.Link.Address, "-helpers", spec.Link.Helpers)
	}
	return append(append(args, "-C", directory, "--"), spec.Args...)
}

func linux(spec sandbox.Spec, host Host) *specs.Linux {
	return &specs.Linux{
		CgroupsPath: host.CgroupsPath,
		Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.MountNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.CgroupNamespace},
			{Type: specs.NetworkNamespace, Path: host.NetNS},
		},
		Resources: resources(spec.Limits),
		MaskedPaths: []string{
			"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
			"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
			"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
		},
		ReadonlyPaths: []string{
			"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
		},
	}
}

func resources(l sandbox.Limits) *specs.LinuxResources {
	memory := int64(l.Memory)
	quota := max(int64(l.CPU)*CPUPeriod/1000, minQuota)
	period := uint64(CPUPeriod)
	pids := l.PIDs
	return &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Quota: &quota, Period: &period},
		Memory:  &specs.LinuxMemory{Limit: &memory, Swap: &memory},
		Pids:    &specs.LinuxPids{Limit: &pids},
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
}

func mounts(spec sandbox.Spec, host Host) []specs.Mount {
	ms := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=64k", "ro"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=64m"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		{Destination: "/tmp", Type: "bind", Source: host.TmpDir, Options: []string{"bind", "rw", "nosuid", "nodev"}},
		bind(host.HostsFile, "/etc/hosts"),
		bind(host.ResolvConf, "/etc/resolv.conf"),
		bind(host.InitPath, InitPath),
	}
	for _, m := range spec.Mounts {
		ms = append(ms, bind(m.Source, m.Target))
	}
	return ms
}

func bind(source, target string) specs.Mount {
	return specs.Mount{
		Destination: target, Type: "bind", Source: source,
		Options: []string{"rbind", "ro", "nosuid", "nodev", "rprivate"},
	}
}
