package lambdaapi

import (
	"context"
	"net/http"
	"slices"
	"time"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/schemas"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// widerKey is where a request's context has the members that AWS takes at a
// provider's creation only.
type widerKey struct{}

// widened lets an update of a provider carry the members of its creation, which
// the SDK's type has no place for.
func widened(op operation) operation {
	next := op.handle
	op.handle = func(w http.ResponseWriter, r *http.Request, requestID string) error {
		wider := new(lambda.CreateCapacityProviderInput)
		if body, ok := r.Body.(*readBody); ok {
			if err := decode(r, body.content, schemas.CreateCapacityProviderRequest, wider); err != nil {
				return err
			}
		}
		return next(w, r.WithContext(context.WithValue(r.Context(), widerKey{}, wider)), requestID)
	}
	return op
}

func (s *Server) updateCapacityProvider(ctx context.Context, in *lambda.UpdateCapacityProviderInput,
) (*lambda.UpdateCapacityProviderOutput, error) {
	var wider lambda.CreateCapacityProviderInput
	if w, ok := ctx.Value(widerKey{}).(*lambda.CreateCapacityProviderInput); ok {
		wider = *w
	}
	wider.CapacityProviderScalingConfig, wider.PropagateTags, wider.TelemetryConfig =
		in.CapacityProviderScalingConfig, in.PropagateTags, in.TelemetryConfig
	if err := checkMembers(new(constraints), &wider); err != nil {
		return nil, err
	}
	if len(wider.Tags) > 0 {
		return nil, invalidParameter("Tags cannot be updated here. Use TagResource and UntagResource.")
	}
	name, err := s.provider(in.CapacityProviderName)
	if err != nil {
		return nil, err
	}
	var p controlplane.CapacityProvider
	now := time.Now().UTC()
	err = s.update(ctx, func(w store.Writer) (err error) {
		if p, err = s.readProvider(w, name); err != nil {
			return err
		}
		if p.State == controlplane.ProviderDeleting {
			return providerState(&p)
		}
		if err := keepsArchitecture(w, &p, wider.InstanceRequirements); err != nil {
			return err
		}
		furnish(&p, &wider)
		if err := scale(&p, in.CapacityProviderScalingConfig); err != nil {
			return err
		}
		propagate(&p, in.PropagateTags)
		telemetry(&p, in.TelemetryConfig)
		p.ModifiedAt = now
		return w.PutProvider(p)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.UpdateCapacityProviderOutput{CapacityProvider: describeProvider(&p)}, nil
}

// keepsArchitecture wants that the code of functions that are attached can
// still run.
func keepsArchitecture(r store.Reader, p *controlplane.CapacityProvider, in *types.InstanceRequirements) error {
	if in == nil || len(in.Architectures) == 0 || string(in.Architectures[0]) == p.Architecture {
		return nil
	}
	attached, err := attachedVersions(r, p.Name)
	if err != nil || len(attached) == 0 {
		return err
	}
	return conflict("The architecture of the capacity provider %s cannot be changed because it has %d function versions attached, "+
		"for example %s. Delete them first.", p.ARN, len(attached), attached[0].arn)
}

// furnish gives a provider what of its instances was asked for; what was not
// stays.
func furnish(p *controlplane.CapacityProvider, in *lambda.CreateCapacityProviderInput) {
	if v := in.VpcConfig; v != nil {
		p.Zones, p.SecurityGroups = nil, slices.Clone(v.SecurityGroupIds)
		for _, subnet := range v.SubnetIds {
			p.Zones = append(p.Zones, controlplane.Zone(subnet))
		}
	}
	if in.PermissionsConfig != nil {
		p.OperatorRoleARN = *in.PermissionsConfig.CapacityProviderOperatorRoleArn
	}
	if r := in.InstanceRequirements; r != nil {
		p.AllowedTypes, p.ExcludedTypes = r.AllowedInstanceTypes, r.ExcludedInstanceTypes
		if len(r.Architectures) > 0 {
			p.Architecture = string(r.Architectures[0])
		}
	}
	set(&p.KMSKeyARN, in.KmsKeyArn)
}
