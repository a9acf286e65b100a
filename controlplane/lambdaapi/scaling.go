package lambdaapi

import (
	"context"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

func (s *Server) putFunctionScalingConfig(ctx context.Context, in *lambda.PutFunctionScalingConfigInput,
) (*lambda.PutFunctionScalingConfigOutput, error) {
	ref, err := s.published(in.FunctionName, in.Qualifier)
	if err != nil {
		return nil, err
	}
	scaling, err := s.scalingConfig(in.FunctionScalingConfig)
	if err != nil {
		return nil, err
	}
	var state controlplane.VersionState
	err = s.update(ctx, func(w store.Writer) error {
		v, err := s.readManaged(w, ref)
		if err != nil {
			return err
		}
		if v.State == controlplane.VersionFailed || v.State == controlplane.VersionDeleting {
			return functionState(types.State(v.State))
		}
		rescale(v, scaling)
		state = v.State
		return w.PutVersion(*v)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.PutFunctionScalingConfigOutput{FunctionState: types.State(state)}, nil
}

// rescale asks for a scaling config, and tells at once what that begins.
func rescale(v *controlplane.Version, scaling *controlplane.ScalingConfig) {
	v.Scaling = scaling
	stop := v.WantedScaling() == (controlplane.ScalingConfig{})
	switch {
	case stop && (v.State == controlplane.VersionActive || v.State == controlplane.VersionPending):
		v.State, v.ReasonCode, v.Reason = controlplane.VersionDeactivating, "", "The function is being deactivated."
	case !stop && (v.State == controlplane.VersionDeactivated || v.State == controlplane.VersionDeactivating):
		v.State, v.ReasonCode, v.Reason = controlplane.VersionPending, string(types.StateReasonCodeRestoring),
			"The function is being activated."
	}
}

func (s *Server) getFunctionScalingConfig(ctx context.Context, in *lambda.GetFunctionScalingConfigInput,
) (*lambda.GetFunctionScalingConfigOutput, error) {
	ref, err := s.published(in.FunctionName, in.Qualifier)
	if err != nil {
		return nil, err
	}
	var v *controlplane.Version
	err = s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		v, err = s.readManaged(r, ref)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &lambda.GetFunctionScalingConfigOutput{FunctionArn: &v.ARN, AppliedFunctionScalingConfig: describeScaling(v.Applied)}
	if wanted := v.WantedScaling(); wanted != v.Applied {
		// Tools wait until what was requested is gone.
		out.RequestedFunctionScalingConfig = describeScaling(wanted)
	}
	return out, nil
}

// published reads a function and the qualifier of a published version, which is
// mandatory.
func (s *Server) published(name, qualifier *string) (reference, error) {
	var c constraints
	c.required("qualifier", qualifier != nil)
	c.text("qualifier", qualifier, 1, 128, publishedPattern, publishedText)
	if err := c.err(); err != nil {
		return reference{}, err
	}
	return s.function(name, qualifier, 140)
}

// scalingConfig reads the pair, which is replaced as a whole: a member left out
// has its default. Nil is the default of both.
func (s *Server) scalingConfig(in *types.FunctionScalingConfig) (*controlplane.ScalingConfig, error) {
	if in == nil || in.MinExecutionEnvironments == nil && in.MaxExecutionEnvironments == nil {
		return nil, nil //nolint:nilnil // nil is the default
	}
	var c constraints
	between(&c, "functionScalingConfig.minExecutionEnvironments", in.MinExecutionEnvironments, 0, 15000)
	between(&c, "functionScalingConfig.maxExecutionEnvironments", in.MaxExecutionEnvironments, 0, 15000)
	if err := c.err(); err != nil {
		return nil, err
	}
	out := controlplane.DefaultScaling(&controlplane.Config{})
	setNumber(&out.Min, in.MinExecutionEnvironments)
	setNumber(&out.Max, in.MaxExecutionEnvironments)
	unbounded := in.MaxExecutionEnvironments == nil
	switch {
	case out.Min == 0 && unbounded:
		return nil, invalidParameter("MinExecutionEnvironments 0 needs MaxExecutionEnvironments.")
	case out.Min == 0 && out.Max > 0 && s.cfg.Strict:
		return nil, invalidParameter("MinExecutionEnvironments can be 0 only when MaxExecutionEnvironments is 0.")
	case !unbounded && out.Min > out.Max:
		return nil, invalidParameter("MinExecutionEnvironments (%d) must be less than or equal to MaxExecutionEnvironments (%d).",
			out.Min, out.Max)
	}
	return &out, nil
}

func describeScaling(c controlplane.ScalingConfig) *types.FunctionScalingConfig {
	out := &types.FunctionScalingConfig{MinExecutionEnvironments: new(int32(c.Min))} //nolint:gosec // at most 15000
	if c.Max > 0 || c.Min == 0 {
		out.MaxExecutionEnvironments = new(int32(c.Max)) //nolint:gosec // at most 15000
	}
	return out
}
