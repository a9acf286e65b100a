package local

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/fleet/local/process"
)

// cgroupParent is above the cgroups of all instances.
const cgroupParent = "/hearth"

// agentArgs is the command line of an instance's agent.
func (f *Fleet) agentArgs(inst instance, r record) []string {
	args := append(inst.identity(),
		"--control", cmp.Or(f.cfg.Control, r.Control),
		"--containerd-address", cmp.Or(r.ContainerdAddress, f.cfg.ContainerdAddress),
		"--containerd-namespace", inst.namespace(),
		"--subnet", r.Subnet.String(),
		"--deny-cidr", r.SubnetPool.String(),
		"--nft-table", "hearth_"+strings.ReplaceAll(string(inst.id), "-", "_"),
		"--cgroup-parent", cgroupParent+"/"+string(inst.id),
		"--vcpu", formatCPU(r.CPU),
		"--memory", formatBytes(r.Memory),
		"--limit",
		"--capacity-provider", string(r.Provider),
		"--zone", string(r.Zone),
		"--join-token-file", inst.path("join-token"),
	)
	if f.cfg.InitPath != "" {
		args = append(args, "--init-path", f.cfg.InitPath)
	}
	if f.cfg.Region != "" {
		args = append(args, "--region", f.cfg.Region)
	}
	return append(args, f.cfg.AgentArgs...)
}

// identity is the part of the command line by which the agent of an instance is
// recognised.
func (i instance) identity() []string { return []string{"--data-dir", i.dataDir()} }

// formatCPU writes vCPUs as people do: 2, 0.5.
func formatCPU(c controlplane.MilliCPU) string {
	return strconv.FormatFloat(float64(c)/1000, 'f', -1, 64)
}

// formatBytes writes a size with the largest unit that divides it.
func formatBytes(b controlplane.Bytes) string {
	for i, unit := range []string{"GiB", "MiB", "KiB"} {
		if size := controlplane.Bytes(1) << (30 - 10*i); b%size == 0 {
			return strconv.FormatInt(int64(b/size), 10) + unit
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// agent returns the running agent of an instance, or whatever else runs on its
// data directory, or nil.
func (i instance) agent() (*process.Process, error) {
	if p := process.Recall(i.pidFile(), i.identity()...); p != nil {
		return p, nil
	}
	// Whoever started it may have died before it could write down which it is.
	found, err := process.Find(i.identity()...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// spawn starts the agent of an instance.
func (f *Fleet) spawn(inst instance) (*process.Process, error) {
	cmd, logFile, err := f.agentCommand(inst)
	if err != nil {
		return nil, err
	}
	defer func() { _ = logFile.Close() }()
	p, err := process.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("starting the agent of %s: %w", inst.id, err)
	}
	if err := p.Note(inst.pidFile()); err != nil {
		f.log.Warn("noting the agent's process failed", "instance", inst.id, "err", err) // it can be found without
	}
	return p, nil
}

// agentCommand prepares a run of the agent binary that prints to the log.
func (f *Fleet) agentCommand(inst instance, more ...string) (*exec.Cmd, *os.File, error) {
	r, err := inst.record()
	if err != nil {
		return nil, nil, err
	}
	if err := boundLog(inst.logFile(), f.cfg.MaxLogBytes); err != nil {
		return nil, nil, fmt.Errorf("bounding the log of %s: %w", inst.id, err)
	}
	logFile, err := os.OpenFile(inst.logFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the log of %s: %w: %w", inst.id, err, errdefs.ErrUnavailable)
	}
	// The process outlives this one: no context may end it.
	cmd := &exec.Cmd{
		Path:   f.cfg.AgentPath,
		Args:   slices.Concat([]string{f.cfg.AgentPath}, f.agentArgs(inst, r), more),
		Env:    slices.DeleteFunc(slices.Clone(f.cfg.Environ), notForAgents),
		Dir:    "/",
		Stdout: logFile,
		Stderr: logFile,
	}
	if cmd.Env == nil {
		cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	return cmd, logFile, nil
}

// notForAgents reports whether a variable configures this process: as one of
// our flags, or as a service of systemd.
func notForAgents(variable string) bool {
	for _, prefix := range []string{"HEARTH_", "NOTIFY_SOCKET=", "LISTEN_", "WATCHDOG_", "INVOCATION_ID="} {
		if strings.HasPrefix(variable, prefix) {
			return true
		}
	}
	return false
}

// boundLog moves a log that grew beyond limit to NAME.1, in place: its writer
// keeps writing to the same file. Lines written meanwhile may be lost.
func boundLog(path string, limit int64) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() <= limit {
		return nil
	}
	if err != nil {
		return err
	}
	old, err := os.Open(path) //nolint:gosec // below the data directory
	if err != nil {
		return err
	}
	defer func() { _ = old.Close() }()
	// Only the end is kept, should it have grown far beyond the limit.
	if _, err := old.Seek(max(0, info.Size()-limit), io.SeekStart); err != nil {
		return err
	}
	kept, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // below the data directory
	if err != nil {
		return err
	}
	_, err = io.Copy(kept, io.LimitReader(old, limit))
	return errors.Join(err, kept.Close(), os.Truncate(path, 0))
}

// lastLine is the end of a log, to say why an agent ended.
func lastLine(path string) string {
	const most = 1 << 10
	file, err := os.Open(path) //nolint:gosec // below the data directory
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.Size() > most {
		_, _ = file.Seek(-most, io.SeekEnd)
	}
	data, _ := io.ReadAll(io.LimitReader(file, most))
	data = bytes.TrimSpace(data)
	return string(data[bytes.LastIndexByte(data, '\n')+1:])
}
