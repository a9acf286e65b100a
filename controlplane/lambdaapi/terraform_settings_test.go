package lambdaapi_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
)

// notFound checks that a tool would take err for a resource that is not there.
func notFound(t *testing.T, what string, err error) {
	t.Helper()
	if _, ok := errors.AsType[*types.ResourceNotFoundException](err); !ok {
		t.Errorf("%s: %v, want a ResourceNotFoundException", what, err)
	}
}

// bothKinds runs a test with "f" of each kind, its versions 1 and 2.
func bothKinds(t *testing.T, test func(*testing.T, *system)) {
	t.Helper()
	for kind, input := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, withDefaultProvider).withTool(input(t, "f"))
			must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: zipOf(t, "two")}))
			s.progress()
			s.publish("", nil)
			s.progress()
			test(t, s)
		})
	}
}

// TestWhatTerraformDoesWithAnAliasWorks is alias.go.
func TestWhatTerraformDoesWithAnAliasWorks(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, s *system) {
		ctx, f, name, arn := t.Context(), aws.String("f"), aws.String("a"), functionBase+"f:a"
		reads := func(version, description string, weights map[string]float64) {
			t.Helper()
			got := must[*lambda.GetAliasOutput](t)(s.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: f, Name: name}))
			if *got.AliasArn != arn || *got.Name != "a" || *got.FunctionVersion != version || *got.Description != description {
				t.Errorf("read %s, %s to %s, %q", *got.AliasArn, *got.Name, *got.FunctionVersion, *got.Description)
			}
			var have map[string]float64
			if got.RoutingConfig != nil {
				have = got.RoutingConfig.AdditionalVersionWeights
			}
			same(t, "weights", weights, have)
		}
		weights := map[string]float64{"2": 0.25}
		made := must[*lambda.CreateAliasOutput](t)(s.CreateAlias(ctx, &lambda.CreateAliasInput{
			FunctionName: f, Name: name, FunctionVersion: aws.String("1"), Description: aws.String(""),
			RoutingConfig: &types.AliasRoutingConfiguration{AdditionalVersionWeights: weights},
		}))
		if *made.AliasArn != arn {
			t.Errorf("made %s", *made.AliasArn)
		}
		reads("1", "", weights)
		// Without weights it sends an empty routing config, and waits until they are gone.
		must[*lambda.UpdateAliasOutput](t)(s.UpdateAlias(ctx, &lambda.UpdateAliasInput{
			FunctionName: f, Name: name, FunctionVersion: aws.String("2"), Description: aws.String("text"),
			RoutingConfig: &types.AliasRoutingConfiguration{},
		}))
		reads("2", "text", nil)
		must[*lambda.DeleteAliasOutput](t)(s.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: f, Name: name}))
		notFound(t, "the alias", second(s.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: f, Name: name})))
	})
}

// TestWhatTerraformDoesWithAPermissionWorks is permission.go, which finds its
// statement in the policy.
func TestWhatTerraformDoesWithAPermissionWorks(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, s *system) {
		for _, qualifier := range []*string{nil, aws.String("live"), aws.String("1")} {
			s.terraformPermits(t, qualifier)
		}
	})
}

func (s *system) terraformPermits(t *testing.T, qualifier *string) {
	t.Helper()
	ctx, f, sid, resource := t.Context(), aws.String("f"), aws.String("AllowBucket"), functionBase+"f"
	if qualifier != nil {
		resource += ":" + *qualifier
	}
	read := &lambda.GetPolicyInput{FunctionName: f, Qualifier: qualifier}
	notFound(t, "the policy before", second(s.GetPolicy(ctx, read)))
	must[*lambda.AddPermissionOutput](t)(s.AddPermission(ctx, &lambda.AddPermissionInput{
		FunctionName: f, Qualifier: qualifier, StatementId: sid, Action: aws.String("lambda:InvokeFunction"),
		Principal: aws.String("s3.amazonaws.com"), SourceAccount: aws.String(account), SourceArn: aws.String("arn:aws:s3:::b"),
		EventSourceToken: aws.String("token"), PrincipalOrgID: aws.String("o-0123456789"), InvokedViaFunctionUrl: aws.Bool(true),
		FunctionUrlAuthType: types.FunctionUrlAuthTypeAwsIam,
	}))
	var policy struct {
		Statement []struct {
			Sid, Effect, Action, Resource string
			Principal                     map[string]string
			Condition                     map[string]map[string]string
		}
	}
	text := must[*lambda.GetPolicyOutput](t)(s.GetPolicy(ctx, read)).Policy
	if err := json.Unmarshal([]byte(*text), &policy); err != nil || len(policy.Statement) != 1 {
		t.Fatalf("policy %s: %v", *text, err)
	}
	got := policy.Statement[0]
	if got.Sid != *sid || got.Effect != "Allow" || got.Action != "lambda:InvokeFunction" || got.Resource != resource {
		t.Errorf("statement %+v", got)
	}
	same(t, "principal", map[string]string{"Service": "s3.amazonaws.com"}, got.Principal)
	same(t, "condition", map[string]map[string]string{
		"StringEquals": {
			"lambda:EventSourceToken": "token", "lambda:FunctionUrlAuthType": "AWS_IAM", "aws:PrincipalOrgID": "o-0123456789",
			"AWS:SourceAccount": account,
		},
		"Bool":    {"lambda:InvokedViaFunctionUrl": "true"},
		"ArnLike": {"AWS:SourceArn": "arn:aws:s3:::b"},
	}, got.Condition)
	remove := &lambda.RemovePermissionInput{FunctionName: f, Qualifier: qualifier, StatementId: sid}
	must[*lambda.RemovePermissionOutput](t)(s.RemovePermission(ctx, remove))
	notFound(t, "the policy after", second(s.GetPolicy(ctx, read)))
	notFound(t, "the statement removed again", second(s.RemovePermission(ctx, remove)))
}

// TestWhatTerraformDoesWithAnEventInvokeConfigWorks is
// function_event_invoke_config.go, which puts to update too.
func TestWhatTerraformDoesWithAnEventInvokeConfigWorks(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, s *system) {
		for _, qualifier := range []*string{nil, aws.String("live"), aws.String("$LATEST")} {
			ctx, f := t.Context(), aws.String("f")
			read := &lambda.GetFunctionEventInvokeConfigInput{FunctionName: f, Qualifier: qualifier}
			queue := aws.String("arn:aws:sqs:us-east-1:123456789012:q")
			for _, want := range []*lambda.PutFunctionEventInvokeConfigInput{
				{MaximumRetryAttempts: aws.Int32(0), MaximumEventAgeInSeconds: aws.Int32(60), DestinationConfig: &types.DestinationConfig{
					OnFailure: &types.OnFailure{Destination: queue}, OnSuccess: &types.OnSuccess{},
				}},
				{MaximumRetryAttempts: aws.Int32(2), DestinationConfig: &types.DestinationConfig{OnFailure: &types.OnFailure{}, OnSuccess: &types.OnSuccess{Destination: queue}}},
				{MaximumRetryAttempts: aws.Int32(1)},
			} {
				want.FunctionName, want.Qualifier = f, qualifier
				must[*lambda.PutFunctionEventInvokeConfigOutput](t)(s.PutFunctionEventInvokeConfig(ctx, want))
				got := must[*lambda.GetFunctionEventInvokeConfigOutput](t)(s.GetFunctionEventInvokeConfig(ctx, read))
				same(t, "retries", want.MaximumRetryAttempts, got.MaximumRetryAttempts)
				same(t, "age", want.MaximumEventAgeInSeconds, got.MaximumEventAgeInSeconds)
				destinations := want.DestinationConfig
				if destinations == nil { // it takes these for none
					destinations = &types.DestinationConfig{OnFailure: &types.OnFailure{}, OnSuccess: &types.OnSuccess{}}
				}
				same(t, "destinations", destinations, got.DestinationConfig)
			}
			must[*lambda.DeleteFunctionEventInvokeConfigOutput](t)(s.DeleteFunctionEventInvokeConfig(ctx,
				&lambda.DeleteFunctionEventInvokeConfigInput{FunctionName: f, Qualifier: qualifier}))
			notFound(t, "the config", second(s.GetFunctionEventInvokeConfig(ctx, read)))
		}
		// While a destination is being made it asks again.
		_, err := s.PutFunctionEventInvokeConfig(t.Context(), &lambda.PutFunctionEventInvokeConfigInput{
			FunctionName:      aws.String("f"),
			DestinationConfig: &types.DestinationConfig{OnSuccess: &types.OnSuccess{Destination: aws.String(functionBase + "later")}},
		})
		if e, ok := errors.AsType[*types.InvalidParameterValueException](err); !ok || !strings.Contains(e.ErrorMessage(), "destination ARN") {
			t.Errorf("a destination that is not there: %v", err)
		}
	})
}

// TestWhatTerraformDoesWithTheOtherSettingsWorks is function_recursion_config.go
// and runtime_management_config.go: a delete puts the default.
func TestWhatTerraformDoesWithTheOtherSettingsWorks(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, s *system) {
		ctx, f := t.Context(), aws.String("f")
		for _, want := range []types.RecursiveLoop{"Allow", "Terminate"} {
			put := must[*lambda.PutFunctionRecursionConfigOutput](t)(s.PutFunctionRecursionConfig(ctx,
				&lambda.PutFunctionRecursionConfigInput{FunctionName: f, RecursiveLoop: want}))
			got := must[*lambda.GetFunctionRecursionConfigOutput](t)(s.GetFunctionRecursionConfig(ctx, &lambda.GetFunctionRecursionConfigInput{FunctionName: f}))
			if put.RecursiveLoop != want || got.RecursiveLoop != want {
				t.Errorf("recursion %s, then %s; want %s", put.RecursiveLoop, got.RecursiveLoop, want)
			}
		}
		version := aws.String("arn:aws:lambda:us-east-1::runtime:0123456789abcdef")
		for _, want := range []*lambda.PutRuntimeManagementConfigInput{
			{UpdateRuntimeOn: "Manual", RuntimeVersionArn: version},
			{UpdateRuntimeOn: "FunctionUpdate"},
			{UpdateRuntimeOn: "Auto"},
			{UpdateRuntimeOn: "FunctionUpdate", Qualifier: aws.String("1")},
		} {
			want.FunctionName = f
			put := must[*lambda.PutRuntimeManagementConfigOutput](t)(s.PutRuntimeManagementConfig(ctx, want))
			got := must[*lambda.GetRuntimeManagementConfigOutput](t)(s.GetRuntimeManagementConfig(ctx,
				&lambda.GetRuntimeManagementConfigInput{FunctionName: f, Qualifier: want.Qualifier}))
			same(t, "update on", want.UpdateRuntimeOn, got.UpdateRuntimeOn)
			same(t, "version", want.RuntimeVersionArn, got.RuntimeVersionArn)
			same(t, "the ARN kept and read", put.FunctionArn, got.FunctionArn)
		}
		_, err := s.GetRuntimeManagementConfig(ctx, &lambda.GetRuntimeManagementConfigInput{FunctionName: aws.String("none")})
		notFound(t, "the runtime management of no function", err)
		_, err = s.GetFunctionRecursionConfig(ctx, &lambda.GetFunctionRecursionConfigInput{FunctionName: aws.String("none")})
		notFound(t, "the recursion config of no function", err)
	})
}

// TestWhatTerraformDoesWithAScalingConfigWorks is function_scaling_config.go: it
// waits until nothing is requested and something is applied.
func TestWhatTerraformDoesWithAScalingConfigWorks(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withTool(functionInput(t, "f"))
	ctx, f, one := t.Context(), aws.String("f"), aws.String("1")
	var got *lambda.GetFunctionScalingConfigOutput
	settled := func() (string, error) {
		var err error
		got, err = s.GetFunctionScalingConfig(ctx, &lambda.GetFunctionScalingConfigInput{FunctionName: f, Qualifier: one})
		if err != nil || got.RequestedFunctionScalingConfig != nil || got.AppliedFunctionScalingConfig == nil {
			return "pending", err
		}
		return "settled", nil
	}
	for _, want := range []*types.FunctionScalingConfig{
		{MinExecutionEnvironments: aws.Int32(1), MaxExecutionEnvironments: aws.Int32(4)},
		{MinExecutionEnvironments: aws.Int32(2)},
	} {
		put := must[*lambda.PutFunctionScalingConfigOutput](t)(s.PutFunctionScalingConfig(ctx,
			&lambda.PutFunctionScalingConfigInput{FunctionName: f, Qualifier: one, FunctionScalingConfig: want}))
		if put.FunctionState != types.StateActive {
			t.Errorf("put in state %s", put.FunctionState)
		}
		if seen := s.polls("scaling config", "settled", []string{"pending"}, settled); len(seen) != 2 {
			t.Errorf("it was seen as %v", seen)
		}
		same(t, "scaling config", want, got.AppliedFunctionScalingConfig)
		same(t, "its function", aws.String(functionBase+"f:1"), got.FunctionArn)
	}
	must[*lambda.PutFunctionScalingConfigOutput](t)(s.PutFunctionScalingConfig(ctx, &lambda.PutFunctionScalingConfigInput{FunctionName: f, Qualifier: one}))
	notFound(t, "that of a version that is not there", second(s.GetFunctionScalingConfig(ctx,
		&lambda.GetFunctionScalingConfigInput{FunctionName: f, Qualifier: aws.String("9")})))
}

// TestWhatTerraformDoesWithACapacityProviderWorks is capacity_provider.go.
func TestWhatTerraformDoesWithACapacityProviderWorks(t *testing.T) {
	t.Parallel()
	s, ctx, name := newSystem(t, nil), t.Context(), aws.String("pool")
	in := providerInput("pool")
	in.VpcConfig.SecurityGroupIds, in.KmsKeyArn, in.Tags = []string{"sg-1"}, aws.String("arn:aws:kms:us-east-1:123456789012:key/k"), map[string]string{"a": "b"}
	in.InstanceRequirements = &types.InstanceRequirements{Architectures: []types.Architecture{"x86_64"}, AllowedInstanceTypes: []string{"m7i.large"}}
	in.CapacityProviderScalingConfig = &types.CapacityProviderScalingConfig{MaxVCpuCount: aws.Int32(64), ScalingMode: "Manual", ScalingPolicies: policies(50)}
	look := func() (string, error) {
		out, err := s.GetCapacityProvider(ctx, &lambda.GetCapacityProviderInput{CapacityProviderName: name})
		if _, ok := errors.AsType[*types.ResourceNotFoundException](err); ok {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		return string(out.CapacityProvider.State), nil
	}
	reads := func() {
		t.Helper()
		got := must[*lambda.GetCapacityProviderOutput](t)(s.GetCapacityProvider(ctx, &lambda.GetCapacityProviderInput{CapacityProviderName: name})).CapacityProvider
		same(t, "what is kept of the provider", &types.CapacityProvider{
			CapacityProviderArn: aws.String(providerBase + "pool"), State: "Active", VpcConfig: in.VpcConfig, PermissionsConfig: in.PermissionsConfig,
			InstanceRequirements: in.InstanceRequirements, CapacityProviderScalingConfig: in.CapacityProviderScalingConfig, KmsKeyArn: in.KmsKeyArn,
			LastModified: got.LastModified, TelemetryConfig: got.TelemetryConfig,
		}, got)
		same(t, "tags", in.Tags, must[*lambda.ListTagsOutput](t)(s.ListTags(ctx, &lambda.ListTagsInput{Resource: got.CapacityProviderArn})).Tags)
	}
	must[*lambda.CreateCapacityProviderOutput](t)(s.CreateCapacityProvider(ctx, in))
	s.polls("create", "Active", []string{"Pending"}, look)
	reads()
	for _, scaling := range []*types.CapacityProviderScalingConfig{
		{MaxVCpuCount: aws.Int32(128), ScalingMode: "Manual", ScalingPolicies: policies(70)},
		{MaxVCpuCount: aws.Int32(32), ScalingMode: "Auto"},
	} {
		in.CapacityProviderScalingConfig = scaling
		must[*lambda.UpdateCapacityProviderOutput](t)(s.UpdateCapacityProvider(ctx, &lambda.UpdateCapacityProviderInput{
			CapacityProviderName: name, CapacityProviderScalingConfig: scaling,
		}))
		s.polls("update", "Active", []string{"Pending"}, look)
		reads()
	}
	must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, functionInput(t, "f")))
	must[*lambda.DeleteFunctionOutput](t)(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: aws.String("f")}))
	// While a function is on it, or not gone yet, it tries again.
	gone := &lambda.DeleteCapacityProviderInput{CapacityProviderName: name}
	_, err := s.DeleteCapacityProvider(ctx, gone)
	if e, ok := errors.AsType[*types.ResourceConflictException](err); !ok || !strings.Contains(e.ErrorMessage(), "To delete this capacity provider, first remove its association") {
		t.Errorf("deleting a provider in use: %v", err)
	}
	s.progress()
	must[*lambda.DeleteCapacityProviderOutput](t)(s.DeleteCapacityProvider(ctx, gone))
	if seen := s.polls("delete", "", []string{string(controlplane.ProviderPending), string(controlplane.ProviderDeleting)}, look); seen[0] != "Deleting" {
		t.Errorf("it was seen as %v", seen)
	}
	notFound(t, "deleting it again", second(s.DeleteCapacityProvider(ctx, gone)))
}
