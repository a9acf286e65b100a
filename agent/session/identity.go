package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"

	"github.com/hearth-compute/hearth/agent"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

const (
	// serverName is in every control service's certificate, whatever its
	// address.
	serverName  = "hearth-control"
	tokenPrefix = "hearth1"

	fileKey, fileCert, fileCA, fileInstance = "key.pem", "cert.pem", "ca.pem", "instance-id"
)

// Identity is who the instance is to the control services.
type Identity struct {
	Instance         agent.InstanceID
	CapacityProvider string
	certificate      tls.Certificate
	roots            *x509.CertPool
}

// tls is the configuration for every connection once joined.
func (id Identity) tls(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   serverName,
		RootCAs:      id.roots,
		Certificates: []tls.Certificate{id.certificate},
		NextProtos:   protocols,
	}
}

// loadIdentity reads what an earlier join left. Errors: NotFound (never joined),
// Internal (files damaged).
func loadIdentity(dir string) (Identity, error) {
	files := map[string][]byte{}
	for _, name := range []string{fileCert, fileKey, fileCA, fileInstance} {
		b, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // fixed names in our own directory
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return Identity{}, fmt.Errorf("identity in %s: %s is missing: %w", dir, name, errdefs.ErrNotFound)
		case err != nil:
			return Identity{}, fmt.Errorf("reading the identity: %w", err)
		}
		files[name] = b
	}
	cert, err := tls.X509KeyPair(files[fileCert], files[fileKey])
	if err != nil {
		return Identity{}, fmt.Errorf("identity in %s: %w: %w", dir, err, errdefs.ErrInternal)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(files[fileCA]) {
		return Identity{}, fmt.Errorf("identity in %s: no certificate in %s: %w", dir, fileCA, errdefs.ErrInternal)
	}
	id := Identity{Instance: agent.InstanceID(strings.TrimSpace(string(files[fileInstance]))), certificate: cert, roots: roots}
	if org := cert.Leaf.Subject.Organization; len(org) > 0 {
		id.CapacityProvider = org[0]
	}
	return id, nil
}

// privateKey returns the instance's key, in PEM too, making and storing it if
// there is none. A control service binds a token to the first key it comes with,
// so the key is on disk before a token is sent, and every later attempt, of this
// process or the next, is made with it. Errors: Internal (file damaged).
func privateKey(dir string) (key *ecdsa.PrivateKey, keyPEM []byte, err error) {
	path := filepath.Join(dir, fileKey)
	keyPEM, err = os.ReadFile(path) //nolint:gosec // a fixed name in our own directory
	switch {
	case err == nil:
		key, err = parseKey(keyPEM)
		if err != nil {
			return nil, nil, fmt.Errorf("private key in %s: %w; remove it and join with a new token: %w", path, err, errdefs.ErrInternal)
		}
		return key, keyPEM, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("reading the private key: %w", err)
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a private key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a private key: %w", err)
	}
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := errors.Join(os.MkdirAll(dir, 0o700), writeFile(path, keyPEM)); err != nil {
		return nil, nil, fmt.Errorf("storing the private key: %w", err)
	}
	return key, keyPEM, nil
}

func parseKey(keyPEM []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is of type %T", parsed)
	}
	return key, nil
}

// storeIdentity writes what a join brought beside the key; the certificate last,
// because it says that the rest is there.
func storeIdentity(dir string, resp *agentv1.JoinResponse) error {
	for _, f := range []struct {
		name string
		data []byte
	}{
		{fileCA, resp.GetCa()},
		{fileInstance, []byte(resp.GetInstanceId() + "\n")},
		{fileCert, resp.GetCertificate()},
	} {
		if err := writeFile(filepath.Join(dir, f.name), f.data); err != nil {
			return fmt.Errorf("storing the identity: %w", err)
		}
	}
	return nil
}

// writeFile replaces a file as a whole; it survives a loss of power.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // our own directory
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// token is a join token taken apart. The server checks the rest of it.
type token struct {
	text string
	// authority is the SHA-256 of the control authority's public key info.
	authority string
}

var isToken = regexp.MustCompile(`^hearth1\.[^.]+\.[^.]+\.[0-9a-f]{64}$`).MatchString //nolint:gochecknoglobals // a constant in all but syntax

func parseToken(text string) (token, error) {
	text = strings.TrimSpace(text)
	if !isToken(text) {
		return token{}, fmt.Errorf("join token is malformed, want %s.ID.SECRET.CAHASH: %w", tokenPrefix, errdefs.ErrInvalidArgument)
	}
	return token{text: text, authority: text[strings.LastIndexByte(text, '.')+1:]}, nil
}

// tls trusts exactly the authority the token names.
func (t token) tls() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         serverName,
		InsecureSkipVerify: true, //nolint:gosec // verified below against the token: the authority is not known yet
		VerifyConnection: func(s tls.ConnectionState) error {
			return t.verify(s.PeerCertificates)
		},
	}
}

// verify accepts a chain whose leaf is signed by the token's authority, which is
// part of the chain.
func (t token) verify(chain []*x509.Certificate) error {
	for _, c := range chain {
		if !c.IsCA || publicKeyHash(c) != t.authority {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(c)
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: serverName}); err != nil {
			return fmt.Errorf("verifying the control service: %w", err)
		}
		return nil
	}
	return fmt.Errorf("control service does not present the authority the join token names: %w", errdefs.ErrUnauthenticated)
}

func publicKeyHash(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// join exchanges a token for an identity over conn and stores it in dir, where
// the key is or will be.
func join(ctx context.Context, conn grpc.ClientConnInterface, t token, dir string) (Identity, error) {
	key, keyPEM, err := privateKey(dir)
	if err != nil {
		return Identity{}, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return Identity{}, fmt.Errorf("making a certificate request: %w", err)
	}
	resp, err := agentv1.NewAgentServiceClient(conn).Join(ctx, &agentv1.JoinRequest{Token: t.text, Csr: csr})
	if err != nil {
		return Identity{}, fmt.Errorf("joining: %w", errgrpc.ToNative(err))
	}
	if err := t.checkAuthority(resp.GetCa()); err != nil {
		return Identity{}, err
	}
	if _, err := tls.X509KeyPair(resp.GetCertificate(), keyPEM); err != nil {
		return Identity{}, fmt.Errorf("joining: certificate does not fit the key: %w: %w", err, errdefs.ErrInternal)
	}
	if err := storeIdentity(dir, resp); err != nil {
		return Identity{}, err
	}
	return loadIdentity(dir)
}

// checkAuthority makes sure that what is trusted from now on is what the token
// names.
func (t token) checkAuthority(ca []byte) error {
	block, _ := pem.Decode(ca)
	if block == nil {
		return fmt.Errorf("joining: answer has no authority: %w", errdefs.ErrInternal)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("joining: authority: %w: %w", err, errdefs.ErrInternal)
	}
	if publicKeyHash(cert) != t.authority {
		return fmt.Errorf("joining: answer has another authority than the join token: %w", errdefs.ErrUnauthenticated)
	}
	return nil
}
