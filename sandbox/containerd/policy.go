package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// linkLocal holds cloud metadata services and their like.
const linkLocal = "169.254.0.0/16"

// Where the addresses are in an IPv4 header.
const (
	sourceOffset      = 12
	destinationOffset = 16
)

// applyPolicy replaces the driver's table in one transaction: what sandboxes may
// reach, what may reach them, and the address they show outside.
//
//	input        from the subnet: drop (the host and all its listeners)
//	output       to the subnet, new connection: drop
//	forward      from the subnet to the subnet, a denied range or link-local: drop
//	             to the subnet, new connection: drop
//	postrouting  from the subnet: masquerade
func (d *Driver) applyPolicy(context.Context) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: d.cfg.NftTable}
	conn.AddTable(table)
	conn.DelTable(table)
	conn.AddTable(table)

	filter := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{
			Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook,
			Priority: new(*nftables.ChainPriorityFilter - 10),
		})
	}
	rule := func(chain *nftables.Chain, exprs ...[]expr.Any) {
		var all []expr.Any
		for _, e := range exprs {
			all = append(all, e...)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
	}
	own := d.cfg.Subnet
	from, to := match(sourceOffset, own), match(destinationOffset, own)

	rule(filter("input", nftables.ChainHookInput), from, drop())
	rule(filter("output", nftables.ChainHookOutput), to, unsolicited(), drop())
	forward := filter("forward", nftables.ChainHookForward)
	for _, denied := range append([]netip.Prefix{own, netip.MustParsePrefix(linkLocal)}, d.cfg.DenyCIDRs...) {
		rule(forward, from, match(destinationOffset, denied.Masked()), drop())
	}
	rule(forward, to, unsolicited(), drop())

	nat := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	rule(nat, from, []expr.Any{&expr.Masq{}})
	return conn.Flush()
}

// removePolicy deletes the driver's table, if it exists.
func (d *Driver) removePolicy() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: d.cfg.NftTable})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nftables table %s: %w", d.cfg.NftTable, err)
	}
	return nil
}

// match matches packets whose address at offset is in prefix.
func match(offset uint32, prefix netip.Prefix) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(prefix.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Addr().AsSlice()},
	}
}

// unsolicited matches packets that neither belong to a connection nor relate to
// one.
func unsolicited() []expr.Any {
	known := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: known, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)},
	}
}

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
