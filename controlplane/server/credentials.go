package server

import (
	"context"
	"errors"
	"net/url"

	"github.com/hearth-compute/hearth/controlplane/credentials"
	"github.com/hearth-compute/hearth/controlplane/sessions"
)

// newCredentials makes what assumes execution roles, nil unless it is switched
// on.
func (s *Server) newCredentials(cfg Config) (*credentials.Keeper, error) {
	if !cfg.AssumeRoles {
		return nil, nil //nolint:nilnil // nil is how nobody assumes roles
	}
	assumer, err := credentials.NewSTS(context.Background(), cfg.Region, cfg.STSEndpoint)
	if err != nil {
		return nil, err
	}
	metrics, err := credentials.NewMetrics(s.registry.Meter("controlplane/credentials"))
	if err != nil {
		return nil, err
	}
	return credentials.New(credentials.Config{
		Assumer: assumer,
		Needed:  func() map[string]string { return s.agents.Roles() },
		Changed: func() { s.agents.CredentialsChanged() },
		Metrics: metrics, Logger: s.log.With("part", "credentials"),
	}), nil
}

// newAgents makes what serves agents, and what it needs to give their functions
// credentials.
func (s *Server) newAgents(cfg Config, sc sessions.Config) error {
	keeper, err := s.newCredentials(cfg)
	if err != nil {
		return err
	}
	if keeper != nil {
		sc.Credentials = keeper
		s.loops = append(s.loops, keeper.Run)
	}
	s.agents, err = sessions.New(sc)
	return err
}

// checkSTS reports what is wrong with the flags of role credentials.
func (c *Config) checkSTS() error {
	if c.STSEndpoint == "" {
		return nil
	}
	if !c.AssumeRoles {
		return errors.New("is of no use without --assume-roles")
	}
	u, err := url.Parse(c.STSEndpoint)
	if err != nil {
		return err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("is not http://HOST or https://HOST")
	}
	return nil
}
