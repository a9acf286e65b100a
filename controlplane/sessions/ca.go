package sessions

import (
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
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
)

// ServerName is the name in the control service's certificate, whatever
// address agents dial.
const ServerName = "hearth-control"

// Lifetimes of certificates. An agent's outlives any sensible instance age; a
// host that needs another joins again with a new token.
const (
	caLifetime     = 20 * 365 * 24 * time.Hour
	serverLifetime = 365 * 24 * time.Hour
	agentLifetime  = 365 * 24 * time.Hour
	clockSkew      = 24 * time.Hour
)

// CA issues the certificates of control services and agents. Its key never
// leaves the control service's data directory.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// OpenCA reads the authority kept in dir, or makes one there first. Errors:
// Internal when the files are unreadable or do not fit together.
func OpenCA(dir string, now time.Time) (*CA, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, "ca.pem")) //nolint:gosec // the operator names the directory
	if errors.Is(err, fs.ErrNotExist) {
		return newCA(dir, now)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, "ca-key.pem")) //nolint:gosec // the operator names the directory
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority's key: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w: %w", dir, err, errdefs.ErrInternal)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("certificate authority in %s has no ECDSA key: %w", dir, errdefs.ErrInternal)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w: %w", dir, err, errdefs.ErrInternal)
	}
	return &CA{cert: cert, key: key, pem: certPEM}, nil
}

func newCA(dir string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Hearth certificate authority"},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	// The key first: a crash between the two leaves no certificate, and the
	// next start makes both again.
	if err := writeFileSync(filepath.Join(dir, "ca-key.pem"), keyPEM); err != nil {
		return nil, err
	}
	if err := writeFileSync(filepath.Join(dir, "ca.pem"), certPEM); err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{cert: cert, key: key, pem: certPEM}, nil
}

// writeFileSync replaces name atomically and durably.
func writeFileSync(name string, data []byte) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) //nolint:gosec // below a directory the operator names
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// PEM is the authority's certificate.
func (ca *CA) PEM() []byte { return ca.pem }

// Hash is what join tokens carry so that an agent can recognise the authority
// before it knows it: the SHA-256 of its SubjectPublicKeyInfo, hexadecimal.
func (ca *CA) Hash() string {
	sum := sha256.Sum256(ca.cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// serverCertificate makes the control service's own certificate, in memory,
// with the authority behind it in the chain.
func (ca *CA) serverCertificate(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := ca.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: ServerName},
		DNSNames:    []string{ServerName},
		NotBefore:   now.Add(-clockSkew),
		NotAfter:    now.Add(serverLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &key.PublicKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key}, nil
}

// parseRequest checks a certificate request and returns it with the SHA-256 of
// its public key.
func parseRequest(der []byte) (*x509.CertificateRequest, []byte, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("certificate request: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	key := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return csr, key[:], nil
}

// issueAgent signs an agent's request. The subject comes from us: the common
// name is the instance, the organisation its capacity provider.
func (ca *CA) issueAgent(csr *x509.CertificateRequest, id controlplane.InstanceID, p controlplane.ProviderName, now time.Time) ([]byte, error) {
	der, err := ca.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: string(id), Organization: []string{string(p)}},
		NotBefore:   now.Add(-clockSkew),
		NotAfter:    now.Add(agentLifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, csr.PublicKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func (ca *CA) sign(tmpl *x509.Certificate, public any) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	tmpl.SerialNumber = serial
	return x509.CreateCertificate(rand.Reader, tmpl, ca.cert, public, ca.key)
}

func (ca *CA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}
