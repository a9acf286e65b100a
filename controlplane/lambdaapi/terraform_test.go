package lambdaapi_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
)

// The sequences are those of terraform-provider-aws 6, internal/service/lambda,
// in the file named at each test. Its waiters look at a state and fail at one
// they do not expect; a resource is read again after each change and must be
// what was asked for, or the next plan would show a difference.

// lookState is statusFunctionState of function.go: empty when not found.
func (s *system) lookState(of func(*types.FunctionConfiguration) string) func() (string, error) {
	return func() (string, error) {
		out, err := s.GetFunction(s.t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String("f")})
		if _, ok := errors.AsType[*types.ResourceNotFoundException](err); ok {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		return of(out.Configuration), nil
	}
}

func functionState(c *types.FunctionConfiguration) string    { return string(c.State) }
func lastUpdateStatus(c *types.FunctionConfiguration) string { return string(c.LastUpdateStatus) }

// terraformFunction is a function with every argument that can be set here.
func terraformFunction(t *testing.T, in *lambda.CreateFunctionInput) *lambda.CreateFunctionInput {
	t.Helper()
	in.Description, in.MemorySize, in.Timeout, in.PackageType = aws.String(""), aws.Int32(2048), aws.Int32(3), types.PackageTypeZip
	in.Architectures = []types.Architecture{"x86_64"}
	in.Tags = map[string]string{"a": "1", "b": "2"}
	in.DeadLetterConfig = &types.DeadLetterConfig{TargetArn: aws.String("arn:aws:sqs:us-east-1:123456789012:q")}
	in.Environment = &types.Environment{Variables: map[string]string{"KEY": "b"}}
	in.EphemeralStorage = &types.EphemeralStorage{Size: aws.Int32(1024)}
	in.KMSKeyArn = aws.String("arn:aws:kms:us-east-1:123456789012:key/k")
	in.TracingConfig = &types.TracingConfig{Mode: types.TracingModeActive}
	in.LoggingConfig = &types.LoggingConfig{
		LogFormat: types.LogFormatJson, ApplicationLogLevel: "WARN", SystemLogLevel: "DEBUG", LogGroup: aws.String("group"),
	}
	if in.CapacityProviderConfig != nil {
		instances(in).PerExecutionEnvironmentMaxConcurrency = aws.Int32(5)
		instances(in).ExecutionEnvironmentMemoryGiBPerVCpu = aws.Float64(2)
	}
	return in
}

// reads is resourceFunctionRead: everything it keeps must be what in says.
func (s *system) reads(in *lambda.CreateFunctionInput, reserved *int32, latest string) {
	s.t.Helper()
	ctx, f := s.t.Context(), in.FunctionName
	out := must[*lambda.GetFunctionOutput](s.t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f}))
	got := out.Configuration
	want := &types.FunctionConfiguration{
		FunctionName: f, FunctionArn: aws.String(functionBase + *f), Version: aws.String("$LATEST"), Role: in.Role, Runtime: in.Runtime,
		Handler: in.Handler, Description: in.Description, MemorySize: in.MemorySize, Timeout: in.Timeout, PackageType: in.PackageType,
		CodeSize: int64(len(in.Code.ZipFile)), CodeSha256: digest(in.Code.ZipFile), Architectures: in.Architectures,
		DeadLetterConfig: in.DeadLetterConfig, EphemeralStorage: in.EphemeralStorage, KMSKeyArn: in.KMSKeyArn,
		LoggingConfig: in.LoggingConfig, TracingConfig: &types.TracingConfigResponse{Mode: in.TracingConfig.Mode},
		CapacityProviderConfig: in.CapacityProviderConfig,
		// Computed:
		LastModified: got.LastModified, RevisionId: got.RevisionId, State: "ActiveNonInvocable", LastUpdateStatus: "Successful",
	}
	if in.Environment != nil {
		want.Environment = &types.EnvironmentResponse{Variables: in.Environment.Variables}
	}
	if in.CapacityProviderConfig == nil { // flattenSnapStart takes None for nothing
		want.State, want.SnapStart = "Active", &types.SnapStartResponse{ApplyOn: "None", OptimizationStatus: "Off"}
	}
	same(s.t, "what is kept of the function", want, got)
	same(s.t, "tags", in.Tags, out.Tags)
	same(s.t, "tags listed", in.Tags, must[*lambda.ListTagsOutput](s.t)(s.ListTags(ctx, &lambda.ListTagsInput{Resource: got.FunctionArn})).Tags)
	if out.Code == nil || out.Code.ImageUri != nil || out.Code.SourceKMSKeyArn != nil {
		s.t.Errorf("code %+v", out.Code)
	}
	var have *int32
	if out.Concurrency != nil {
		have = out.Concurrency.ReservedConcurrentExecutions
	}
	same(s.t, "reserved concurrency", reserved, have)
	versions := must[*lambda.ListVersionsByFunctionOutput](s.t)(s.ListVersionsByFunction(ctx,
		&lambda.ListVersionsByFunctionInput{FunctionName: f, MaxItems: aws.Int32(10000)})).Versions
	if last := versions[len(versions)-1]; *last.Version != latest || *last.FunctionArn != functionBase+*f+":"+latest {
		s.t.Errorf("the last version is %s, %s; want %s", *last.Version, *last.FunctionArn, latest)
	}
	signing := must[*lambda.GetFunctionCodeSigningConfigOutput](s.t)(s.GetFunctionCodeSigningConfig(ctx, &lambda.GetFunctionCodeSigningConfigInput{FunctionName: f}))
	if signing.CodeSigningConfigArn != nil {
		s.t.Errorf("code signing config %s", *signing.CodeSigningConfigArn)
	}
}

// TestWhatTerraformDoesWithAFunctionWorks is function.go.
func TestWhatTerraformDoesWithAFunctionWorks(t *testing.T) {
	t.Parallel()
	for kind, input := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s, ctx, in := newSystem(t, withDefaultProvider).withProvider(), t.Context(), terraformFunction(t, input(t, "f"))
			must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, in))
			must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: in.FunctionName}))
			target, during := "Active", "Pending"
			if in.CapacityProviderConfig != nil {
				target, during = "ActiveNonInvocable", "ActiveNonInvocable"
			}
			if seen := s.polls("create", target, []string{"Pending"}, s.lookState(functionState)); seen[0] != during {
				t.Errorf("the new function was %s, want %s", seen[0], during)
			}
			reserved := must[*lambda.PutFunctionConcurrencyOutput](t)(s.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{
				FunctionName: in.FunctionName, ReservedConcurrentExecutions: aws.Int32(7),
			})).ReservedConcurrentExecutions
			s.reads(in, reserved, "$LATEST")
			s.terraformUpdates(in)
			s.terraformPublishes(in, "", "1")
			if in.CapacityProviderConfig != nil {
				s.terraformPublishes(in, types.FunctionVersionLatestPublishedLatestPublished, "$LATEST.PUBLISHED")
			}
			s.terraformDeletes(in)
		})
	}
}

// terraformUpdates is resourceFunctionUpdate up to the concurrency, and
// updateTags of tags_gen.go.
func (s *system) terraformUpdates(in *lambda.CreateFunctionInput) {
	s.t.Helper()
	ctx, f, busy := s.t.Context(), in.FunctionName, in.CapacityProviderConfig == nil
	in.Description, in.MemorySize, in.Timeout, in.Handler = aws.String("other"), aws.Int32(4096), aws.Int32(9), aws.String("handler")
	in.Environment, in.EphemeralStorage = nil, &types.EphemeralStorage{Size: aws.Int32(512)}
	in.LoggingConfig = &types.LoggingConfig{LogFormat: types.LogFormatJson, ApplicationLogLevel: "INFO", SystemLogLevel: "INFO", LogGroup: aws.String("other")}
	in.TracingConfig = &types.TracingConfig{Mode: types.TracingModePassThrough}
	update := &lambda.UpdateFunctionConfigurationInput{
		FunctionName: f, Description: in.Description, MemorySize: in.MemorySize, Timeout: in.Timeout, Handler: in.Handler,
		EphemeralStorage: in.EphemeralStorage, LoggingConfig: in.LoggingConfig, TracingConfig: in.TracingConfig,
		CapacityProviderConfig: in.CapacityProviderConfig, Layers: []string{}, FileSystemConfigs: []types.FileSystemConfig{},
		VpcConfig: &types.VpcConfig{Ipv6AllowedForDualStack: aws.Bool(false), SecurityGroupIds: []string{}, SubnetIds: []string{}},
		SnapStart: &types.SnapStart{ApplyOn: types.SnapStartApplyOnNone},
		// Arguments that were taken out are sent empty.
		Environment:      &types.Environment{Variables: map[string]string{}},
		DeadLetterConfig: &types.DeadLetterConfig{TargetArn: aws.String("")}, KMSKeyArn: aws.String(""),
	}
	in.DeadLetterConfig, in.KMSKeyArn = nil, nil
	must[*lambda.UpdateFunctionConfigurationOutput](s.t)(s.UpdateFunctionConfiguration(ctx, update))
	if busy { // retryFunctionOp goes on while it is a conflict
		_, err := s.UpdateFunctionConfiguration(ctx, update)
		if _, ok := errors.AsType[*types.ResourceConflictException](err); !ok {
			s.t.Errorf("an update during another one: %v", err)
		}
	}
	s.terraformAwaitsUpdate(busy)
	in.Code = &types.FunctionCode{ZipFile: zipOf(s.t, "two")}
	must[*lambda.UpdateFunctionCodeOutput](s.t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{
		FunctionName: f, ZipFile: in.Code.ZipFile, Architectures: in.Architectures,
	}))
	s.terraformAwaitsUpdate(busy)
	must[*lambda.DeleteFunctionConcurrencyOutput](s.t)(s.DeleteFunctionConcurrency(ctx, &lambda.DeleteFunctionConcurrencyInput{FunctionName: f}))
	arn := aws.String(functionBase + *f)
	must[*lambda.UntagResourceOutput](s.t)(s.UntagResource(ctx, &lambda.UntagResourceInput{Resource: arn, TagKeys: []string{"b"}}))
	must[*lambda.TagResourceOutput](s.t)(s.TagResource(ctx, &lambda.TagResourceInput{Resource: arn, Tags: map[string]string{"a": "3", "c": "4"}}))
	in.Tags = map[string]string{"a": "3", "c": "4"}
	s.reads(in, nil, "$LATEST")
}

// terraformAwaitsUpdate is waitFunctionUpdated.
func (s *system) terraformAwaitsUpdate(busy bool) {
	s.t.Helper()
	seen := s.polls("update", "Successful", []string{"InProgress"}, s.lookState(lastUpdateStatus))
	if (seen[0] == "InProgress") != busy {
		s.t.Errorf("the update was seen as %v", seen)
	}
}

// terraformPublishes is the end of resourceFunctionUpdate. It waits for the
// version by its qualified ARN and the version.
func (s *system) terraformPublishes(in *lambda.CreateFunctionInput, to types.FunctionVersionLatestPublished, want string) {
	s.t.Helper()
	ctx, publish := s.t.Context(), &lambda.PublishVersionInput{FunctionName: in.FunctionName, PublishTo: to}
	out := must[*lambda.PublishVersionOutput](s.t)(s.PublishVersion(ctx, publish))
	if to != "" { // RetryWhenIsAErrorMessageContains
		_, err := s.PublishVersion(ctx, publish)
		if e, ok := errors.AsType[*types.ResourceConflictException](err); !ok || !strings.Contains(e.ErrorMessage(), "in progress") {
			s.t.Errorf("published during another publication: %v", err)
		}
	}
	s.polls("version publish", "Successful", []string{"InProgress"}, func() (string, error) {
		got, err := s.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: out.FunctionArn, Qualifier: out.Version})
		if err != nil {
			return "", err
		}
		return string(got.LastUpdateStatus), nil
	})
	s.progress()
	s.reads(in, nil, want)
}

// terraformDeletes is resourceFunctionDelete.
func (s *system) terraformDeletes(in *lambda.CreateFunctionInput) {
	s.t.Helper()
	ctx, gone := s.t.Context(), &lambda.DeleteFunctionInput{FunctionName: in.FunctionName}
	must[*lambda.DeleteFunctionOutput](s.t)(s.DeleteFunction(ctx, gone))
	s.polls("delete", "", []string{"Active", "ActiveNonInvocable", "Pending", "Inactive", "Failed", "Deleting"}, s.lookState(functionState))
	s.progress()
	_, err := s.DeleteFunction(ctx, gone)
	refused(s.t, err, "ResourceNotFoundException", 404, "Function not found: "+functionBase+*in.FunctionName)
}

// TestWhatTerraformDoesWithInvocationsWorks is invocation.go, whose qualifier is
// $LATEST unless one is given.
func TestWhatTerraformDoesWithInvocationsWorks(t *testing.T) {
	t.Parallel()
	s := newSystem(t, withDefaultProvider).withTool(onDemandInput(t, "f"))
	for _, qualifier := range []controlplane.Qualifier{"$LATEST", "1", "live"} {
		s.invoker.set(controlplane.InvokeResult{Executed: qualifier, Payload: []byte(`{"out":1}`)}, nil)
		payload := `{"in":1,"tf":{"action":"create","prev_input":null}}`
		in := &lambda.InvokeInput{
			FunctionName: aws.String("f"), InvocationType: types.InvocationTypeRequestResponse, Payload: []byte(payload), Qualifier: aws.String(string(qualifier)),
		}
		out := must[*lambda.InvokeOutput](t)(s.Invoke(t.Context(), in))
		if got := s.invoker.seen(); out.FunctionError != nil || string(out.Payload) != `{"out":1}` || got.Qualifier != qualifier || string(got.Payload) != payload {
			t.Errorf("%s: answered %s for %s at %s", qualifier, out.Payload, got.Payload, got.Qualifier)
		}
		s.invoker.set(controlplane.InvokeResult{Executed: qualifier, FunctionError: "Unhandled", Payload: []byte(`{"errorMessage":"no"}`)}, nil)
		out = must[*lambda.InvokeOutput](t)(s.Invoke(t.Context(), in))
		if out.FunctionError == nil || string(out.Payload) != `{"errorMessage":"no"}` {
			t.Errorf("%s: a failure was answered with %+v", qualifier, out)
		}
	}
}
