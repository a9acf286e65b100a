package lambdaapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// defaultMaxVCPU is a provider's MaxVCpuCount when none was asked for.
const defaultMaxVCPU = 400

func (s *Server) createCapacityProvider(ctx context.Context, in *lambda.CreateCapacityProviderInput,
) (*lambda.CreateCapacityProviderOutput, error) {
	if err := checkProvider(in); err != nil {
		return nil, err
	}
	if err := checkTags(in.Tags); err != nil {
		return nil, err
	}
	name, err := s.provider(in.CapacityProviderName)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	p := controlplane.CapacityProvider{
		Name: name, ARN: s.arn("capacity-provider", string(name)), State: controlplane.ProviderPending,
		Architecture: string(types.ArchitectureX8664), MaxVCPU: defaultMaxVCPU,
		ScalingMode: string(types.CapacityProviderScalingModeAuto), Tags: in.Tags, CreatedAt: now, ModifiedAt: now,
	}
	furnish(&p, in)
	if err := scale(&p, in.CapacityProviderScalingConfig); err != nil {
		return nil, err
	}
	propagate(&p, in.PropagateTags)
	telemetry(&p, in.TelemetryConfig)
	err = s.update(ctx, func(w store.Writer) error {
		switch _, err := w.Provider(p.Name); {
		case err == nil:
			return conflict("Capacity provider already exists: %s", p.ARN)
		case !errdefs.IsNotFound(err):
			return err
		}
		return w.PutProvider(p)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.CreateCapacityProviderOutput{CapacityProvider: describeProvider(&p)}, nil
}

func (s *Server) getCapacityProvider(ctx context.Context, in *lambda.GetCapacityProviderInput,
) (*lambda.GetCapacityProviderOutput, error) {
	name, err := s.provider(in.CapacityProviderName)
	if err != nil {
		return nil, err
	}
	var p controlplane.CapacityProvider
	err = s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		p, err = s.readProvider(r, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &lambda.GetCapacityProviderOutput{CapacityProvider: describeProvider(&p)}, nil
}

func (s *Server) listCapacityProviders(ctx context.Context, in *lambda.ListCapacityProvidersInput,
) (*lambda.ListCapacityProvidersOutput, error) {
	var c constraints
	enum(&c, "state", in.State, in.State.Values())
	between(&c, "maxItems", in.MaxItems, 1, 50)
	if err := c.err(); err != nil {
		return nil, err
	}
	var all []controlplane.CapacityProvider
	err := s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		all, err = r.Providers()
		return err
	})
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(p controlplane.CapacityProvider) bool {
		return in.State != "" && string(p.State) != string(in.State)
	})
	key := func(p controlplane.CapacityProvider) string { return string(p.Name) }
	some, next, err := page(all, key, in.Marker, in.MaxItems, 50)
	if err != nil {
		return nil, err
	}
	out := &lambda.ListCapacityProvidersOutput{CapacityProviders: []types.CapacityProvider{}, NextMarker: next}
	for i := range some {
		out.CapacityProviders = append(out.CapacityProviders, *describeProvider(&some[i]))
	}
	return out, nil
}

func (s *Server) deleteCapacityProvider(ctx context.Context, in *lambda.DeleteCapacityProviderInput,
) (*lambda.DeleteCapacityProviderOutput, error) {
	name, err := s.provider(in.CapacityProviderName)
	if err != nil {
		return nil, err
	}
	var p controlplane.CapacityProvider
	err = s.update(ctx, func(w store.Writer) (err error) {
		if p, err = s.readProvider(w, name); err != nil {
			return err
		}
		attached, err := attachedVersions(w, name)
		if err != nil {
			return err
		}
		if n := len(attached); n > 0 {
			return conflict("The capacity provider is currently in use by %d functions. To delete this capacity provider, "+
				"first remove its association with %s.", n, attached[0].arn)
		}
		p.State = controlplane.ProviderDeleting
		return w.PutProvider(p)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.DeleteCapacityProviderOutput{CapacityProvider: describeProvider(&p)}, nil
}

func (s *Server) listFunctionVersionsByCapacityProvider(ctx context.Context,
	in *lambda.ListFunctionVersionsByCapacityProviderInput,
) (*lambda.ListFunctionVersionsByCapacityProviderOutput, error) {
	var c constraints
	between(&c, "maxItems", in.MaxItems, 1, 50)
	if err := c.err(); err != nil {
		return nil, err
	}
	name, err := s.provider(in.CapacityProviderName)
	if err != nil {
		return nil, err
	}
	var p controlplane.CapacityProvider
	var all []attachedVersion
	err = s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		if p, err = s.readProvider(r, name); err != nil {
			return err
		}
		all, err = attachedVersions(r, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	some, next, err := page(all, func(v attachedVersion) string { return v.arn }, in.Marker, in.MaxItems, 50)
	if err != nil {
		return nil, err
	}
	out := &lambda.ListFunctionVersionsByCapacityProviderOutput{
		CapacityProviderArn: &p.ARN, FunctionVersions: []types.FunctionVersionsByCapacityProviderListItem{}, NextMarker: next,
	}
	for i := range some {
		out.FunctionVersions = append(out.FunctionVersions,
			types.FunctionVersionsByCapacityProviderListItem{FunctionArn: &some[i].arn, State: some[i].state})
	}
	return out, nil
}

// attachedVersion is a version on a provider, $LATEST included: it too keeps
// the provider from being deleted.
type attachedVersion struct {
	arn   string
	state types.State
}

func attachedVersions(r store.Reader, name controlplane.ProviderName) ([]attachedVersion, error) {
	functions, err := r.Functions()
	if err != nil {
		return nil, err
	}
	versions, err := r.Versions("")
	if err != nil {
		return nil, err
	}
	var attached []attachedVersion
	deleted := map[controlplane.FunctionName]bool{}
	for _, f := range functions {
		deleted[f.Name] = gone(&f)
		if f.Provider == name && !gone(&f) {
			attached = append(attached, attachedVersion{f.ARN + ":" + string(controlplane.Latest), latestState(&f)})
		}
	}
	for _, v := range versions {
		if v.Provider == name && !deleted[v.Function] {
			attached = append(attached, attachedVersion{v.ARN, types.State(v.State)})
		}
	}
	slices.SortStableFunc(attached, func(a, b attachedVersion) int { return strings.Compare(a.arn, b.arn) })
	return attached, nil
}

func (s *Server) readProvider(r store.Reader, name controlplane.ProviderName) (controlplane.CapacityProvider, error) {
	p, err := r.Provider(name)
	if errdefs.IsNotFound(err) {
		return p, notFound("Capacity provider not found: %s", s.arn("capacity-provider", string(name)))
	}
	return p, err
}

func providerState(p *controlplane.CapacityProvider) error {
	return conflict("The operation cannot be performed at this time. The capacity provider %s is currently in the "+
		"following state: '%s'", p.ARN, p.State)
}

// scale applies what of a scaling config was given.
func scale(p *controlplane.CapacityProvider, in *types.CapacityProviderScalingConfig) error {
	if in == nil {
		return nil
	}
	if in.MaxVCpuCount != nil {
		p.MaxVCPU = int(*in.MaxVCpuCount)
	}
	if in.ScalingMode != "" {
		p.ScalingMode = string(in.ScalingMode)
		p.ScalingPolicies = nil
	}
	for _, policy := range in.ScalingPolicies {
		p.ScalingPolicies = append(p.ScalingPolicies,
			controlplane.ScalingPolicy{Metric: string(policy.PredefinedMetricType), Target: *policy.TargetValue})
	}
	if in.ScalingPolicies != nil {
		p.ScalingPolicies = p.ScalingPolicies[len(p.ScalingPolicies)-len(in.ScalingPolicies):]
	}
	manual := p.ScalingMode == string(types.CapacityProviderScalingModeManual)
	switch {
	case manual && len(p.ScalingPolicies) == 0:
		return invalidParameter("ScalingPolicies must not be empty when ScalingMode is Manual.")
	case !manual && len(p.ScalingPolicies) > 0:
		return invalidParameter("ScalingPolicies can only be set when ScalingMode is Manual.")
	}
	return nil
}

func propagate(p *controlplane.CapacityProvider, in *types.PropagateTags) {
	if in != nil {
		p.PropagateTagMode, p.PropagateTags = string(in.Mode), maps.Clone(in.ExplicitTags)
	}
}

func telemetry(p *controlplane.CapacityProvider, in *types.CapacityProviderTelemetryConfig) {
	if in == nil || in.LoggingConfig == nil {
		return
	}
	if in.LoggingConfig.SystemLogLevel != "" {
		p.SystemLogLevel = string(in.LoggingConfig.SystemLogLevel)
	}
	if in.LoggingConfig.LogGroup != nil {
		p.LogGroup = *in.LoggingConfig.LogGroup
	}
}

// describeProvider is a provider on the wire.
func describeProvider(p *controlplane.CapacityProvider) *types.CapacityProvider {
	maxVCPU := int32(p.MaxVCPU) //nolint:gosec // at most 15000
	out := &types.CapacityProvider{
		CapacityProviderArn: &p.ARN, State: types.CapacityProviderState(p.State),
		VpcConfig: &types.CapacityProviderVpcConfig{SubnetIds: []string{}, SecurityGroupIds: orEmpty(p.SecurityGroups)},
		PermissionsConfig: &types.CapacityProviderPermissionsConfig{
			CapacityProviderOperatorRoleArn: &p.OperatorRoleARN,
		},
		InstanceRequirements: &types.InstanceRequirements{
			Architectures:        []types.Architecture{types.Architecture(p.Architecture)},
			AllowedInstanceTypes: p.AllowedTypes, ExcludedInstanceTypes: p.ExcludedTypes,
		},
		CapacityProviderScalingConfig: &types.CapacityProviderScalingConfig{
			MaxVCpuCount: &maxVCPU, ScalingMode: types.CapacityProviderScalingMode(p.ScalingMode),
		},
		KmsKeyArn: optional(p.KMSKeyARN), LastModified: stamp(p.ModifiedAt),
	}
	for _, zone := range p.Zones {
		out.VpcConfig.SubnetIds = append(out.VpcConfig.SubnetIds, string(zone))
	}
	for _, policy := range p.ScalingPolicies {
		out.CapacityProviderScalingConfig.ScalingPolicies = append(out.CapacityProviderScalingConfig.ScalingPolicies,
			types.TargetTrackingScalingPolicy{
				PredefinedMetricType: types.CapacityProviderPredefinedMetricType(policy.Metric), TargetValue: &policy.Target,
			})
	}
	if p.PropagateTagMode != "" {
		out.PropagateTags = &types.PropagateTags{
			Mode: types.PropagateTagsMode(p.PropagateTagMode), ExplicitTags: p.PropagateTags,
		}
	}
	out.TelemetryConfig = &types.CapacityProviderTelemetryConfig{LoggingConfig: providerLogging(p)}
	return out
}

func providerLogging(p *controlplane.CapacityProvider) *types.CapacityProviderLoggingConfig {
	level, group := types.SystemLogLevel(p.SystemLogLevel), p.LogGroup
	if level == "" {
		level = types.SystemLogLevelInfo
	}
	if group == "" {
		group = fmt.Sprintf("/aws/lambda/capacity-provider/%s", p.Name)
	}
	return &types.CapacityProviderLoggingConfig{SystemLogLevel: level, LogGroup: &group}
}
