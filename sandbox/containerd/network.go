package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/hearth-compute/hearth/sandbox"
)

// ifName is the interface inside a sandbox.
const ifName = "eth0"

// networkConfig is the CNI configuration: a veth pair and a route each, and
// addresses from our own pool.
func (c Config) networkConfig() (*libcni.NetworkConfigList, error) {
	raw, err := json.Marshal(map[string]any{
		"cniVersion": "0.4.0",
		"name":       c.network(),
		"plugins": []any{map[string]any{
			"type":   "ptp",
			"ipMasq": false,
			"ipam": map[string]any{
				"type":    "host-local",
				"dataDir": c.leaseDir(),
				"ranges":  []any{[]any{map[string]string{"subnet": c.Subnet.String()}}},
				"routes":  []any{map[string]string{"dst": "0.0.0.0/0"}},
			},
		}},
	})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(raw)
}

func (c Config) cni() *libcni.CNIConfig {
	exec := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: io.Discard}}
	return libcni.NewCNIConfigWithCacheDir([]string{c.CNIBinDir}, c.cniCache(), exec)
}

// addNetwork makes the sandbox's network namespace and connects it.
func (d *Driver) addNetwork(ctx context.Context, id sandbox.ID) error {
	path := d.cfg.netnsPath(id)
	if err := makeNetNS(path); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	list, err := d.cfg.networkConfig()
	if err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	result, err := d.cfg.cni().AddNetworkList(ctx, list, d.cfg.attachment(id))
	if err != nil {
		return fmt.Errorf("network: %w", classifyCNI(err))
	}
	return quietHostSide(result)
}

func (c Config) attachment(id sandbox.ID) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: string(id), NetNS: c.netnsPath(id), IfName: ifName}
}

// classifyCNI finds the one failure of the plugins with a class of its own.
func classifyCNI(err error) error {
	if strings.Contains(err.Error(), "no IP addresses available") { // host-local has no code for it
		return fmt.Errorf("%w: %w", errdefs.ErrResourceExhausted, err)
	}
	return err
}

// quietHostSide turns IPv6 off on the host's end of the veth pair, so that it
// has no link-local address either.
func quietHostSide(result types.Result) error {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return fmt.Errorf("network result: %w", err)
	}
	for _, i := range r.Interfaces {
		if i.Sandbox != "" {
			continue
		}
		file := filepath.Join("/proc/sys/net/ipv6/conf", filepath.Base(i.Name), "disable_ipv6")
		if err := os.WriteFile(file, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("turning IPv6 off on %s: %w", i.Name, err)
		}
	}
	return nil
}

// removeNetwork undoes addNetwork, however far it came.
func (d *Driver) removeNetwork(ctx context.Context, id sandbox.ID) error {
	list, err := d.cfg.networkConfig()
	if err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	// The plugins are asked even if the namespace is gone: the lease may be there.
	return errors.Join(
		d.cfg.cni().DelNetworkList(ctx, list, d.cfg.attachment(id)),
		removeNetNS(d.cfg.netnsPath(id)),
	)
}

// leases returns the sandboxes that hold an address.
func (c Config) leases() ([]sandbox.ID, error) {
	dir := filepath.Join(c.leaseDir(), c.network())
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var ids []sandbox.ID
	for _, f := range files {
		if !isLease(f.Name()) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, f.Name())) //nolint:gosec // G304: below our data directory
		if err != nil {
			continue // released meanwhile
		}
		holder, _, _ := strings.Cut(string(content), "\n")
		ids = append(ids, sandbox.ID(strings.TrimSpace(holder)))
	}
	return ids, err
}

// isLease tells the files of addresses from host-local's others.
func isLease(name string) bool {
	return !strings.HasPrefix(name, "last_reserved_ip") && name != "lock"
}

// resolvConf is the host's resolver configuration without the resolvers that
// only the host can reach.
func resolvConf() []byte {
	for _, file := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		content, err := os.ReadFile(file) //nolint:gosec // G304: constants
		if err != nil {
			continue
		}
		if kept, ok := reachable(string(content)); ok {
			return []byte(kept)
		}
	}
	return nil
}

func reachable(content string) (kept string, ok bool) {
	var b strings.Builder
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "nameserver" {
			if strings.HasPrefix(fields[1], "127.") || strings.Contains(fields[1], ":") {
				continue
			}
			ok = true
		}
		b.WriteString(line)
	}
	return b.String(), ok
}
