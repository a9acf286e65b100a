package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// claimPrefix begins the names of the abstract sockets that stand for claims.
	claimPrefix = "@hearth-agent/"
	// maxSocketName is what fits into a socket address.
	maxSocketName = 107
)

// claim is a part of the host that only one agent at a time may work on.
type claim struct {
	flag, kind, value string
	// overlaps says whether somebody's claim of that kind is in the way, though
	// its value is another.
	overlaps func(value string) bool
}

// claims lists what must be this agent's alone.
func (c Config) claims() []claim {
	never := func(string) bool { return false }
	address := filepath.Clean(c.ContainerdAddress)
	if dir, err := filepath.EvalSymlinks(filepath.Dir(address)); err == nil {
		address = filepath.Join(dir, filepath.Base(address)) // /var/run is /run
	}
	cgroup := path.Clean(c.CgroupParent)
	subnet := c.Subnet.Masked()
	return []claim{
		{flag: "--containerd-namespace", kind: "containerd-namespace", value: c.ContainerdNamespace + " at " + address, overlaps: never},
		{flag: "--cgroup-parent", kind: "cgroup-parent", value: cgroup, overlaps: func(other string) bool {
			return strings.HasPrefix(cgroup, other+"/") || strings.HasPrefix(other, cgroup+"/")
		}},
		{flag: "--nft-table", kind: "nft-table", value: c.NftTable, overlaps: never},
		{flag: "--subnet", kind: "subnet", value: subnet.String(), overlaps: func(other string) bool {
			prefix, err := netip.ParsePrefix(other)
			return err == nil && prefix.Overlaps(subnet)
		}},
	}
}

// claimHost makes sure that no other agent of this network namespace works on
// what is this agent's alone. The claims are abstract sockets: they end with the
// process, however it ends. Errors: FailedPrecondition.
func (c Config) claimHost(ctx context.Context) (release func() error, err error) {
	var held []net.Listener
	release = func() error {
		var errs []error
		for _, l := range held {
			errs = append(errs, l.Close())
		}
		return errors.Join(errs...)
	}
	for _, cl := range c.claims() {
		l, err := cl.take(ctx)
		if err != nil {
			return nil, errors.Join(err, release())
		}
		held = append(held, l)
	}
	return release, nil
}

// take claims first and looks around then, so that of two agents that start
// together at most one goes on.
func (c claim) take(ctx context.Context) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", c.socket())
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, c.refused(c.value)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: claiming %s: %w: %w", c.flag, c.value, err, errdefs.ErrFailedPrecondition)
	}
	others, err := claimed(c.kind)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: listing the claims of other agents: %w", c.flag, err), l.Close())
	}
	for _, other := range others {
		if other != c.value && c.overlaps(other) {
			return nil, errors.Join(c.refused(other), l.Close())
		}
	}
	return l, nil
}

func (c claim) refused(taken string) error {
	return fmt.Errorf("%s: another agent on this host uses %s; stop it, or give each agent a %s of its own: %w",
		c.flag, taken, c.flag, errdefs.ErrFailedPrecondition)
}

// socket is the name of the claim; of a value that is too long, a hash.
func (c claim) socket() string {
	name := claimPrefix + c.kind + ":" + c.value
	if len(name) > maxSocketName {
		sum := sha256.Sum256([]byte(c.value))
		name = claimPrefix + c.kind + ":sha256:" + hex.EncodeToString(sum[:16])
	}
	return name
}

// claimed lists the values of a kind that agents have claimed, this one too.
func claimed(kind string) ([]string, error) {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	var values []string
	for line := range strings.Lines(string(table)) {
		if _, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "+claimPrefix+kind+":"); ok {
			values = append(values, value)
		}
	}
	return values, nil
}
