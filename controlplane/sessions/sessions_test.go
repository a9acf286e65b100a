package sessions_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/router"
	"github.com/hearth-compute/hearth/controlplane/sessions"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
	invokev1 "github.com/hearth-compute/hearth/proto/hearth/invoke/v1"
)

// archives is an artifact store of one archive.
type archives map[string]string

func (a archives) Open(_ context.Context, sha string) (io.ReadCloser, error) {
	body, ok := a[sha]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return io.NopCloser(strings.NewReader(body)), nil
}

// rig is a running server and what a test needs to talk to it.
type rig struct {
	*sessions.Server
	db      store.DB
	tokens  *sessions.Tokens
	ca      *sessions.CA
	changes atomic.Int64
}

// newStore makes a store with the provider "p" and an authority beside it.
func newStore(t *testing.T) (store.DB, *sessions.CA) {
	t.Helper()
	dir := t.TempDir()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "hearth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	err = db.Update(t.Context(), func(w store.Writer) error {
		return w.PutProvider(controlplane.CapacityProvider{Name: "p"})
	})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := sessions.OpenCA(filepath.Join(dir, "ca"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return db, ca
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigWith(t, nil)
}

// newRigWith is newRig with somebody who assumes roles.
func newRigWith(t *testing.T, credentials sessions.Credentials) *rig {
	t.Helper()
	db, ca := newStore(t)
	r := &rig{db: db, ca: ca, tokens: sessions.NewTokens(db, ca, "static")}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.Server, err = sessions.New(sessions.Config{
		Listener: lis, CA: r.ca, Tokens: r.tokens, Artifacts: archives{"abc": "the archive"},
		Changed: func() { r.changes.Add(1) }, Credentials: credentials, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel(errors.New("end of the test"))
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return r
}

// agent is a joined agent's credentials.
type agent struct {
	id  controlplane.InstanceID
	tls *tls.Config
}

func (r *rig) dial(t *testing.T, cfg *tls.Config) agentv1.AgentServiceClient {
	t.Helper()
	cc, err := grpc.NewClient(r.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return agentv1.NewAgentServiceClient(cc)
}

func (r *rig) roots() *tls.Config {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.ca.PEM())
	return &tls.Config{RootCAs: pool, ServerName: sessions.ServerName, MinVersion: tls.VersionTLS13}
}

// mint makes a token: for a host that joins, or for an instance that we launched.
func (r *rig) mint(t *testing.T, id controlplane.InstanceID) string {
	t.Helper()
	if id != "" {
		must(t, r.db.Update(t.Context(), func(w store.Writer) error {
			return w.PutInstance(controlplane.Instance{ID: id, Provider: "p", State: controlplane.InstanceLaunching})
		}))
	}
	token, _, err := r.tokens.Mint(t.Context(), "p", id, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// join makes an agent with a key of its own.
func (r *rig) join(t *testing.T, token string) agent {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a, err := r.joinWith(t, token, key)
	must(t, err)
	return a
}

func (r *rig) joinWith(t *testing.T, token string, key *ecdsa.PrivateKey) (agent, error) {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.dial(t, r.roots()).Join(t.Context(), &agentv1.JoinRequest{Token: token, Csr: csr})
	if err != nil {
		return agent{}, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(resp.GetCertificate(), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		t.Fatal(err)
	}
	cfg := r.roots()
	cfg.Certificates = []tls.Certificate{pair}
	return agent{id: controlplane.InstanceID(resp.GetInstanceId()), tls: cfg}, nil
}

// data opens a data connection served by svc and returns its cut.
func (r *rig) data(t *testing.T, a agent, svc invokev1.InvokeServiceServer) (cut func()) {
	t.Helper()
	cfg := a.tls.Clone()
	cfg.NextProtos = []string{"hearth-data/1"}
	conn, err := tls.Dial("tcp", r.Addr().String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	invokev1.RegisterInvokeServiceServer(g, svc)
	lis := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{})}
	lis.conn <- conn
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Serve(lis) })
	t.Cleanup(func() { g.Stop(); wg.Wait() })
	return func() { _ = conn.NetConn().Close() }
}

// oneConn is a listener of one connection.
type oneConn struct {
	conn chan net.Conn
	done chan struct{}
	once sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error { l.once.Do(func() { close(l.done) }); return nil }
func (*oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open begins a session and registers.
func (r *rig) open(t *testing.T, ctx context.Context, a agent, reg *agentv1.SessionRequest) agentv1.AgentService_SessionClient { //nolint:revive // the test's context is not always the one
	t.Helper()
	s, err := r.dial(t, a.tls).Session(ctx)
	must(t, err)
	must(t, s.Send(reg))
	return s
}

// download reads the first piece of an archive.
func (r *rig) download(t *testing.T, a agent, sha string) (string, error) {
	t.Helper()
	d, err := r.dial(t, a.tls).DownloadArtifact(t.Context(), &agentv1.DownloadArtifactRequest{Sha256: sha})
	must(t, err)
	m, err := d.Recv()
	return string(m.GetChunk()), err
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen in 10 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// heard is what the agent of i-1 said.
func (r *rig) heard() sessions.Heard {
	for _, h := range r.Heard() {
		if h.Instance == "i-1" {
			return h
		}
	}
	return sessions.Heard{}
}

func register(zone string) *agentv1.SessionRequest {
	return &agentv1.SessionRequest{Message: &agentv1.SessionRequest_Register{Register: &agentv1.Register{
		Zone: zone, Allocatable: &agentv1.Resources{MilliCpu: 2000, MemoryBytes: 8 << 30},
	}}}
}

func TestATokenIsGoodForOneInstance(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token := r.mint(t, "")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	first, err := r.joinWith(t, token, key)
	must(t, err)
	again, err := r.joinWith(t, token, key) // the answer to the first may have been lost
	must(t, err)
	if first.id == "" || again.id != first.id {
		t.Fatalf("got instances %q and %q, want the same", first.id, again.id)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	if _, err := r.joinWith(t, token, other); status.Code(err) != codes.Unauthenticated {
		t.Errorf("another host with the same token: got %v, want Unauthenticated", err)
	}
	if other := r.join(t, r.mint(t, "")); other.id == first.id {
		t.Fatalf("two tokens made the same instance %q", other.id)
	}
	if named := r.join(t, r.mint(t, "i-mine")); named.id != "i-mine" {
		t.Fatalf("got %q, want the instance the token was made for", named.id)
	}
}

func TestBadTokensAreUnauthenticated(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	good := r.mint(t, "i-1")
	expired, _, err := r.tokens.Mint(t.Context(), "p", "i-2", time.Second, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"empty": "", "garbage": "hearth", "unknown": "hearth1.x.y.z", "expired": expired,
		"wrong secret": strings.Join([]string{parts[0], parts[1], "guess", parts[3]}, "."),
	} {
		key, kerr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, kerr)
		_, err := r.joinWith(t, token, key)
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s token: got %v, want Unauthenticated", name, err)
		}
	}
	if _, _, err := r.tokens.Mint(t.Context(), "nobody", "", time.Hour, time.Now()); !errdefs.IsNotFound(err) {
		t.Errorf("token for an unknown provider: got %v, want NotFound", err)
	}
	if _, _, err := r.tokens.Mint(t.Context(), "p", "", 31*24*time.Hour, time.Now()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("token for 31 days: got %v, want InvalidArgument", err)
	}
}

func TestNothingButJoinWithoutACertificate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.dial(t, r.roots())
	s, err := c.Session(t.Context())
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("session: got %v, want Unauthenticated", err)
	}
	d, err := c.DownloadArtifact(t.Context(), &agentv1.DownloadArtifactRequest{Sha256: "abc"})
	if err == nil {
		_, err = d.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("download: got %v, want Unauthenticated", err)
	}
}

func TestInvariant3_TheLastDesiredSetArrivesAlsoAfterAReconnect(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	want := controlplane.DesiredSet{Epoch: 2, Generation: 7, Environments: []controlplane.Placement{{
		Assignment: controlplane.Assignment{
			Environment: "e-1", Function: "f", Qualifier: "1",
			Publication: controlplane.Publication{Revision: "r", Config: controlplane.Config{MemoryMB: 512, TimeoutS: 3}, Code: controlplane.Code{SHA256: "abc"}},
		},
	}}}
	r.Desire("i-1", want)
	r.Desire("i-1", controlplane.DesiredSet{Epoch: 1, Generation: 9}) // older: ignored
	for range 2 {
		ctx, cancel := context.WithCancelCause(t.Context())
		m, err := r.open(t, ctx, a, register("a")).Recv()
		must(t, err)
		got := m.GetDesiredSet()
		if got.GetEpoch() != 2 || got.GetGeneration() != 7 || len(got.GetEnvironments()) != 1 {
			t.Fatalf("got %v, want the set of epoch 2, generation 7", got)
		}
		as := got.GetEnvironments()[0].GetAssignment()
		if as.GetLimits().GetMilliCpu() != 250 || as.GetMaxConcurrency() != 2 || as.GetInitTimeout().AsDuration() != 130*time.Second {
			t.Errorf("got assignment %v; want 250 mCPU, 2 at once, 130 s to start", as)
		}
		cancel(errors.New("cut"))
		eventually(t, "the end of the session", func() bool { return !r.heard().Connected })
	}
	if got, err := r.download(t, a, "abc"); err != nil || got != "the archive" {
		t.Errorf("got %q, %v; want the archive", got, err)
	}
	if _, err := r.download(t, a, "other"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an archive nothing assigned uses: got %v, want PermissionDenied", err)
	}
}

// TestAnInstanceThatIsGoneIsNotServed although its certificate is still good.
func TestAnInstanceThatIsGoneIsNotServed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	must(t, r.db.Update(t.Context(), func(w store.Writer) error { return w.DeleteInstance("i-1") }))
	if _, err := r.open(t, t.Context(), a, register("a")).Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("got %v, want NotFound", err)
	}
}

// TestAnUnsentCallGoesToTheNextConnection of the same instance.
func TestAnUnsentCallGoesToTheNextConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	echo := scripted(nil, nil)
	cuts := []func(){r.data(t, a, echo), r.data(t, a, echo), r.data(t, a, echo)}
	call := func() error {
		_, err := r.Call(t.Context(), router.Endpoint{Environment: "e-1", Instance: "i-1"}, controlplane.InvokeRequest{Payload: []byte("x")}, time.Second)
		return err
	}
	eventually(t, "all data connections", func() bool { return r.DataConnections("i-1") == len(cuts) })
	must(t, call())
	cuts[0]()
	cuts[1]()
	for range 50 { // whatever was noticed already, one connection is left
		var lost *controlplane.LostError
		if err := call(); err != nil && !errors.As(err, &lost) {
			t.Fatalf("got %v although a connection is left", err)
		}
	}
	must(t, call())
}

func TestInvariant2_ANewerSessionEndsTheOlder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	open := func(zone string) agentv1.AgentService_SessionClient {
		s := r.open(t, t.Context(), a, register(zone))
		eventually(t, "registration", func() bool { return r.heard().Zone == controlplane.Zone(zone) })
		return s
	}
	old := open("a")
	open("b")
	if _, err := old.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the older session: got %v, want Aborted", err)
	}
	if h := r.heard(); h.Zone != "b" {
		t.Errorf("got zone %q, want what the newer session said", h.Zone)
	}
}

func TestAnAssignmentComesBackAsItWent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	for _, mb := range []int{128, 300, 2048, 3008, 32768} {
		for _, ratio := range []float64{0, 2, 3, 8} {
			sent := controlplane.Placement{Assignment: controlplane.Assignment{
				Environment: "e-1", Function: "f", Qualifier: "1", ARN: "arn", Image: controlplane.Image{Ref: "img"},
				Publication: controlplane.Publication{Revision: "r", Config: controlplane.Config{
					MemoryMB: mb, GiBPerVCPU: ratio, TimeoutS: 3, EphemeralMB: 512, Handler: "h", Runtime: "rt",
					Variables: map[string]string{"A": "b"},
				}},
			}}
			r.Desire("i-1", controlplane.DesiredSet{Epoch: uint64(mb), Generation: uint64(ratio * 10), Environments: []controlplane.Placement{sent}})
			m, err := r.open(t, t.Context(), a, register("z")).Recv()
			must(t, err)
			// The agent registers again with what it was told.
			reg := register("z")
			reg.GetRegister().Accepted = m.GetDesiredSet()
			r.open(t, t.Context(), a, reg)
			eventually(t, "registration", func() bool { return r.heard().Generation == uint64(ratio*10) && r.heard().Epoch == uint64(mb) })
			back := r.heard().Accepted.Environments[0].Assignment
			want := sent.Assignment
			if back.Config.Resources() != want.Config.Resources() {
				t.Fatalf("%d MB, ratio %g: got %+v want %+v", mb, ratio, back.Config.Resources(), want.Config.Resources())
			}
			// The wire has the effective values, not whether they were defaults.
			want.Config.GiBPerVCPU, want.Config.MaxConcurrency = back.Config.GiBPerVCPU, want.Config.Concurrency()
			if d := cmp.Diff(want, back); d != "" {
				t.Fatalf("%d MB, ratio %g (-sent +back):\n%s", mb, ratio, d)
			}
		}
	}
}

// invoker is an agent's data path, scripted.
type invoker struct {
	invokev1.UnimplementedInvokeServiceServer

	invoke func(*invokev1.InvokeRequest) (*invokev1.InvokeResponse, error)
	stream func(invokev1.InvokeService_InvokeStreamServer) error
}

func (i *invoker) Invoke(_ context.Context, r *invokev1.InvokeRequest) (*invokev1.InvokeResponse, error) {
	return i.invoke(r)
}

func (i *invoker) InvokeStream(s invokev1.InvokeService_InvokeStreamServer) error { return i.stream(s) }

// scripted is an agent that echoes, refuses what says "refuse", and hangs on
// "hang" until hold is closed.
func scripted(entered, hold chan struct{}) *invoker {
	return &invoker{
		invoke: func(req *invokev1.InvokeRequest) (*invokev1.InvokeResponse, error) {
			switch string(req.GetPayload()) {
			case "refuse":
				st, err := status.New(codes.ResourceExhausted, "full").WithDetails(&invokev1.Refusal{
					Reason: invokev1.RefusalReason_REFUSAL_REASON_MEMORY, RetryAfter: durationpb.New(2 * time.Second),
				})
				if err != nil {
					return nil, err
				}
				return nil, st.Err()
			case "hang":
				close(entered)
				<-hold
			}
			return &invokev1.InvokeResponse{Head: &invokev1.ResponseHead{FunctionError: "Unhandled"}, Payload: req.GetPayload()}, nil
		},
		stream: func(s invokev1.InvokeService_InvokeStreamServer) error {
			size, err := receive(s)
			if err != nil {
				return err
			}
			return errors.Join(
				s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_Head{Head: &invokev1.ResponseHead{ContentType: "text/x"}}}),
				s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_Chunk{Chunk: make([]byte, size/2)}}),
				s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_Chunk{Chunk: make([]byte, size-size/2)}}),
				s.Send(&invokev1.InvokeStreamResponse{Message: &invokev1.InvokeStreamResponse_End{End: &invokev1.ResponseEnd{}}}),
			)
		},
	}
}

// receive counts a streamed payload.
func receive(s invokev1.InvokeService_InvokeStreamServer) (size int, err error) {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return 0, err
		}
		if len(m.GetChunk()) > 64<<10 {
			return 0, status.Error(codes.Internal, "chunk too large")
		}
		size += len(m.GetChunk())
	}
}

func TestCallsTravelOnTheAgentsConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	entered, hold := make(chan struct{}), make(chan struct{})
	cut := r.data(t, a, scripted(entered, hold))
	defer close(hold)
	call := func(payload string) (controlplane.InvokeResult, error) {
		return r.Call(t.Context(), router.Endpoint{Environment: "e-1", Instance: "i-1"}, controlplane.InvokeRequest{Payload: []byte(payload)}, time.Second)
	}
	eventually(t, "the data connection", func() bool { _, err := call("x"); return err == nil })

	res, err := call("hello")
	must(t, err)
	if string(res.Payload) != "hello" || res.FunctionError != "Unhandled" {
		t.Fatalf("got %+v", res)
	}
	res, err = call(strings.Repeat("x", 3<<20))
	must(t, err)
	if len(res.Payload) != 3<<20 || res.ContentType != "text/x" {
		t.Fatalf("3 MiB: got %d bytes of %q", len(res.Payload), res.ContentType)
	}
	var refused *router.RefusedError
	if _, err = call("refuse"); !errors.As(err, &refused) || refused.Reason != router.RefusedMemory || refused.RetryAfter != 2*time.Second {
		t.Fatalf("got %v, want a refusal for memory", err)
	}
	// The connection breaks while the agent has the event: that is lost.
	failed := make(chan error, 1)
	go func() { _, err := call("hang"); failed <- err }()
	<-entered
	cut()
	var lost *controlplane.LostError
	if err := <-failed; !errors.As(err, &lost) {
		t.Fatalf("got %v, want a LostError", err)
	}
	// Now nothing can be sent: that may be tried elsewhere.
	eventually(t, "noticing the cut", func() bool {
		_, err := call("x")
		return errors.As(err, &refused) && refused.Reason == router.RefusedUnreachable
	})
}
