package local

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
)

// subnetBits is the size of one instance's network: 253 environments.
const subnetBits = 24

// chooseSubnet returns the lowest free subnet of the pool: one that no instance
// has and in which this machine has no address, as it would if another fleet
// used it.
func (f *Fleet) chooseSubnet(taken map[netip.Prefix]bool) (netip.Prefix, error) {
	addrs, err := f.hostAddrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("reading this machine's addresses: %w: %w", err, errdefs.ErrUnavailable)
	}
	pool := f.cfg.SubnetPool
	for at := pool.Addr(); at.IsValid() && pool.Contains(at); at = nextSubnet(at) {
		subnet := netip.PrefixFrom(at, subnetBits)
		if !taken[subnet] && !anyIn(subnet, addrs) {
			return subnet, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no subnet of %s is free: %w", pool, errdefs.ErrResourceExhausted)
}

// nextSubnet is the address of the following subnet, invalid after the last.
func nextSubnet(at netip.Addr) netip.Addr {
	b := at.As4()
	for i := subnetBits/8 - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return netip.AddrFrom4(b)
		}
	}
	return netip.Addr{}
}

func anyIn(subnet netip.Prefix, addrs []net.Addr) bool {
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && subnet.Contains(p.Addr().Unmap()) {
			return true
		}
	}
	return false
}
