package sessions_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

// An agent whose clock is an hour behind ours, or ahead, must get in: hosts have
// clocks of their own, and clocks jump.
func TestClocksThatDifferByAnHourDoNotMatter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := r.join(t, r.mint(t, "i-1"))
	for _, jump := range []time.Duration{-time.Hour, 0, time.Hour} {
		there := func() time.Time { return time.Now().Add(jump) }
		cfg := a.tls.Clone()
		cfg.Time, cfg.NextProtos = there, []string{"h2"}
		conn, err := tls.Dial("tcp", r.Addr().String(), cfg)
		if err != nil {
			t.Errorf("an agent whose clock is off by %v does not believe us: %v", jump, err)
			continue
		}
		_ = conn.Close()
	}
	// The same the other way round: a control service that starts again after the
	// jump knows its authority and its agents.
	for _, jump := range []time.Duration{-time.Hour, time.Hour} {
		leaf, err := x509.ParseCertificate(a.tls.Certificates[0].Certificate[0])
		must(t, err)
		_, err = leaf.Verify(x509.VerifyOptions{
			Roots: a.tls.RootCAs, CurrentTime: time.Now().Add(jump), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err != nil {
			t.Errorf("a control service whose clock jumped by %v does not believe the agent: %v", jump, err)
		}
	}
}
