//go:build node

package containerd_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/containerd"
)

// printed collects output of a driver.
type printed struct {
	mu    sync.Mutex
	lines map[sandbox.ID][]string
}

func (p *printed) record(id sandbox.ID, _ sandbox.Stream, line []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines[id] = append(p.lines[id], string(line))
}

func (p *printed) get(id sandbox.ID) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines[id])
}

// await polls until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// world is a driver with the static image.
type world struct {
	*containerd.Driver
	cfg containerd.Config
	out *printed
}

func newWorld(t *testing.T) world {
	t.Helper()
	cfg := config(t)
	out := &printed{lines: map[sandbox.ID][]string{}}
	cfg.Output = out.record
	d := open(t, cfg)
	if _, err := d.Pull(t.Context(), static); err != nil {
		t.Fatal(err)
	}
	return world{d, cfg, out}
}

// run creates and starts a sandbox.
func (w world) run(t *testing.T, id sandbox.ID, args ...string) {
	t.Helper()
	if _, err := w.Create(t.Context(), spec(t, id, args...)); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// answers runs the program until it has printed n lines and returns them.
func (w world) answers(t *testing.T, id sandbox.ID, n int, args ...string) []string {
	t.Helper()
	w.run(t, id, args...)
	await(t, fmt.Sprintf("%d lines of %s", n, id), func() bool { return len(w.out.get(id)) >= n })
	return w.out.get(id)
}

// address returns a sandbox's address, from its lease.
func (w world) address(t *testing.T, id sandbox.ID) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.cfg.DataDir, "cni", "ipam", "*", "*.*.*.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if holder, _, _ := strings.Cut(string(content), "\r\n"); strings.TrimSpace(holder) == string(id) {
			return filepath.Base(f)
		}
	}
	t.Fatalf("%s has no lease among %q", id, files)
	return ""
}

// accept accepts connections and answers the first line of each with the
// caller's address, until the test ends.
func accept(t *testing.T, l net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := bufio.NewReader(c).ReadString('\n'); err == nil {
				_, _ = fmt.Fprintln(c, c.RemoteAddr())
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

// metadataService puts a listener on a link-local address, as clouds do.
func metadataService(t *testing.T) string {
	t.Helper()
	link := &netlink.Veth{ // its other end leads nowhere; not every kernel has dummy interfaces
		LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("hm%d", os.Getpid())}, PeerName: fmt.Sprintf("hn%d", os.Getpid()),
	}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	addr, err := netlink.ParseAddr("169.254.77.7/32")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "169.254.77.7:0")
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l)
	return l.Addr().String()
}

// outside makes a network namespace that stands for the internet and a server
// in it. The host reaches it through its own address gateway.
func outside(t *testing.T) (server, gateway string) {
	t.Helper()
	host, peer := fmt.Sprintf("ho%d", os.Getpid()), fmt.Sprintf("hp%d", os.Getpid())
	var l net.Listener
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	origin, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = origin.Close() }()
	there, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = there.Close() })
	must := func(err error) {
		if err != nil {
			_ = netns.Set(origin)
			t.Fatal(err)
		}
	}
	must(netns.Set(origin))
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host}, PeerName: peer}))
	t.Cleanup(func() { _ = netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: host}}) })
	up := func(name, address string) {
		link, err := netlink.LinkByName(name)
		must(err)
		a, err := netlink.ParseAddr(address)
		must(err)
		must(netlink.AddrAdd(link, a))
		must(netlink.LinkSetUp(link))
	}
	link, err := netlink.LinkByName(peer)
	must(err)
	must(netlink.LinkSetNsFd(link, int(there)))
	up(host, "198.51.100.1/30")
	must(netns.Set(there))
	up(peer, "198.51.100.2/30")
	l, err = net.Listen("tcp", "198.51.100.2:0")
	must(err)
	must(netns.Set(origin))
	accept(t, l)
	return l.Addr().String(), "198.51.100.1"
}

// hostAddresses returns the IPv4 addresses of this host, loopback excepted, and
// those to other drivers' sandboxes, which come and go.
func hostAddresses(t *testing.T, own netip.Prefix) []string {
	t.Helper()
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			continue // gone meanwhile
		}
		for _, a := range addresses {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || !p.Addr().Is4() || p.Addr().IsLoopback() {
				continue
			}
			// Links of other tests come and go.
			theirs := strings.HasPrefix(i.Name, "veth") || strings.HasPrefix(i.Name, "hearth")
			if !theirs || own.Contains(p.Addr()) {
				found = append(found, p.Addr().String())
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func removeTables(t *testing.T, names ...string) {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

// expect wants every answer to a dial to be this one, those from the sandbox's
// own loopback to be none.
func expect(t *testing.T, lines []string, answer string) {
	t.Helper()
	for _, line := range lines {
		want := answer
		if strings.HasPrefix(line, "127.") {
			want = "silent"
		}
		if !strings.HasSuffix(line, " "+want) {
			t.Errorf("want %s: %s", want, line)
		}
	}
}

// TestNothingBesideTheOutsideAnswers dials, from inside a sandbox, everything it
// must not reach, and then again without the policy, when all of it answers: it
// is the policy that keeps them silent.
func TestNothingBesideTheOutsideAnswers(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	const port = ":8080"
	w.answers(t, "sibling", 1, "serve", port)
	other.answers(t, "stranger", 1, "serve", port)
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l)
	_, hostPort, _ := net.SplitHostPort(l.Addr().String())

	silent := []string{
		w.address(t, "sibling") + port,
		other.address(t, "stranger") + port,
		metadataService(t),
	}
	own := hostAddresses(t, w.cfg.Subnet)
	if gateway := w.cfg.Subnet.Addr().Next().String(); !slices.Contains(own, gateway) {
		t.Errorf("the gateway %s is not among the host's addresses %q", gateway, own)
	}
	for _, a := range own {
		silent = append(silent, net.JoinHostPort(a, hostPort))
	}
	loopback := net.JoinHostPort("127.0.0.1", hostPort)

	dial := append([]string{"dial", loopback}, silent...)
	expect(t, w.answers(t, "inside", len(silent)+1, dial...), "silent")
	for _, address := range silent[:2] { // and nobody comes in
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			_ = c.Close()
			t.Errorf("from the host: %s answers", address)
		}
	}

	removeTables(t, w.cfg.NftTable, other.cfg.NftTable)
	expect(t, w.answers(t, "unbound", len(silent)+1, dial...), "answered")
}

func TestTheOutsideIsReachedWithTheHostsAddress(t *testing.T) {
	w := newWorld(t)
	server, gateway := outside(t)
	got := w.answers(t, "caller", 1, "talk", server, "hello")
	if host, _, _ := net.SplitHostPort(got[0]); host != gateway {
		t.Errorf("the server saw %q, want the host's %s", got[0], gateway)
	}
}

func TestThereIsNoIPv6BesideLoopback(t *testing.T) {
	w := newWorld(t)
	w.run(t, "six", "cat", "/proc/net/if_inet6")
	await(t, "the end", func() bool { return stopped(t, w.Driver, "six") })
	if err := w.Remove(t.Context(), "six"); err != nil {
		t.Fatal(err)
	}
	for _, line := range w.out.get("six") {
		if !strings.HasSuffix(line, " lo") {
			t.Errorf("an address: %s", line)
		}
	}
}

func stopped(t *testing.T, d *containerd.Driver, id sandbox.ID) bool {
	t.Helper()
	return status(t, d, id).State == sandbox.StateStopped
}

func status(t *testing.T, d *containerd.Driver, id sandbox.ID) sandbox.Status {
	t.Helper()
	all, err := d.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.ID == id {
			return s
		}
	}
	return sandbox.Status{}
}
