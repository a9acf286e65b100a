package server

import (
	"fmt"

	"github.com/hearth-compute/hearth/controlplane/sigv4"
)

// When signatures of callers are verified.
const (
	// SigV4Auto verifies when there are keys, and wants some off loopback.
	SigV4Auto = "auto"
	SigV4On   = "on"
	SigV4Off  = "off"
)

// Verifies tells whether signatures are verified.
func (c *Config) Verifies() bool {
	return c.SigV4 == SigV4On || c.SigV4 != SigV4Off && c.AccessKeysFile != ""
}

// validateSignatures wants callers off loopback to be verified, unless it was
// said that they are not.
func (c *Config) validateSignatures(fault func(flag, format string, args ...any)) {
	switch c.SigV4 {
	case "", SigV4Auto, SigV4On, SigV4Off:
	default:
		fault("sigv4", "%q is none of auto, on and off", c.SigV4)
	}
	if c.Verifies() && c.AccessKeysFile == "" {
		fault("access-keys-file", "is required with --sigv4=on")
	}
	if loopback, err := isLoopback(c.Listen); err == nil && !loopback && !c.Verifies() && c.SigV4 != SigV4Off {
		fault("access-keys-file", "is required: %s is not a loopback address; say --sigv4=off if everybody may call", c.Listen)
	}
}

// verifier returns what verifies callers, nil if nothing does.
func (s *Server) verifier(cfg Config) (*sigv4.Verifier, error) {
	if !cfg.Verifies() {
		return nil, nil //nolint:nilnil // nobody is verified
	}
	keys, err := sigv4.OpenKeys(cfg.AccessKeysFile, s.log.With("part", "sigv4"))
	if err != nil {
		return nil, fmt.Errorf("--access-keys-file: %w", err)
	}
	s.loops = append(s.loops, keys.Run)
	return sigv4.New(keys, cfg.Region, "lambda"), nil
}
