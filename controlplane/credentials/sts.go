package credentials

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
)

// STS assumes roles with AWS's Security Token Service, as whoever AWS's SDK
// finds credentials of: environment, shared configuration, instance.
type STS struct{ client *sts.Client }

// NewSTS returns an assumer for a region. endpoint is another service than
// AWS's; empty means AWS's. Errors: InvalidArgument when what the SDK is
// configured with cannot be read.
func NewSTS(ctx context.Context, region, endpoint string) (*STS, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
	if err != nil {
		return nil, fmt.Errorf("reading the AWS configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return &STS{sts.NewFromConfig(cfg, func(o *sts.Options) {
		o.Retryer = aws.NopRetryer{} // the keeper tries again
		if endpoint != "" {
			o.BaseEndpoint = &endpoint
		}
	})}, nil
}

// Assume implements Assumer. Errors: Unavailable.
func (s *STS) Assume(ctx context.Context, role, session string) (controlplane.RoleCredentials, error) {
	out, err := s.client.AssumeRole(ctx, &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: &session})
	if err != nil {
		return controlplane.RoleCredentials{}, fmt.Errorf("assuming %s: %w: %w", role, err, errdefs.ErrUnavailable)
	}
	c := out.Credentials
	if c == nil || c.AccessKeyId == nil || c.SecretAccessKey == nil || c.SessionToken == nil || c.Expiration == nil {
		return controlplane.RoleCredentials{}, fmt.Errorf("assuming %s: the answer has no credentials: %w", role, errdefs.ErrUnavailable)
	}
	return controlplane.RoleCredentials{
		RoleARN: role, AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey,
		SessionToken: *c.SessionToken, ExpiresAt: *c.Expiration,
	}, nil
}
