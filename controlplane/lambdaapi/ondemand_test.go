package lambdaapi_test

import (
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/controlplane/store"
)

func withDefaultProvider(c *lambdaapi.Config) { c.DefaultProvider = "pool" }

// onDemandInput is a function as tools make it that know no capacity providers.
func onDemandInput(t testing.TB, name string) *lambda.CreateFunctionInput {
	in := functionInput(t, name)
	in.CapacityProviderConfig = nil
	return in
}

// withOnDemand makes the provider and the function "f", whose $LATEST is Active.
func (s *system) withOnDemand() *system {
	s.t.Helper()
	s.withProvider()
	must[*lambda.CreateFunctionOutput](s.t)(s.CreateFunction(s.t.Context(), onDemandInput(s.t, "f")))
	s.settleLatest(controlplane.VersionActive, controlplane.UpdateSuccessful)
	return s
}

// settleLatest sets the state of $LATEST of "f" as the reconcile loop would.
func (s *system) settleLatest(state controlplane.VersionState, update controlplane.UpdateStatus) {
	s.t.Helper()
	s.store(func(w store.Writer) error {
		f, err := w.Function("f")
		if err != nil {
			return err
		}
		v := &f.Latest
		v.State, v.ReasonCode, v.Reason, v.Update, v.UpdateReasonCode, v.UpdateReason = state, "", "", update, "", ""
		if update == controlplane.UpdateSuccessful {
			v.Serving = nil
		}
		return w.PutFunction(f)
	})
}

// latest is $LATEST of "f" in the store.
func (s *system) latest() (v controlplane.Version) {
	s.t.Helper()
	s.store(func(w store.Writer) error {
		f, err := w.Function("f")
		v = f.Latest
		return err
	})
	return v
}

func TestAFunctionWithoutAProviderRunsOnDemand(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, withDefaultProvider).withProvider(), t.Context()
	in := onDemandInput(t, "f")
	made := must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, in))
	want := &types.FunctionConfiguration{
		FunctionName: aws.String("f"), FunctionArn: aws.String(functionBase + "f"), Version: aws.String("$LATEST"),
		Role: aws.String(role), Runtime: "provided.al2023", Handler: aws.String("bootstrap"), Description: aws.String(""),
		MemorySize: aws.Int32(128), Timeout: aws.Int32(3), CodeSize: int64(len(in.Code.ZipFile)), CodeSha256: made.CodeSha256,
		LastModified: made.LastModified, RevisionId: made.RevisionId, PackageType: "Zip",
		Architectures: []types.Architecture{"x86_64"}, EphemeralStorage: &types.EphemeralStorage{Size: aws.Int32(512)},
		TracingConfig: &types.TracingConfigResponse{Mode: "PassThrough"},
		LoggingConfig: &types.LoggingConfig{LogFormat: "Text", LogGroup: aws.String("/aws/lambda/f")},
		SnapStart:     &types.SnapStartResponse{ApplyOn: "None", OptimizationStatus: "Off"},
		State:         "Pending", StateReasonCode: "Creating", StateReason: aws.String("The function is being created."),
		LastUpdateStatus: "Successful",
	}
	get := func() *types.FunctionConfiguration {
		t.Helper()
		return must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f")})).Configuration
	}
	same(t, "made", want, get())
	if got := s.latest(); !got.Config.OnDemand || got.Provider != "pool" || got.Applied.Min != 1 || got.Config.Concurrency() != 1 {
		t.Errorf("kept %+v", got)
	}
	s.settleLatest(controlplane.VersionActive, controlplane.UpdateSuccessful)
	want.State, want.StateReasonCode, want.StateReason = "Active", "", nil
	same(t, "once it runs", want, get())
	bound := must[*lambda.ListFunctionVersionsByCapacityProviderOutput](t)(s.ListFunctionVersionsByCapacityProvider(ctx,
		&lambda.ListFunctionVersionsByCapacityProviderInput{CapacityProviderName: aws.String("pool")})).FunctionVersions
	if len(bound) != 1 || bound[0].State != types.StateActive {
		t.Errorf("versions of the provider: %+v", bound)
	}
	out := must[*lambda.DeleteFunctionOutput](t)(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: aws.String("f")}))
	if out.StatusCode != 204 {
		t.Errorf("the delete answered %d, want 204", out.StatusCode)
	}
}

func TestAnUpdateOnDemandRollsWhileTheOldServes(t *testing.T) {
	t.Parallel()
	s, ctx, f := newSystem(t, withDefaultProvider).withOnDemand(), t.Context(), aws.String("f")
	before := s.latest()
	updated := must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(ctx,
		&lambda.UpdateFunctionConfigurationInput{FunctionName: f, MemorySize: aws.Int32(256)}))
	if updated.State != "Active" || updated.LastUpdateStatus != "InProgress" || *updated.LastUpdateStatusReason != "The function is being updated." ||
		*updated.MemorySize != 256 {
		t.Errorf("updated: %s, %s, %d MB", updated.State, updated.LastUpdateStatus, *updated.MemorySize)
	}
	after := s.latest()
	if after.Revision == before.Revision || after.Serving == nil || after.Serving.Revision != before.Revision || after.Serving.Config.MemoryMB != 128 {
		t.Errorf("it serves %+v, and starts %s", after.Serving, after.Revision)
	}
	for _, err := range s.edits() {
		refused(t, err, "ResourceConflictException", 409, updating)
	}
}

func TestAfterAFailureOnDemandTheNextUpdateFollows(t *testing.T) {
	t.Parallel()
	s, ctx, f := newSystem(t, withDefaultProvider).withOnDemand(), t.Context(), aws.String("f")
	before := s.latest()
	must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(ctx,
		&lambda.UpdateFunctionConfigurationInput{FunctionName: f, MemorySize: aws.Int32(256)}))
	// What served goes on.
	s.settleLatest(controlplane.VersionActive, controlplane.UpdateFailed)
	code := must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(t, "two")}))
	if got := s.latest(); code.LastUpdateStatus != "InProgress" || got.Serving == nil || got.Serving.Revision != before.Revision ||
		got.Code.SHA256 == before.Code.SHA256 {
		t.Errorf("after a failed update: %s, serving %+v", code.LastUpdateStatus, got.Serving)
	}
	// One that never ran starts afresh.
	s.settleLatest(controlplane.VersionFailed, controlplane.UpdateSuccessful)
	fresh := must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(t, "three")}))
	if fresh.State != "Pending" || fresh.LastUpdateStatus != "InProgress" || s.latest().Serving != nil {
		t.Errorf("after it failed: %s, last update %s", fresh.State, fresh.LastUpdateStatus)
	}
	for _, err := range s.edits() { // Pending
		refused(t, err, "ResourceConflictException", 409, updating)
	}
}

const updating = "The operation cannot be performed at this time. An update is in progress for resource: " + functionBase + "f"

// edits tries everything that changes or publishes $LATEST of "f".
func (s *system) edits() []error {
	ctx, f := s.t.Context(), aws.String("f")
	return []error{
		second(s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: f})),
		second(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(s.t, "x")})),
		second(s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f})),
	}
}

// TestAProviderGoesRightAfterItsFunctionsOnDemand, and then a function that names
// none is told why there is none.
func TestAProviderGoesRightAfterItsFunctionsOnDemand(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, withDefaultProvider).withOnDemand(), t.Context()
	must[*lambda.DeleteFunctionOutput](t)(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: aws.String("f")}))
	must[*lambda.DeleteCapacityProviderOutput](t)(s.DeleteCapacityProvider(ctx,
		&lambda.DeleteCapacityProviderInput{CapacityProviderName: aws.String("pool")}))
	s.store(func(w store.Writer) error { return errors.Join(w.DeleteFunction("f"), w.DeleteProvider("pool")) })
	refused(t, second(s.CreateFunction(ctx, onDemandInput(t, "f"))), "ResourceNotFoundException", 404,
		"Capacity provider not found: "+providerBase+"pool. Functions without a CapacityProviderConfig run on the provider that "+
			"--default-capacity-provider names: create it, or name another one.")
}

func TestOnDemandVersionsAreNumbered(t *testing.T) {
	t.Parallel()
	s := newSystem(t, withDefaultProvider).withOnDemand()
	v := s.publish("", nil)
	if *v.Version != "1" || v.State != "Pending" || v.CapacityProviderConfig != nil || *v.MemorySize != 128 {
		t.Errorf("published %s, %s, %+v", *v.Version, v.State, v.CapacityProviderConfig)
	}
	s.store(func(w store.Writer) error {
		v, err := w.Version("f", "1")
		if !v.Config.OnDemand || v.Applied.Min != 1 || v.Provider != "pool" {
			t.Errorf("kept %+v", v)
		}
		return err
	})
}

func TestOnDemandTakesTheArchitectureOfItsProvider(t *testing.T) {
	t.Parallel()
	s := newSystem(t, withDefaultProvider)
	p := providerInput("pool")
	p.InstanceRequirements = &types.InstanceRequirements{Architectures: []types.Architecture{"arm64"}}
	must[*lambda.CreateCapacityProviderOutput](t)(s.CreateCapacityProvider(t.Context(), p))
	s.activate("pool")
	made := must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(t.Context(), onDemandInput(t, "f")))
	if made.Architectures[0] != "arm64" {
		t.Errorf("made for %s", made.Architectures)
	}
	asked := onDemandInput(t, "g")
	asked.Architectures = []types.Architecture{"x86_64"}
	_, err := s.CreateFunction(t.Context(), asked)
	refused(t, err, "InvalidParameterValueException", 400, "The architecture of the function, x86_64, is not that of its capacity provider, arm64.")
}

func TestOnDemandIsRefusedWhatAWSRefuses(t *testing.T) {
	t.Parallel()
	s, ctx, f := newSystem(t, withDefaultProvider).withOnDemand(), t.Context(), aws.String("f")
	const invalid, denied = "InvalidParameterValueException", "AccessDeniedException"
	const noProvider = "The function provided by the arn does not contain a capacity provider configuration"
	_, err := s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f, PublishTo: "LATEST_PUBLISHED"})
	refused(t, err, denied, 403, noProvider)
	_, err = s.PutFunctionScalingConfig(ctx, &lambda.PutFunctionScalingConfigInput{FunctionName: f, Qualifier: aws.String("1")})
	refused(t, err, denied, 403, noProvider)
	_, err = s.GetFunctionScalingConfig(ctx, &lambda.GetFunctionScalingConfigInput{FunctionName: f, Qualifier: aws.String("1")})
	refused(t, err, denied, 403, noProvider)
	_, err = s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{
		FunctionName: f, CapacityProviderConfig: functionInput(t, "f").CapacityProviderConfig,
	})
	refused(t, err, invalid, 400, "CapacityProviderConfig isn't supported for Lambda Default functions.")
	_, err = s.DeleteCapacityProvider(ctx, &lambda.DeleteCapacityProviderInput{CapacityProviderName: aws.String("pool")})
	refused(t, err, "ResourceConflictException", 409, "The capacity provider is currently in use by 1 functions. "+
		"To delete this capacity provider, first remove its association with "+functionBase+"f:$LATEST.")
	for name, c := range map[string]struct {
		change        func(*lambda.CreateFunctionInput)
		code, message string
	}{
		"10241 MB": {
			func(in *lambda.CreateFunctionInput) { in.MemorySize = aws.Int32(10241) },
			invalid, "'MemorySize' value failed to satisfy constraint: Member must have value less than or equal to 10240",
		},
		"901 seconds": {
			func(in *lambda.CreateFunctionInput) { in.Timeout = aws.Int32(901) },
			"ValidationException", valid("timeout", "'901'", "Member must have value less than or equal to 900"),
		},
		"a level of text": {
			func(in *lambda.CreateFunctionInput) {
				in.LoggingConfig = &types.LoggingConfig{ApplicationLogLevel: "DEBUG"}
			},
			invalid, `LogLevel is not supported when LogFormat is set to "Text". Remove LogLevel from your request or change the LogFormat to "JSON" and try again.`,
		},
		"a VPC": {
			func(in *lambda.CreateFunctionInput) { in.VpcConfig = &types.VpcConfig{SubnetIds: []string{"a"}} },
			invalid, "VpcConfig is not available in this service.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := onDemandInput(t, "g")
			c.change(in)
			_, err := s.CreateFunction(t.Context(), in)
			refused(t, err, c.code, 400, c.message)
		})
	}
}

func TestLevelsComeAndGoWithTheLogFormat(t *testing.T) {
	t.Parallel()
	s := newSystem(t, withDefaultProvider).withOnDemand()
	for _, c := range []struct{ given, want types.LoggingConfig }{
		{
			types.LoggingConfig{LogFormat: "JSON", SystemLogLevel: "WARN"},
			types.LoggingConfig{LogFormat: "JSON", ApplicationLogLevel: "INFO", SystemLogLevel: "WARN", LogGroup: aws.String("/aws/lambda/f")},
		},
		{
			types.LoggingConfig{LogFormat: "Text", LogGroup: aws.String("g")},
			types.LoggingConfig{LogFormat: "Text", LogGroup: aws.String("g")},
		},
	} {
		got := must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(t.Context(),
			&lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("f"), LoggingConfig: &c.given}))
		same(t, "logging", &c.want, got.LoggingConfig)
		s.settleLatest(controlplane.VersionActive, controlplane.UpdateSuccessful)
	}
}

func TestAFunctionOnDemandIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, withDefaultProvider).withOnDemand(), t.Context()
	must[*lambda.DeleteFunctionOutput](t)(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: aws.String("f")}))
	made := make(chan error, 1)
	go func() { made <- second(s.CreateFunction(ctx, onDemandInput(t, "f"))) }()
	select {
	case err := <-made:
		t.Fatalf("made while the old one is there: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	refused(t, second(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f")})),
		"ResourceNotFoundException", 404, "Function not found: "+functionBase+"f")
	if list := must[*lambda.ListFunctionsOutput](t)(s.ListFunctions(ctx, &lambda.ListFunctionsInput{})); len(list.Functions) != 0 {
		t.Errorf("%d functions are listed after the delete was answered", len(list.Functions))
	}
	s.store(func(w store.Writer) error { return w.DeleteFunction("f") })
	if err := <-made; err != nil {
		t.Error(err)
	}
}

func TestWithoutADefaultProviderEveryFunctionNamesOne(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withProvider()
	_, err := s.CreateFunction(t.Context(), onDemandInput(t, "f"))
	refused(t, err, "InvalidParameterValueException", 400,
		"CapacityProviderConfig must be set: this service runs functions on capacity providers only.")
}
