package lambdaapi_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/controlplane/store"
)

func TestChangesAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	ctx, f, other := t.Context(), aws.String("f"), aws.String("other")
	published := aws.String("$LATEST.PUBLISHED")

	_, err := s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f, RevisionId: other})
	refused(t, err, "PreconditionFailedException", 412, "The Revision Id provided does not match the latest Revision Id. "+
		"Call the GetFunction/GetAlias API to retrieve the latest Revision Id")
	sha := *must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f})).Configuration.CodeSha256
	_, err = s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f, CodeSha256: other})
	refused(t, err, "InvalidParameterValueException", 400, "CodeSHA256 (other) is different from current CodeSHA256 in $LATEST ("+sha+
		"). Please try again with the CodeSHA256 in $LATEST.")
	_, err = s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f, Qualifier: aws.String("7")})
	refused(t, err, "ResourceNotFoundException", 404, "Function not found: "+functionBase+"f:7")
	_, err = s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: f, Qualifier: aws.String("$LATEST")})
	refused(t, err, "InvalidParameterValueException", 400, "$LATEST version cannot be deleted without deleting the function.")
	_, err = s.DeleteCapacityProvider(ctx, &lambda.DeleteCapacityProviderInput{CapacityProviderName: aws.String("pool")})
	refused(t, err, "ResourceConflictException", 409, "The capacity provider is currently in use by 1 functions. "+
		"To delete this capacity provider, first remove its association with "+functionBase+"f:$LATEST.")
	_, err = s.GetCapacityProvider(ctx, &lambda.GetCapacityProviderInput{CapacityProviderName: other})
	refused(t, err, "ResourceNotFoundException", 404, "Capacity provider not found: "+providerBase+"other")

	publish := &lambda.PublishVersionInput{FunctionName: f, PublishTo: "LATEST_PUBLISHED"}
	must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, publish))
	_, err = s.PublishVersion(ctx, publish)
	refused(t, err, "ResourceConflictException", 409,
		"The operation cannot be performed at this time. An update is in progress for resource: "+functionBase+"f:$LATEST.PUBLISHED")
	s.settle(controlplane.LatestPublished, controlplane.VersionActive)
	must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, publish))
	_, err = s.PublishVersion(ctx, publish)
	refused(t, err, "ResourceConflictException", 409,
		"The operation cannot be performed at this time. An update is in progress for resource: "+functionBase+"f:$LATEST.PUBLISHED")

	s.settle(controlplane.LatestPublished, controlplane.VersionFailed)
	_, err = s.PutFunctionScalingConfig(ctx, &lambda.PutFunctionScalingConfigInput{FunctionName: f, Qualifier: published})
	refused(t, err, "ResourceConflictException", 409,
		"The operation cannot be performed at this time. The function is currently in the following state: 'Failed'")

	must[*lambda.DeleteFunctionOutput](t)(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: f}))
	for _, err := range []error{
		second(s.PublishVersion(ctx, publish)),
		second(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(t, "x")})),
		second(s.CreateFunction(ctx, functionInput(t, "f"))),
	} {
		refused(t, err, "ResourceConflictException", 409,
			"The operation cannot be performed at this time. The function is currently in the following state: 'Deleting'")
	}
	s.store(func(w store.Writer) error { return w.DeleteFunction("f") })
	_, err = s.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: f})
	refused(t, err, "ResourceNotFoundException", 404, "Function not found: "+functionBase+"f")
}

func second[T any](_ T, err error) error { return err }

func TestAProviderThatIsNotActiveTakesNoFunction(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	must[*lambda.CreateCapacityProviderOutput](t)(s.CreateCapacityProvider(t.Context(), providerInput("pool")))
	_, err := s.CreateFunction(t.Context(), functionInput(t, "f"))
	refused(t, err, "ResourceConflictException", 409, "The operation cannot be performed at this time. The capacity provider "+
		providerBase+"pool is currently in the following state: 'Pending'")
}

func TestScalingConfigsAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		strict        bool
		min, max      *int32
		code, message string
	}{
		"0 with a maximum, strictly": {
			true, aws.Int32(0), aws.Int32(5), "InvalidParameterValueException",
			"MinExecutionEnvironments can be 0 only when MaxExecutionEnvironments is 0.",
		},
		"0 alone": {
			false, aws.Int32(0), nil, "InvalidParameterValueException", "MinExecutionEnvironments 0 needs MaxExecutionEnvironments.",
		},
		"more than the maximum": {
			false, aws.Int32(5), aws.Int32(4), "InvalidParameterValueException",
			"MinExecutionEnvironments (5) must be less than or equal to MaxExecutionEnvironments (4).",
		},
		"a maximum below the default minimum": {
			false, nil, aws.Int32(2), "InvalidParameterValueException",
			"MinExecutionEnvironments (3) must be less than or equal to MaxExecutionEnvironments (2).",
		},
		"15001": {
			false, aws.Int32(15001), nil, "ValidationException",
			valid("functionScalingConfig.minExecutionEnvironments", "'15001'", "Member must have value less than or equal to 15000"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, func(cfg *lambdaapi.Config) { cfg.Strict = c.strict })
			_, err := s.PutFunctionScalingConfig(t.Context(), &lambda.PutFunctionScalingConfigInput{
				FunctionName: aws.String("f"), Qualifier: aws.String("1"),
				FunctionScalingConfig: &types.FunctionScalingConfig{MinExecutionEnvironments: c.min, MaxExecutionEnvironments: c.max},
			})
			refused(t, err, c.code, 400, c.message)
		})
	}
}
