package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
)

// record is launch.json. It never changes once written.
type record struct {
	Instance controlplane.InstanceID   `json:"instance"`
	Provider controlplane.ProviderName `json:"capacity_provider"`
	Zone     controlplane.Zone         `json:"zone"`
	CPU      controlplane.MilliCPU     `json:"milli_cpu"`
	Memory   controlplane.Bytes        `json:"memory_bytes"`
	Subnet   netip.Prefix              `json:"subnet"`
	// SubnetPool and ContainerdAddress are those of the launch: what is there
	// was made with them.
	SubnetPool        netip.Prefix `json:"subnet_pool"`
	ContainerdAddress string       `json:"containerd_address"`
	// Control is used when the configuration names none.
	Control string `json:"control"`
}

// instance is the directory of one instance.
type instance struct {
	id  controlplane.InstanceID
	dir string
}

func (i instance) path(name string) string { return filepath.Join(i.dir, name) }
func (i instance) dataDir() string         { return i.path("agent") }
func (i instance) logFile() string         { return i.path("agent.log") }
func (i instance) pidFile() string         { return i.path("agent.pid") }

// namespace is the containerd namespace of the instance's agent.
func (i instance) namespace() string { return "hearth-" + string(i.id) }

func (i instance) record() (record, error) {
	var r record
	data, err := os.ReadFile(i.path("launch.json"))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, fmt.Errorf("reading the launch record of %s: %w: %w", i.id, err, errdefs.ErrUnavailable)
	}
	return r, nil
}

func (i instance) terminating() bool {
	_, err := os.Stat(i.path("terminating"))
	return err == nil
}

// markTerminating is durable when it returns.
func (i instance) markTerminating() error {
	err := writeSynced(i.path("terminating"), nil)
	if err == nil {
		err = syncDir(i.dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone meanwhile is as good
		return fmt.Errorf("terminating %s: %w: %w", i.id, err, errdefs.ErrUnavailable)
	}
	return nil
}

// gone reports whether the directory was removed.
func (i instance) gone() bool {
	_, err := os.Stat(i.dir)
	return errors.Is(err, fs.ErrNotExist)
}

// instances lists the directories of instances, ordered by id. Names that begin
// with a dot are instances in the making or unmaking.
func (f *Fleet) instances() ([]instance, error) {
	entries, err := os.ReadDir(f.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing instances: %w: %w", err, errdefs.ErrUnavailable)
	}
	var all []instance
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			all = append(all, instance{controlplane.InstanceID(e.Name()), filepath.Join(f.root, e.Name())})
		}
	}
	return all, nil
}

// create makes the directory of an instance appear, complete and durable.
func (f *Fleet) create(r record, token string) error {
	fail := func(err error) error {
		return fmt.Errorf("launching %s: %w: %w", r.Instance, err, errdefs.ErrUnavailable)
	}
	if err := os.MkdirAll(f.root, 0o700); err != nil {
		return fail(err)
	}
	making := filepath.Join(f.root, ".new-"+string(r.Instance))
	if err := os.RemoveAll(making); err != nil { // left by a crash
		return fail(err)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("launching %s: %w: %w", r.Instance, err, errdefs.ErrInternal)
	}
	for _, step := range []func() error{
		func() error { return os.MkdirAll(filepath.Join(making, "agent"), 0o700) },
		func() error { return writeSynced(filepath.Join(making, "join-token"), []byte(token+"\n")) },
		func() error { return writeSynced(filepath.Join(making, "launch.json"), append(data, '\n')) },
		func() error { return syncDir(making) },
		func() error { return os.Rename(making, filepath.Join(f.root, string(r.Instance))) },
		func() error { return syncDir(f.root) },
		func() error { return syncDir(f.cfg.DataDir) },
	} {
		if err := step(); err != nil {
			return fail(err)
		}
	}
	return nil
}

// sweep removes directories that a crash left half made or half removed.
func (f *Fleet) sweep() {
	f.launching <- struct{}{} // or it would remove what is being made
	defer func() { <-f.launching }()
	entries, err := os.ReadDir(f.root)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".new-") && !strings.HasPrefix(e.Name(), ".gone-") {
			continue
		}
		if err := removeUnmounted(filepath.Join(f.root, e.Name())); err != nil {
			f.log.Warn("removing the rest of an instance failed", "err", err)
		}
	}
}

func writeSynced(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // below the data directory
	if err != nil {
		return err
	}
	_, werr := file.Write(data)
	return errors.Join(werr, file.Sync(), file.Close())
}

func syncDir(path string) error {
	dir, err := os.Open(path) //nolint:gosec // below the data directory
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// removeUnmounted removes a directory, but not while anything is mounted in it:
// that would remove what is mounted.
func removeUnmounted(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("removing %s: %w: %w", dir, err, errdefs.ErrUnavailable)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			return fmt.Errorf("removing %s: %s is mounted: %w", dir, at, errdefs.ErrFailedPrecondition)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing %s: %w: %w", dir, err, errdefs.ErrUnavailable)
	}
	return nil
}
