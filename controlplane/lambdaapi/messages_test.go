package lambdaapi_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/controlplane/store"
)

func strict(c *lambdaapi.Config) { c.Strict = true }

func valid(at, value, constraint string) string {
	return fmt.Sprintf("1 validation error detected: Value %s at '%s' failed to satisfy constraint: %s", value, at, constraint)
}

func TestProvidersAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withProvider()
	for name, c := range map[string]struct {
		change        func(*lambda.CreateCapacityProviderInput)
		code, message string
		status        int
	}{
		"a name with a space": {
			func(in *lambda.CreateCapacityProviderInput) { in.CapacityProviderName = aws.String("a b") },
			"ValidationException", valid("capacityProviderName", "'a b'", "Member must satisfy regular expression pattern: "+
				`(arn:aws[a-zA-Z-]*:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:capacity-provider:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+`), 400,
		},
		"a long name": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.CapacityProviderName = aws.String(strings.Repeat("a", 141))
			},
			"ValidationException", valid("capacityProviderName", "'"+strings.Repeat("a", 141)+"'", "Member must have length less than or equal to 140"), 400,
		},
		"no subnets": {
			func(in *lambda.CreateCapacityProviderInput) { in.VpcConfig.SubnetIds = []string{} },
			"ValidationException", valid("vpcConfig.subnetIds", "'[]'", "Member must have length greater than or equal to 1"), 400,
		},
		"17 subnets": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.VpcConfig.SubnetIds = strings.Split("abcdefghijklmnopq", "")
			},
			"ValidationException", valid("vpcConfig.subnetIds", "'[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]'",
				"Member must have length less than or equal to 16"), 400,
		},
		"six security groups": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.VpcConfig.SecurityGroupIds = strings.Split("abcdef", "")
			},
			"ValidationException", valid("vpcConfig.securityGroupIds", "'[a, b, c, d, e, f]'", "Member must have length less than or equal to 5"), 400,
		},
		"a repeated subnet": {
			func(in *lambda.CreateCapacityProviderInput) { in.VpcConfig.SubnetIds = []string{"a", "a"} },
			"InvalidParameterValueException", "SubnetIds must not be empty or repeated: 'a'", 400,
		},
		"a role that is no ARN": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.PermissionsConfig.CapacityProviderOperatorRoleArn = aws.String("me")
			},
			"ValidationException", valid("permissionsConfig.capacityProviderOperatorRoleArn", "'me'",
				`Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+`), 400,
		},
		"two faults": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.VpcConfig.SubnetIds = []string{}
				in.CapacityProviderScalingConfig = &types.CapacityProviderScalingConfig{MaxVCpuCount: aws.Int32(1)}
			},
			"ValidationException", "2 validation errors detected: Value '[]' at 'vpcConfig.subnetIds' failed to satisfy " +
				"constraint: Member must have length greater than or equal to 1; Value '1' at " +
				"'capacityProviderScalingConfig.maxVCpuCount' failed to satisfy constraint: Member must have value greater than or equal to 2", 400,
		},
		"15001 vCPUs": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.CapacityProviderScalingConfig = &types.CapacityProviderScalingConfig{MaxVCpuCount: aws.Int32(15001)}
			},
			"ValidationException", valid("capacityProviderScalingConfig.maxVCpuCount", "'15001'", "Member must have value less than or equal to 15000"), 400,
		},
		"an unknown mode": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.CapacityProviderScalingConfig = &types.CapacityProviderScalingConfig{ScalingMode: "Magic"}
			},
			"ValidationException", valid("capacityProviderScalingConfig.scalingMode", "'Magic'", "Member must satisfy enum value set: [Auto, Manual]"), 400,
		},
		"manual without a policy": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.CapacityProviderScalingConfig = &types.CapacityProviderScalingConfig{ScalingMode: "Manual"}
			},
			"InvalidParameterValueException", "ScalingPolicies must not be empty when ScalingMode is Manual.", 400,
		},
		"a policy without manual": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.CapacityProviderScalingConfig = &types.CapacityProviderScalingConfig{ScalingPolicies: policies(30)}
			},
			"InvalidParameterValueException", "ScalingPolicies can only be set when ScalingMode is Manual.", 400,
		},
		"a target above 100": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.CapacityProviderScalingConfig = &types.CapacityProviderScalingConfig{ScalingMode: "Manual", ScalingPolicies: policies(100.5)}
			},
			"ValidationException", valid("capacityProviderScalingConfig.scalingPolicies.member.targetValue", "'100.5'", "Member must have value less than or equal to 100"), 400,
		},
		"two architectures": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.InstanceRequirements = &types.InstanceRequirements{Architectures: []types.Architecture{"arm64", "x86_64"}}
			},
			"ValidationException", valid("instanceRequirements.architectures", "'[arm64, x86_64]'", "Member must have length less than or equal to 1"), 400,
		},
		"an instance type with a star": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.InstanceRequirements = &types.InstanceRequirements{ExcludedInstanceTypes: []string{"m7g.*"}}
			},
			"ValidationException", valid("instanceRequirements.excludedInstanceTypes", "'[m7g.*]'",
				`Member must satisfy constraint: [Member must satisfy regular expression pattern: [a-zA-Z0-9\.\-]+]`), 400,
		},
		"allowed and excluded types": {
			func(in *lambda.CreateCapacityProviderInput) {
				in.InstanceRequirements = &types.InstanceRequirements{AllowedInstanceTypes: []string{"a"}, ExcludedInstanceTypes: []string{"b"}}
			},
			"InvalidParameterValueException", "Only one of AllowedInstanceTypes and ExcludedInstanceTypes can be set.", 400,
		},
		"a name that is taken": {
			func(in *lambda.CreateCapacityProviderInput) { in.CapacityProviderName = aws.String("pool") },
			"ResourceConflictException", "Capacity provider already exists: " + providerBase + "pool", 409,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := providerInput("new")
			c.change(in)
			_, err := s.CreateCapacityProvider(context.WithoutCancel(t.Context()), in)
			refused(t, err, c.code, c.status, c.message)
		})
	}
}

func policies(target float64) []types.TargetTrackingScalingPolicy {
	return []types.TargetTrackingScalingPolicy{{
		PredefinedMetricType: types.CapacityProviderPredefinedMetricTypeLambdaCapacityProviderAverageCPUUtilization, TargetValue: &target,
	}}
}

func instances(in *lambda.CreateFunctionInput) *types.LambdaManagedInstancesCapacityProviderConfig {
	return in.CapacityProviderConfig.LambdaManagedInstancesCapacityProviderConfig
}

func TestFunctionsAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	relaxed, hard := newSystem(t, nil).withFunction(), newSystem(t, strict).withFunctionOf(2048)
	const invalid = "InvalidParameterValueException"
	for name, c := range map[string]struct {
		s             *system
		change        func(*lambda.CreateFunctionInput)
		code, message string
		status        int
	}{
		"a name that is taken": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.FunctionName = aws.String("f") },
			"ResourceConflictException", "Function already exist: f", 409,
		},
		"no handler": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.Handler = nil },
			invalid, "Runtime and Handler are mandatory parameters for functions created with deployment packages.", 400,
		},
		"an old runtime": {
			hard, func(in *lambda.CreateFunctionInput) { in.Runtime = "ruby3.4"; in.MemorySize = aws.Int32(2048) },
			invalid, "Runtime Enum ruby3.4 does not support specified feature: Lambda Managed Instances", 400,
		},
		"something that is no zip": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.Code.ZipFile = []byte("not a zip") },
			invalid, "Could not unzip uploaded file. Please check your file, then try to upload again.", 400,
		},
		"no code": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.Code.ZipFile = nil },
			invalid, "Please provide a source for function code.", 400,
		},
		"log format text": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				in.LoggingConfig = &types.LoggingConfig{LogFormat: "Text"}
			},
			invalid, `LogLevel is not supported when LogFormat is set to "Text". Remove LogLevel from your request or change the LogFormat to "JSON" and try again.`, 400,
		},
		"no managed instances config": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				in.CapacityProviderConfig = &types.CapacityProviderConfig{LambdaManagedInstancesCapacityProviderConfig: nil}
			},
			"", "", 0, // the client refuses it: see TestWireErrors
		},
		"a provider that is not there": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				instances(in).CapacityProviderArn = aws.String(providerBase + "none")
			},
			"ResourceNotFoundException", "Capacity provider not found: " + providerBase + "none", 404,
		},
		"another architecture": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.Architectures = []types.Architecture{"arm64"} },
			invalid, "The architecture of the function, arm64, is not that of its capacity provider, x86_64.", 400,
		},
		"127 MB": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.MemorySize = aws.Int32(127) },
			"ValidationException", valid("memorySize", "'127'", "Member must have value greater than or equal to 128"), 400,
		},
		"33 GB": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.MemorySize = aws.Int32(32769) },
			"ValidationException", valid("memorySize", "'32769'", "Member must have value less than or equal to 32768"), 400,
		},
		"2047 MB, strictly": {
			hard, func(in *lambda.CreateFunctionInput) { in.MemorySize = aws.Int32(2047) },
			invalid, "'MemorySize' value failed to satisfy constraint: Member must have value greater than or equal to 2048", 400,
		},
		"one and a half vCPU, strictly": {
			hard, func(in *lambda.CreateFunctionInput) { in.MemorySize = aws.Int32(3072) },
			invalid, "MemorySize 3072 with ExecutionEnvironmentMemoryGiBPerVCpu 2 makes 1.5 vCPUs. It must make a whole number of vCPUs, at least 1.", 400,
		},
		"an odd ratio, strictly": {
			hard, func(in *lambda.CreateFunctionInput) {
				instances(in).ExecutionEnvironmentMemoryGiBPerVCpu = aws.Float64(3)
			},
			invalid, "'ExecutionEnvironmentMemoryGiBPerVCpu' value failed to satisfy constraint: Member must satisfy enum value set: [2.0, 4.0, 8.0]", 400,
		},
		"a ratio below 2": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				instances(in).ExecutionEnvironmentMemoryGiBPerVCpu = aws.Float64(1.5)
			},
			"ValidationException", valid("capacityProviderConfig.lambdaManagedInstancesCapacityProviderConfig.executionEnvironmentMemoryGiBPerVCpu",
				"'1.5'", "Member must have value greater than or equal to 2"), 400,
		},
		"concurrency 1601": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				instances(in).PerExecutionEnvironmentMaxConcurrency = aws.Int32(1601)
			},
			"ValidationException", valid("capacityProviderConfig.lambdaManagedInstancesCapacityProviderConfig.perExecutionEnvironmentMaxConcurrency",
				"'1601'", "Member must have value less than or equal to 1600"), 400,
		},
		"concurrency 65 on one vCPU": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				instances(in).PerExecutionEnvironmentMaxConcurrency = aws.Int32(65)
			},
			invalid, "PerExecutionEnvironmentMaxConcurrency 65 is more than 64 for each vCPU: at most 64 with 1 vCPUs.", 400,
		},
		"timeout 0": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.Timeout = aws.Int32(0) },
			"ValidationException", valid("timeout", "'0'", "Member must have value greater than or equal to 1"), 400,
		},
		"511 MB of /tmp": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				in.EphemeralStorage = &types.EphemeralStorage{Size: aws.Int32(511)}
			},
			"ValidationException", valid("ephemeralStorage.size", "'511'", "Member must have value greater than or equal to 512"), 400,
		},
		"a reserved variable": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				in.Environment = &types.Environment{Variables: map[string]string{"AWS_REGION": "x", "OK": "y"}}
			},
			invalid, "Lambda was unable to configure your environment variables because the environment variables you have provided " +
				"contains reserved keys that are currently not supported for modification. Reserved keys used in this request: AWS_REGION", 400,
		},
		"5 KB of variables": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				in.Environment = &types.Environment{Variables: map[string]string{"BIG": strings.Repeat("x", 5000)}}
			},
			invalid, "Lambda was unable to configure your environment variables because the environment variables you have provided exceeded the 4KB limit.", 400,
		},
		"a VPC": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.VpcConfig = &types.VpcConfig{SubnetIds: []string{"a"}} },
			invalid, "VpcConfig is not supported for functions configured with capacity provider", 400,
		},
		"SnapStart": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.SnapStart = &types.SnapStart{ApplyOn: "PublishedVersions"} },
			invalid, "SnapStart is not supported for functions configured with capacity provider", 400,
		},
		"an image": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				in.PackageType, in.Runtime, in.Handler = "Image", "", nil
				in.Code = &types.FunctionCode{ImageUri: aws.String("x")}
			},
			invalid, "Functions packaged as container images are not available in this service yet. Use the package type Zip.", 400,
		},
		"a name with a qualifier": {
			relaxed, func(in *lambda.CreateFunctionInput) { in.FunctionName = aws.String("g:1") },
			"ValidationException", valid("functionName", "'g:1'", "Member must have length less than or equal to 64 and no qualifier"), 400,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := functionInput(t, "g")
			c.change(in)
			_, err := c.s.CreateFunction(context.WithoutCancel(t.Context()), in)
			if c.code == "" {
				if err == nil {
					t.Error("accepted")
				}
				return
			}
			refused(t, err, c.code, c.status, c.message)
		})
	}
}

// withFunctionOf makes the provider only: a strict system's functions say their memory.
func (s *system) withFunctionOf(memory int32) *system {
	s.t.Helper()
	s.withProvider()
	in := functionInput(s.t, "f")
	in.MemorySize = &memory
	must[*lambda.CreateFunctionOutput](s.t)(s.CreateFunction(s.t.Context(), in))
	return s
}

func TestSmallFunctionsAreTakenUnlessStrict(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withProvider()
	in := functionInput(t, "small")
	in.MemorySize = aws.Int32(128)
	instances(in).ExecutionEnvironmentMemoryGiBPerVCpu = aws.Float64(2.5)
	instances(in).PerExecutionEnvironmentMaxConcurrency = aws.Int32(64)
	out := must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(t.Context(), in))
	got := out.CapacityProviderConfig.LambdaManagedInstancesCapacityProviderConfig
	if *out.MemorySize != 128 || *got.ExecutionEnvironmentMemoryGiBPerVCpu != 2.5 || *got.PerExecutionEnvironmentMaxConcurrency != 64 {
		t.Errorf("made with %d MB, ratio %v, concurrency %d", *out.MemorySize, *got.ExecutionEnvironmentMemoryGiBPerVCpu,
			*got.PerExecutionEnvironmentMaxConcurrency)
	}
}

func TestInvokesAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	const invalid = "InvalidParameterValueException"
	for name, c := range map[string]struct {
		in            lambda.InvokeInput
		err           error
		code, message string
		status        int
	}{
		"nothing is published": {
			lambda.InvokeInput{}, &controlplane.NoPublishedVersionError{Function: "f"}, "NoPublishedVersionException",
			"The function can't be invoked because no published version exists. For functions with capacity provider configuration, " +
				"either publish a version to $LATEST.PUBLISHED, or specify a published version qualifier.", 400,
		},
		"$LATEST": {
			lambda.InvokeInput{Qualifier: aws.String("$LATEST")}, &controlplane.LatestNotInvocableError{Function: "f"}, invalid,
			"Functions configured with capacity provider configuration can't be invoked with $LATEST qualifier. " +
				"To invoke this function, specify a published version qualifier or $LATEST.PUBLISHED.", 400,
		},
		"logs": {
			lambda.InvokeInput{LogType: "Tail"}, nil, invalid,
			"Tail logs are not supported for functions configured with capacity provider", 400,
		},
		"an event": {
			lambda.InvokeInput{InvocationType: "Event"}, nil, invalid,
			"Asynchronous invocation is not available in this service yet. Use the invocation type RequestResponse.", 400,
		},
		"an unknown type": {
			lambda.InvokeInput{InvocationType: "Later"}, nil, "ValidationException",
			valid("invocationType", "'Later'", "Member must satisfy enum value set: [Event, RequestResponse, DryRun]"), 400,
		},
		"no such function": {
			lambda.InvokeInput{}, &controlplane.FunctionNotFoundError{ARN: functionBase + "f"}, "ResourceNotFoundException",
			"Function not found: " + functionBase + "f", 404,
		},
		"a pending version": {
			lambda.InvokeInput{}, &controlplane.VersionStateError{State: "Pending", Reason: "The function is being created."},
			"ResourceConflictException", "The operation cannot be performed at this time. The function is currently in the " +
				"following state: 'Pending': The function is being created.", 409,
		},
		"a lost connection": {
			lambda.InvokeInput{}, &controlplane.LostError{Environment: "e-1", Err: errors.New("secret")}, "ServiceException",
			"The connection to the execution environment was lost during the invoke. The function may have run.", 500,
		},
		"a bug": {
			lambda.InvokeInput{}, errors.New("secret"), "ServiceException",
			"The service encountered an internal error. Its log has more under the request id.", 500,
		},
		"two qualifiers": {
			lambda.InvokeInput{FunctionName: aws.String("f:1"), Qualifier: aws.String("2")}, nil, invalid,
			"The derived qualifier from the function name does not match the specified qualifier.", 400,
		},
		"another region": {
			lambda.InvokeInput{FunctionName: aws.String("arn:aws:lambda:eu-west-1:123456789012:function:f")}, nil,
			"ResourceNotFoundException", "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')", 404,
		},
		"no JSON": {
			lambda.InvokeInput{Payload: []byte("hello")}, nil, "InvalidRequestContentException",
			"Could not parse request body into json: the payload is not valid JSON", 400,
		},
		"a client context that is no base64": {
			lambda.InvokeInput{ClientContext: aws.String("{}")}, nil, "InvalidRequestContentException",
			"Client context must be a valid Base64-encoded JSON object.", 400,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, nil)
			s.invoker.set(controlplane.InvokeResult{}, c.err)
			if c.in.FunctionName == nil {
				c.in.FunctionName = aws.String("f")
			}
			_, err := s.Invoke(t.Context(), &c.in)
			refused(t, err, c.code, c.status, c.message)
			if calls := s.invoker.calls; c.err == nil && calls != 0 {
				t.Errorf("the router was asked %d times", calls)
			}
		})
	}
}

func TestAThrottleSaysWhyAndWhenToComeBack(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	for wait, header := range map[time.Duration]string{0: "1", 1500 * time.Millisecond: "2", 7 * time.Second: "7"} {
		s.invoker.set(controlplane.InvokeResult{}, &controlplane.ThrottledError{Reason: controlplane.ThrottleMemory, RetryAfter: wait})
		_, err := s.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f")})
		refused(t, err, "TooManyRequestsException", 429, "Rate Exceeded: the execution environments are short of memory.")
		throttled, ok := errors.AsType[*types.TooManyRequestsException](err)
		if !ok || throttled.Reason != "memory" || aws.ToString(throttled.Type) != "User" || aws.ToString(throttled.RetryAfterSeconds) != header {
			t.Errorf("after %v: throttle %+v, want Retry-After %s", wait, throttled, header)
		}
	}
}

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
	refused(t, err, "ResourceConflictException", 409, "The capacity provider "+providerBase+"pool cannot be deleted because it has "+
		"1 function versions attached, for example "+functionBase+"f:$LATEST. Delete them first.")
	_, err = s.GetCapacityProvider(ctx, &lambda.GetCapacityProviderInput{CapacityProviderName: other})
	refused(t, err, "ResourceNotFoundException", 404, "Capacity provider not found: "+providerBase+"other")

	publish := &lambda.PublishVersionInput{FunctionName: f, PublishTo: "LATEST_PUBLISHED"}
	must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, publish))
	_, err = s.PublishVersion(ctx, publish)
	refused(t, err, "ResourceConflictException", 409,
		"The operation cannot be performed at this time. The function is currently in the following state: 'Pending'")
	s.settle("f", controlplane.LatestPublished, controlplane.VersionActive)
	must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, publish))
	_, err = s.PublishVersion(ctx, publish)
	refused(t, err, "ResourceConflictException", 409,
		"The operation cannot be performed at this time. An update is in progress for resource: "+functionBase+"f:$LATEST.PUBLISHED")

	s.settle("f", controlplane.LatestPublished, controlplane.VersionFailed)
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
