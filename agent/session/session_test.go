package session_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/session"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// authority is a control service's certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) sign(t testing.TB, tmpl *x509.Certificate, public any) []byte {
	t.Helper()
	tmpl.SerialNumber = big.NewInt(2)
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(1000*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// server is a certificate for name with the authority behind it.
func (a *authority) server(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := a.sign(t, &x509.Certificate{DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, &key.PublicKey)
	return tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
}

func (a *authority) token() string {
	sum := sha256.Sum256(a.cert.RawSubjectPublicKeyInfo)
	return "hearth1.id.secret." + hex.EncodeToString(sum[:])
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// control is a control service.
type control struct {
	agentv1.UnimplementedAgentServiceServer
	t         testing.TB
	authority *authority
	lis       *bufconn.Listener
	server    *grpc.Server
	wg        sync.WaitGroup

	registers chan *agentv1.Register
	reports   chan *agentv1.Report
	sets      chan *agentv1.DesiredSet
	messages  chan *agentv1.SessionResponse
	data      chan *tls.Conn
	files     map[string][]byte

	mu      sync.Mutex
	joins   int
	keys    [][]byte // public keys that came with requests to join
	refuse  error
	answer  *agentv1.JoinResponse // instead of the right one
	session chan error            // ends the running session
}

// newControl runs a control service with a certificate for name.
func newControl(t testing.TB, a *authority, name string) *control {
	t.Helper()
	c := &control{
		t: t, authority: a, lis: bufconn.Listen(64 << 10),
		registers: make(chan *agentv1.Register, 100), reports: make(chan *agentv1.Report, 10000),
		sets: make(chan *agentv1.DesiredSet, 10), messages: make(chan *agentv1.SessionResponse), data: make(chan *tls.Conn, 100),
		files: map[string][]byte{}, session: make(chan error),
	}
	c.serve(c.lis, a.server(t, name))
	return c
}

// serve splits connections by protocol, as a control service does.
func (c *control) serve(lis *bufconn.Listener, cert tls.Certificate) {
	pool := x509.NewCertPool()
	pool.AddCert(c.authority.cert)
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs: pool, NextProtos: []string{"hearth-data/1", "h2"},
	}
	c.server = grpc.NewServer(grpc.Creds(splitter{credentials.NewTLS(cfg), c}))
	agentv1.RegisterAgentServiceServer(c.server, c)
	c.wg.Go(func() { _ = c.server.Serve(lis) })
}

// stop ends the control service.
func (c *control) stop() {
	c.server.Stop()
	c.wg.Wait()
}

// splitter takes data connections away from the gRPC server.
type splitter struct {
	credentials.TransportCredentials
	c *control
}

func (s splitter) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := s.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return conn, info, err
	}
	if t, ok := info.(credentials.TLSInfo); ok && t.State.NegotiatedProtocol == "hearth-data/1" {
		s.c.data <- conn.(interface{ NetConn() net.Conn }).(*tls.Conn)
		return nil, nil, credentials.ErrConnDispatched
	}
	return conn, info, nil
}

func (c *control) Join(_ context.Context, req *agentv1.JoinRequest) (*agentv1.JoinResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joins++
	if csr, err := x509.ParseCertificateRequest(req.GetCsr()); err == nil {
		c.keys = append(c.keys, csr.RawSubjectPublicKeyInfo)
	}
	if c.refuse != nil {
		return nil, c.refuse
	}
	if req.GetToken() != c.authority.token() {
		return nil, status.Error(codes.Unauthenticated, "unknown token")
	}
	if c.answer != nil {
		return c.answer, nil
	}
	csr, err := x509.ParseCertificateRequest(req.GetCsr())
	if err != nil || csr.CheckSignature() != nil {
		return nil, status.Error(codes.InvalidArgument, "bad request")
	}
	der := c.authority.sign(c.t, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "i-1", Organization: []string{"provider"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, csr.PublicKey)
	return &agentv1.JoinResponse{InstanceId: "i-1", CapacityProvider: "provider", Certificate: pemOf(der), Ca: pemOf(c.authority.cert.Raw)}, nil
}

func (c *control) Session(stream agentv1.AgentService_SessionServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if m.GetRegister() == nil {
		c.t.Errorf("the first message is %v", m)
	}
	c.registers <- m.GetRegister()
	received := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			if m.GetReport() == nil {
				c.t.Errorf("got %v after register", m)
			}
			c.reports <- m.GetReport()
		}
	}()
	for {
		select {
		case err := <-received:
			return err
		case err := <-c.session:
			return err
		case m := <-c.messages:
			err = stream.Send(m)
		case set := <-c.sets:
			err = stream.Send(&agentv1.SessionResponse{Message: &agentv1.SessionResponse_DesiredSet{DesiredSet: set}})
		}
		if err != nil {
			return err
		}
	}
}

func (c *control) DownloadArtifact(req *agentv1.DownloadArtifactRequest, stream agentv1.AgentService_DownloadArtifactServer) error {
	content, ok := c.files[req.GetSha256()]
	if !ok {
		return status.Error(codes.NotFound, "no such archive")
	}
	for len(content) > 0 {
		n := min(64<<10, len(content))
		if err := stream.Send(&agentv1.DownloadArtifactResponse{Chunk: content[:n]}); err != nil {
			return err
		}
		content = content[n:]
	}
	return nil
}

// node is an agent's inside.
type node struct {
	mu      sync.Mutex
	applied []agent.DesiredSet
	refuse  error
	report  agent.Report

	credentials []agent.RoleCredentials
}

func (n *node) Apply(set agent.DesiredSet) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.refuse != nil {
		n.report.Refused = n.refuse.Error()
		return n.refuse
	}
	n.applied = append(n.applied, set)
	return nil
}

func (n *node) Credentials(c agent.RoleCredentials) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.credentials = append(n.credentials, c)
}

func (n *node) Accepted() (agent.DesiredSet, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.applied) == 0 {
		return agent.DesiredSet{}, false
	}
	return n.applied[len(n.applied)-1], true
}

func (n *node) Report() agent.Report {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.report.At = time.Now()
	return n.report
}

func (n *node) sets() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.applied)
}

// hosts dials control services by name; a missing one refuses.
type hosts struct {
	mu    sync.Mutex
	lis   map[string]*bufconn.Listener
	dials map[string]int
}

// set replaces the only control service, c:1.
func (h *hosts) set(lis *bufconn.Listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lis["c:1"] = lis
}

func (h *hosts) dial(ctx context.Context, address string) (net.Conn, error) {
	h.mu.Lock()
	lis := h.lis[address]
	h.dials[address]++
	h.mu.Unlock()
	if lis == nil {
		return nil, errors.New("connection refused")
	}
	conn, err := lis.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	return &likeTCP{Conn: conn}, nil
}

// likeTCP is a connection that may be closed only once.
type likeTCP struct {
	net.Conn

	closed atomic.Bool
}

func (c *likeTCP) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	return c.Conn.Close()
}

// running is a session at work.
type running struct {
	*session.Session
	client *session.Client
	node   *node
	done   chan error
	stop   func()
}

func run(t testing.TB, dir, token string, h *hosts, controls ...string) *running {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	data := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(data, health.NewServer())
	r := &running{node: &node{}, done: make(chan error, 1)}
	r.client = session.NewClient(session.ClientConfig{
		Controls: controls, Dir: dir, Dial: h.dial, Log: log,
		Token: func() (string, error) {
			if token == "" {
				return "", errors.New("asked for the token")
			}
			return token, nil
		},
	})
	r.Session = session.New(session.Config{
		Client: r.client, Node: r.node, Data: data, DataConnections: 2, Log: log,
		Registration: session.Registration{
			Version: "v1", ProcessID: "p", Allocatable: agent.Resources{CPU: 2000, Memory: 8 << 30},
			Architecture: "x86_64", Zone: "z", CapacityProvider: "provider", Hostname: "h",
		},
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { r.done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel(nil)
		if err := <-r.done; err != nil {
			t.Errorf("got %v", err)
		}
		data.Stop()
	})
	return r
}

func TestJoinSessionReportAndDesiredSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		c := newControl(t, a, "hearth-control")
		defer c.stop()
		h := &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}
		dir := filepath.Join(t.TempDir(), "identity")
		r := run(t, dir, a.token(), h, "c:1")
		defer r.stop()
		reg := <-c.registers
		want := &agentv1.Register{
			AgentVersion: "v1", ProcessId: "p", Allocatable: &agentv1.Resources{MilliCpu: 2000, MemoryBytes: 8 << 30},
			Architecture: "x86_64", Zone: "z", CapacityProvider: "provider", Hostname: "h",
		}
		if !proto.Equal(want, reg) {
			t.Errorf("got %v want %v", reg, want)
		}
		synctest.Wait()
		info, err := os.Stat(filepath.Join(dir, "key.pem"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("got %v %v", info, err)
		}
		// A report at once, one a second, and one on a nudge.
		<-c.reports
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(c.reports); n < 9 || n > 11 {
			t.Errorf("got %d reports in ten seconds", n)
		}
		time.Sleep(100 * time.Millisecond)
		before := len(c.reports)
		for range 100 {
			r.Nudge()
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if n := len(c.reports) - before; n < 1 || n > 2 {
			t.Errorf("a hundred nudges made %d reports", n)
		}
		c.sets <- &agentv1.DesiredSet{Epoch: 3, Generation: 4, StopIntent: agentv1.StopIntent_STOP_INTENT_DRAIN}
		synctest.Wait()
		got, _ := r.node.Accepted()
		if d := cmp.Diff(agent.DesiredSet{Epoch: 3, Generation: 4, Intent: agent.StopDrain}, got); d != "" {
			t.Error(d)
		}
		if n := len(c.data); n != 2 {
			t.Errorf("got %d data connections", n)
		}
	})
}

func TestASessionResumesWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		c := newControl(t, a, "hearth-control")
		h := &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}
		r := run(t, t.TempDir(), a.token(), h, "c:1")
		defer r.stop()
		<-c.registers
		c.sets <- &agentv1.DesiredSet{Epoch: 3, Generation: 4}
		synctest.Wait()
		// The stream ends.
		c.session <- status.Error(codes.Aborted, "replaced")
		began := time.Now()
		if reg := <-c.registers; reg.GetAccepted().GetGeneration() != 4 || time.Since(began) > 200*time.Millisecond {
			t.Errorf("got %v after %v", reg, time.Since(began))
		}
		// The control service is away for an hour.
		c.stop()
		h.set(nil)
		time.Sleep(time.Hour)
		h.mu.Lock()
		dials := h.dials["c:1"]
		h.mu.Unlock()
		// One session and two data connections, each at most every 2.5 to 5 s.
		if dials < 3*3600/7 || dials > 3*3600/2 {
			t.Errorf("got %d dials in an hour", dials)
		}
		back := newControl(t, a, "hearth-control")
		defer back.stop()
		h.set(back.lis)
		began = time.Now()
		if reg := <-back.registers; reg.GetAccepted().GetEpoch() != 3 || time.Since(began) > 8*time.Second {
			t.Errorf("got %v after %v", reg, time.Since(began))
		}
		<-back.data
		<-back.data
		if c.joins != 1 || back.joins != 0 {
			t.Errorf("joined %d and %d times", c.joins, back.joins)
		}
	})
}

func TestEveryControlServiceHearsTheReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		one, two := newControl(t, a, "hearth-control"), newControl(t, a, "hearth-control")
		defer one.stop()
		defer two.stop()
		h := &hosts{lis: map[string]*bufconn.Listener{"one:1": one.lis, "two:1": two.lis}, dials: map[string]int{}}
		r := run(t, t.TempDir(), a.token(), h, "gone:1", "one:1", "two:1")
		defer r.stop()
		<-one.registers
		<-two.registers
		<-one.reports
		<-two.reports
		one.sets <- &agentv1.DesiredSet{Epoch: 1, Generation: 1}
		two.sets <- &agentv1.DesiredSet{Epoch: 2, Generation: 1}
		synctest.Wait()
		if n := r.node.sets(); n != 2 {
			t.Errorf("got %d sets", n)
		}
		// Code comes from whoever has it.
		two.files["abc"] = bytes.Repeat([]byte("x"), 200_000)
		var got bytes.Buffer
		if err := r.client.Fetch(t.Context(), "abc", &got); err != nil || !bytes.Equal(got.Bytes(), two.files["abc"]) {
			t.Errorf("got %d bytes, %v", got.Len(), err)
		}
		if err := r.client.Fetch(t.Context(), "nowhere", &got); !errdefs.IsNotFound(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestOnADataConnectionTheAgentIsTheServer(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	c := newControl(t, a, "hearth-control")
	defer c.stop()
	h := &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}
	r := run(t, t.TempDir(), a.token(), h, "c:1")
	defer r.stop()
	for range 3 { // the third replaces the first, which breaks
		conn := <-c.data
		if id := conn.ConnectionState().PeerCertificates[0].Subject; id.CommonName != "i-1" || id.Organization[0] != "provider" {
			t.Fatalf("got %v", id)
		}
		used := make(chan struct{}, 1)
		cc, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
				select {
				case used <- struct{}{}:
					return conn, nil
				default:
					return nil, errors.New("only once")
				}
			}))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := grpc_health_v1.NewHealthClient(cc).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Fatalf("got %v %v", resp, err)
		}
		if err := cc.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInvariant1_OnlyTheAuthorityInTheTokenIsTrusted(t *testing.T) {
	right, wrong := newAuthority(t), newAuthority(t)
	for name, tc := range map[string]struct {
		serve *authority
		as    string
		token string
		alter func(*control)
		want  func(error) bool
	}{
		"a token nobody knows":  {right, "hearth-control", right.token()[:11] + "other" + right.token()[17:], nil, errdefs.IsUnauthorized},
		"not a token":           {right, "hearth-control", "hello", nil, errdefs.IsInvalidArgument},
		"a refused token":       {right, "hearth-control", right.token(), func(c *control) { c.refuse = status.Error(codes.Unauthenticated, "used") }, errdefs.IsUnauthorized},
		"another CA afterwards": {right, "hearth-control", right.token(), func(c *control) { c.answer = &agentv1.JoinResponse{Ca: pemOf(wrong.cert.Raw)} }, errdefs.IsUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newControl(t, tc.serve, tc.as)
			defer c.stop()
			if tc.alter != nil {
				tc.alter(c)
			}
			h := &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}
			dir := t.TempDir()
			r := run(t, dir, tc.token, h, "c:1")
			if err := <-r.done; !tc.want(err) {
				t.Fatalf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "cert.pem")); err == nil {
				t.Error("an identity was stored")
			}
		})
	}
	// With another authority, or another name, the token is never even sent.
	for name, tc := range map[string]struct {
		serve *authority
		as    string
	}{"another authority": {wrong, "hearth-control"}, "another name": {right, "example.com"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The bubble has a time of its own: so have the certificates.
				theirs, ours := newAuthority(t), newAuthority(t)
				if tc.serve == right {
					ours = theirs
				}
				c := newControl(t, theirs, tc.as)
				defer c.stop()
				h := &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}
				r := run(t, t.TempDir(), ours.token(), h, "c:1")
				time.Sleep(time.Minute)
				r.stop()
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.joins != 0 || h.dials["c:1"] < 5 {
					t.Fatalf("joined %d times in %d dials", c.joins, h.dials["c:1"])
				}
			})
		})
	}
}

func TestEveryAttemptToJoinIsMadeWithTheSameKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "identity")
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		c := newControl(t, a, "hearth-control")
		defer c.stop()
		h := &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}
		c.refuse = status.Error(codes.Unavailable, "the answer was lost")
		first := run(t, dir, a.token(), h, "c:1")
		time.Sleep(10 * time.Second)
		first.stop() // before it has joined
		info, err := os.Stat(filepath.Join(dir, "key.pem"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the key: %v %v", info, err)
		}
		c.mu.Lock()
		tries := c.joins
		c.refuse = nil
		c.mu.Unlock()
		second := run(t, dir, a.token(), h, "c:1")
		<-c.registers
		second.stop()
		if tries < 2 || len(c.keys) != tries+1 {
			t.Fatalf("got %d attempts, then %d in all", tries, len(c.keys))
		}
		for _, key := range c.keys {
			if !bytes.Equal(key, c.keys[0]) {
				t.Fatal("an attempt was made with another key")
			}
		}
	})
}

func TestAKeyThatCannotBeReadIsNotReplaced(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &hosts{lis: map[string]*bufconn.Listener{}, dials: map[string]int{}}
	if err := <-run(t, dir, a.token(), h, "c:1").done; !errdefs.IsInternal(err) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "damaged" {
		t.Errorf("got %q %v", b, err)
	}
}

func TestAnIdentityNeedsNoToken(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	c := newControl(t, a, "hearth-control")
	defer c.stop()
	h := &hosts{lis: map[string]*bufconn.Listener{"c:1": c.lis}, dials: map[string]int{}}
	dir := t.TempDir()
	first := run(t, dir, a.token(), h, "c:1")
	<-c.registers
	first.stop()
	second := run(t, dir, "", h, "c:1")
	<-c.registers
	second.stop()
	if c.joins != 1 {
		t.Errorf("joined %d times", c.joins)
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-run(t, dir, "", h, "c:1").done; !errdefs.IsInternal(err) {
		t.Errorf("got %v", err)
	}
}

func TestAnAssignmentSurvivesTheWayToItsSandboxAndBack(t *testing.T) {
	t.Parallel()
	for _, want := range []agent.Assignment{
		{
			Environment: "e", FunctionARN: "arn", FunctionName: "f", Version: "1", Revision: "r",
			Image: agent.Image{Ref: "i", Username: "u", Password: "p"}, Code: agent.Code{SHA256: "abc", Size: 5},
			Handler: "h", Runtime: "rt", Variables: map[string]string{"A": "1", "B": "2"},
			Limits: agent.Resources{CPU: 1500, Memory: 1 << 30}, EphemeralStorage: 512 << 20,
			Timeout: 3 * time.Second, InitTimeout: time.Minute, MaxConcurrency: 8,
			Logging: agent.Logging{Format: "JSON", ApplicationLevel: "INFO", SystemLevel: "WARN", Group: "g"},
		},
		{Environment: "image-only"},
	} {
		b, err := session.EncodeAssignment(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := session.DecodeAssignment(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	for _, bad := range []string{"", "\xff\xff"} {
		if _, err := session.DecodeAssignment([]byte(bad)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}
