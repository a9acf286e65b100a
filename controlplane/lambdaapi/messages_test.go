package lambdaapi_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
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
		"a variable of one letter": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				in.Environment = &types.Environment{Variables: map[string]string{"A": "secret", "OK": "y"}}
			},
			"ValidationException", "1 validation error detected: Value at 'environment.variables' failed to satisfy constraint: " +
				"Map keys must satisfy constraint: [Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+]", 400,
		},
		"a reserved variable": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				in.Environment = &types.Environment{Variables: map[string]string{"AWS_REGION": "x", "OK": "y"}}
			},
			invalid, "Lambda was unable to configure your environment variables because the environment variables you have provided " +
				"contains reserved keys that are currently not supported for modification. Reserved keys used in this request: AWS_REGION", 400,
		},
		"a variable with a null character": {
			relaxed, func(in *lambda.CreateFunctionInput) {
				in.Environment = &types.Environment{Variables: map[string]string{"CUT": "a\x00b"}}
			},
			invalid, "Lambda was unable to configure your environment variables because the value of CUT contains a null character.", 400,
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

// withFunctionOf makes the provider and the function "f" of that memory.
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
