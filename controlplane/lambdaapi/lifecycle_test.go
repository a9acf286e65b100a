package lambdaapi_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go/middleware"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// same compares wire types.
func same(t *testing.T, what string, want, got any) {
	t.Helper()
	ignore := cmpopts.IgnoreTypes(middleware.Metadata{})
	unexported := cmp.FilterPath(func(p cmp.Path) bool {
		f, ok := p.Last().(cmp.StructField)
		return ok && f.Name()[0] == 'n' // noSmithyDocumentSerde
	}, cmp.Ignore())
	if diff := cmp.Diff(want, got, ignore, unexported); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestAProviderIsDescribedAsItWasMade(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil), t.Context()
	in := providerInput("pool")
	in.VpcConfig.SecurityGroupIds = []string{"sg-1"}
	in.InstanceRequirements = &types.InstanceRequirements{
		Architectures: []types.Architecture{"arm64"}, AllowedInstanceTypes: []string{"m7g.large"},
	}
	in.CapacityProviderScalingConfig = &types.CapacityProviderScalingConfig{
		MaxVCpuCount: aws.Int32(64), ScalingMode: "Manual", ScalingPolicies: policies(30.5),
	}
	in.KmsKeyArn = aws.String("arn:aws:kms:us-east-1:123456789012:key/k")
	in.PropagateTags = &types.PropagateTags{Mode: "Explicit", ExplicitTags: map[string]string{"a": "b"}}
	in.TelemetryConfig = &types.CapacityProviderTelemetryConfig{
		LoggingConfig: &types.CapacityProviderLoggingConfig{SystemLogLevel: "DEBUG", LogGroup: aws.String("g")},
	}
	made := must[*lambda.CreateCapacityProviderOutput](t)(s.CreateCapacityProvider(ctx, in)).CapacityProvider
	want := &types.CapacityProvider{
		CapacityProviderArn: aws.String(providerBase + "pool"), State: "Pending", VpcConfig: in.VpcConfig,
		PermissionsConfig: in.PermissionsConfig, InstanceRequirements: in.InstanceRequirements,
		CapacityProviderScalingConfig: in.CapacityProviderScalingConfig, KmsKeyArn: in.KmsKeyArn,
		PropagateTags: in.PropagateTags, TelemetryConfig: in.TelemetryConfig, LastModified: made.LastModified,
	}
	same(t, "made", want, made)
	if _, err := time.Parse("2006-01-02T15:04:05.000-0700", *made.LastModified); err != nil {
		t.Errorf("last modified: %v", err)
	}
	for _, name := range []string{"pool", providerBase + "pool"} {
		got := must[*lambda.GetCapacityProviderOutput](t)(s.GetCapacityProvider(ctx, &lambda.GetCapacityProviderInput{CapacityProviderName: &name}))
		same(t, "got by "+name, want, got.CapacityProvider)
	}
	updated := must[*lambda.UpdateCapacityProviderOutput](t)(s.UpdateCapacityProvider(ctx, &lambda.UpdateCapacityProviderInput{
		CapacityProviderName:          aws.String("pool"),
		CapacityProviderScalingConfig: &types.CapacityProviderScalingConfig{MaxVCpuCount: aws.Int32(128)},
	})).CapacityProvider
	want.CapacityProviderScalingConfig.MaxVCpuCount, want.LastModified = aws.Int32(128), updated.LastModified
	same(t, "updated", want, updated)
	updated = must[*lambda.UpdateCapacityProviderOutput](t)(s.UpdateCapacityProvider(ctx, &lambda.UpdateCapacityProviderInput{
		CapacityProviderName:          aws.String("pool"),
		CapacityProviderScalingConfig: &types.CapacityProviderScalingConfig{ScalingMode: "Auto"},
	})).CapacityProvider
	want.CapacityProviderScalingConfig = &types.CapacityProviderScalingConfig{MaxVCpuCount: aws.Int32(128), ScalingMode: "Auto"}
	want.LastModified = updated.LastModified
	same(t, "back to Auto", want, updated)
	deleted := must[*lambda.DeleteCapacityProviderOutput](t)(s.DeleteCapacityProvider(ctx,
		&lambda.DeleteCapacityProviderInput{CapacityProviderName: aws.String("pool")})).CapacityProvider
	if deleted.State != types.CapacityProviderStateDeleting {
		t.Errorf("state %s after the delete, want Deleting", deleted.State)
	}
	if s.changed != 4 {
		t.Errorf("%d changes were announced, want 4", s.changed)
	}
}

func TestAFunctionIsDescribedAsItWasMade(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil).withProvider(), t.Context()
	in := functionInput(t, "f")
	in.Description, in.MemorySize, in.Timeout = aws.String("Größe <&>"), aws.Int32(4096), aws.Int32(900)
	in.Environment = &types.Environment{Variables: map[string]string{"KEY": "vä\nlue", "EMPTY": ""}}
	in.EphemeralStorage = &types.EphemeralStorage{Size: aws.Int32(1024)}
	in.TracingConfig = &types.TracingConfig{Mode: "Active"}
	in.LoggingConfig = &types.LoggingConfig{ApplicationLogLevel: "DEBUG", SystemLogLevel: "WARN", LogGroup: aws.String("g")}
	in.Tags = map[string]string{"team": "x"}
	instances(in).PerExecutionEnvironmentMaxConcurrency = aws.Int32(32)
	instances(in).ExecutionEnvironmentMemoryGiBPerVCpu = aws.Float64(4)
	made := must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, in))
	want := &types.FunctionConfiguration{
		FunctionName: aws.String("f"), FunctionArn: aws.String(functionBase + "f"), Version: aws.String("$LATEST"),
		Role: aws.String(role), Runtime: "provided.al2023", Handler: aws.String("bootstrap"), Description: in.Description,
		MemorySize: in.MemorySize, Timeout: in.Timeout, CodeSize: int64(len(in.Code.ZipFile)), CodeSha256: made.CodeSha256,
		LastModified: made.LastModified, RevisionId: made.RevisionId, PackageType: "Zip",
		Architectures: []types.Architecture{"x86_64"}, Environment: &types.EnvironmentResponse{Variables: in.Environment.Variables},
		EphemeralStorage: in.EphemeralStorage, TracingConfig: &types.TracingConfigResponse{Mode: "Active"},
		LoggingConfig: &types.LoggingConfig{LogFormat: "JSON", ApplicationLogLevel: "DEBUG", SystemLogLevel: "WARN", LogGroup: aws.String("g")},
		State:         "ActiveNonInvocable", LastUpdateStatus: "Successful", CapacityProviderConfig: in.CapacityProviderConfig,
	}
	for _, name := range []string{"f", functionBase + "f", "123456789012:function:f", "function:f"} {
		got := must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: &name}))
		same(t, "got by "+name, want, got.Configuration)
		same(t, "tags", in.Tags, got.Tags)
	}
	want.FunctionArn = aws.String(functionBase + "f:$LATEST")
	got := must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f:$LATEST")}))
	same(t, "got as f:$LATEST", want, got.Configuration)
}

// publish publishes $LATEST of "f".
func (s *system) publish(to types.FunctionVersionLatestPublished, description *string) *lambda.PublishVersionOutput {
	s.t.Helper()
	return must[*lambda.PublishVersionOutput](s.t)(s.PublishVersion(s.t.Context(),
		&lambda.PublishVersionInput{FunctionName: aws.String("f"), PublishTo: to, Description: description}))
}

func TestPublishingWhatChangedMakesNumbers(t *testing.T) {
	t.Parallel()
	s, ctx, f := newSystem(t, nil).withFunction(), t.Context(), aws.String("f")
	first := s.publish("", aws.String("first"))
	if *first.Version != "1" || *first.Description != "first" || first.State != "Pending" || first.StateReasonCode != "Creating" ||
		*first.StateReason != "The function is being created." {
		t.Errorf("first: %s %q %s", *first.Version, *first.Description, first.State)
	}
	if again := s.publish("", nil); *again.Version != "1" || *again.RevisionId != *first.RevisionId {
		t.Errorf("published again unchanged: version %s, want 1", *again.Version)
	}
	updated := must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx,
		&lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(t, "two"), Publish: true}))
	if *updated.Version != "2" || *updated.CodeSha256 == *first.CodeSha256 {
		t.Errorf("published with new code: version %s", *updated.Version)
	}
	must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(ctx,
		&lambda.UpdateFunctionConfigurationInput{FunctionName: f, MemorySize: aws.Int32(4096)}))
	if third := s.publish("", nil); *third.Version != "3" {
		t.Errorf("published with a new configuration: version %s, want 3", *third.Version)
	}
	s.publish("LATEST_PUBLISHED", nil)
	list := must[*lambda.ListVersionsByFunctionOutput](t)(s.ListVersionsByFunction(ctx, &lambda.ListVersionsByFunctionInput{FunctionName: f}))
	var versions []string
	for _, v := range list.Versions {
		versions = append(versions, (*v.FunctionArn)[len(functionBase):])
	}
	same(t, "versions", []string{"f:$LATEST", "f:1", "f:2", "f:3", "f:$LATEST.PUBLISHED"}, versions)
}

func TestAnotherDescriptionOfLatestMakesAnotherVersion(t *testing.T) {
	t.Parallel()
	s, f := newSystem(t, nil).withFunction(), aws.String("f")
	s.publish("", aws.String("first"))
	must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(t.Context(),
		&lambda.UpdateFunctionConfigurationInput{FunctionName: f, Description: aws.String("second")}))
	if second := s.publish("", nil); *second.Version != "2" || *second.Description != "second" {
		t.Errorf("published with a new description: version %s %q, want 2", *second.Version, *second.Description)
	}
	if again := s.publish("", aws.String("third")); *again.Version != "2" {
		t.Errorf("published unchanged under another description: version %s, want 2", *again.Version)
	}
}

func TestWhatServesGoesOnWhileLatestPublishedIsReplaced(t *testing.T) {
	t.Parallel()
	s, ctx, f := newSystem(t, nil).withFunction(), t.Context(), aws.String("f")
	latest := s.publish("LATEST_PUBLISHED", nil)
	if *latest.Version != "$LATEST.PUBLISHED" || *latest.FunctionArn != functionBase+"f:$LATEST.PUBLISHED" || latest.State != "Pending" {
		t.Errorf("published: %s %s %s", *latest.Version, *latest.FunctionArn, latest.State)
	}
	must[*lambda.PutFunctionScalingConfigOutput](t)(s.PutFunctionScalingConfig(ctx, &lambda.PutFunctionScalingConfigInput{
		FunctionName: f, Qualifier: latest.Version,
		FunctionScalingConfig: &types.FunctionScalingConfig{MinExecutionEnvironments: aws.Int32(1)},
	}))
	s.settle(controlplane.LatestPublished, controlplane.VersionActive)
	must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(ctx,
		&lambda.UpdateFunctionConfigurationInput{FunctionName: f, MemorySize: aws.Int32(4096)}))
	again := s.publish("LATEST_PUBLISHED", nil)
	if again.State != "Active" || again.LastUpdateStatus != "InProgress" || *again.MemorySize != 4096 {
		t.Errorf("published again: %s, last update %s, %d MB", again.State, again.LastUpdateStatus, *again.MemorySize)
	}
	s.store(func(w store.Writer) error {
		v, err := w.Version("f", controlplane.LatestPublished)
		if v.Serving == nil || string(v.Serving.Revision) != *latest.RevisionId || v.Serving.Config.MemoryMB != 2048 {
			t.Errorf("meanwhile serves %+v, want revision %s", v.Serving, *latest.RevisionId)
		}
		if v.Applied.Min != 1 {
			t.Errorf("scaling config %+v was not kept", v.Applied)
		}
		return err
	})
}

func TestNothingOfADryRunIsKept(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil).withFunction(), t.Context()
	before := must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f")}))
	out := must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx,
		&lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: zipOf(t, "two"), DryRun: true}))
	if *out.CodeSha256 == *before.Configuration.CodeSha256 {
		t.Error("the dry run described the old code")
	}
	after := must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f")}))
	same(t, "function after a dry run", before.Configuration, after.Configuration)
}

func TestScalingConfigsMoveTheState(t *testing.T) {
	t.Parallel()
	s, ctx, f, one := newSystem(t, nil).withFunction(), t.Context(), aws.String("f"), aws.String("1")
	must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f}))
	s.settle("1", controlplane.VersionActive)
	put := func(in *types.FunctionScalingConfig) types.State {
		t.Helper()
		return must[*lambda.PutFunctionScalingConfigOutput](t)(s.PutFunctionScalingConfig(ctx,
			&lambda.PutFunctionScalingConfigInput{FunctionName: f, Qualifier: one, FunctionScalingConfig: in})).FunctionState
	}
	bounds := func(lower, upper int32) *types.FunctionScalingConfig {
		return &types.FunctionScalingConfig{MinExecutionEnvironments: &lower, MaxExecutionEnvironments: &upper}
	}
	expect := func(requested, applied *types.FunctionScalingConfig) {
		t.Helper()
		out := must[*lambda.GetFunctionScalingConfigOutput](t)(s.GetFunctionScalingConfig(ctx,
			&lambda.GetFunctionScalingConfigInput{FunctionName: f, Qualifier: one}))
		same(t, "requested until it is in force", requested, out.RequestedFunctionScalingConfig)
		same(t, "applied", applied, out.AppliedFunctionScalingConfig)
	}
	standard := &types.FunctionScalingConfig{MinExecutionEnvironments: aws.Int32(3)}
	expect(nil, standard)
	if state := put(bounds(0, 4)); state != "Active" {
		t.Errorf("state %s after 0–4, want Active", state)
	}
	expect(bounds(0, 4), standard)
	if state := put(bounds(0, 0)); state != "Deactivating" {
		t.Errorf("state %s after 0/0, want Deactivating", state)
	}
	s.settle("1", controlplane.VersionDeactivated)
	expect(nil, bounds(0, 0))
	if state := put(&types.FunctionScalingConfig{MaxExecutionEnvironments: aws.Int32(9)}); state != "Pending" {
		t.Errorf("state %s after 3–9, want Pending", state)
	}
	expect(bounds(3, 9), bounds(0, 0))
	put(nil)
	expect(standard, bounds(0, 0))
}

func TestADeletedFunctionGoesThroughDeleting(t *testing.T) {
	t.Parallel()
	s, ctx, f := newSystem(t, nil).withFunction(), t.Context(), aws.String("f")
	must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f}))
	must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f, PublishTo: "LATEST_PUBLISHED"}))
	state := func(name string) types.State {
		t.Helper()
		return must[*lambda.GetFunctionConfigurationOutput](t)(s.GetFunctionConfiguration(ctx,
			&lambda.GetFunctionConfigurationInput{FunctionName: &name})).State
	}
	out := must[*lambda.DeleteFunctionOutput](t)(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: aws.String("f:1")}))
	if out.StatusCode != 202 || state("f:1") != "Deleting" || state("f") != "ActiveNonInvocable" || state("f:$LATEST.PUBLISHED") != "Pending" {
		t.Errorf("deleting version 1 answered %d; states %s, %s, %s", out.StatusCode, state("f:1"), state("f"), state("f:$LATEST.PUBLISHED"))
	}
	for range 2 { // it may be repeated
		must[*lambda.DeleteFunctionOutput](t)(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: f}))
	}
	if state("f") != "Deleting" || state("f:$LATEST.PUBLISHED") != "Deleting" {
		t.Errorf("deleting the function: states %s, %s", state("f"), state("f:$LATEST.PUBLISHED"))
	}
}

func TestListsComeInPages(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil).withProvider(), t.Context()
	want := []string{"a", "b", "c", "d", "e"}
	for _, name := range want {
		must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, functionInput(t, name)))
		must[*lambda.CreateCapacityProviderOutput](t)(s.CreateCapacityProvider(ctx, providerInput("p-"+name)))
	}
	var functions, versions, providers []string
	for p := lambda.NewListFunctionsPaginator(s, &lambda.ListFunctionsInput{MaxItems: aws.Int32(2)}); p.HasMorePages(); {
		for _, f := range must[*lambda.ListFunctionsOutput](t)(p.NextPage(ctx)).Functions {
			functions = append(functions, *f.FunctionName)
		}
	}
	same(t, "functions", want, functions)
	for p := lambda.NewListFunctionVersionsByCapacityProviderPaginator(s, &lambda.ListFunctionVersionsByCapacityProviderInput{
		CapacityProviderName: aws.String("pool"), MaxItems: aws.Int32(2),
	}); p.HasMorePages(); {
		for _, v := range must[*lambda.ListFunctionVersionsByCapacityProviderOutput](t)(p.NextPage(ctx)).FunctionVersions {
			versions = append(versions, (*v.FunctionArn)[len(functionBase):])
		}
	}
	same(t, "versions of the provider", []string{"a:$LATEST", "b:$LATEST", "c:$LATEST", "d:$LATEST", "e:$LATEST"}, versions)
	for p := lambda.NewListCapacityProvidersPaginator(s, &lambda.ListCapacityProvidersInput{
		MaxItems: aws.Int32(2), State: "Pending",
	}); p.HasMorePages(); {
		for _, c := range must[*lambda.ListCapacityProvidersOutput](t)(p.NextPage(ctx)).CapacityProviders {
			providers = append(providers, (*c.CapacityProviderArn)[len(providerBase):])
		}
	}
	same(t, "pending providers", []string{"p-a", "p-b", "p-c", "p-d", "p-e"}, providers)
	_, err := s.ListFunctions(ctx, &lambda.ListFunctionsInput{Marker: aws.String("?")})
	refused(t, err, "InvalidParameterValueException", 400, "Invalid value for marker: ?")
}

func TestTheWaitersOfTheSDKWork(t *testing.T) {
	t.Parallel()
	s, ctx, f, one := newSystem(t, nil).withFunction(), t.Context(), aws.String("f"), aws.String("1")
	must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f}))
	const soon = 20 * time.Millisecond
	waiters := map[string]func(context.Context) error{
		"function active v2": func(ctx context.Context) error {
			w := lambda.NewFunctionActiveV2Waiter(s, func(o *lambda.FunctionActiveV2WaiterOptions) { o.MinDelay, o.MaxDelay = soon, soon })
			return w.Wait(ctx, &lambda.GetFunctionInput{FunctionName: f, Qualifier: one}, 10*time.Second)
		},
		"published version active": func(ctx context.Context) error {
			w := lambda.NewPublishedVersionActiveWaiter(s, func(o *lambda.PublishedVersionActiveWaiterOptions) { o.MinDelay, o.MaxDelay = soon, soon })
			return w.Wait(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: f, Qualifier: one}, 10*time.Second)
		},
		"function updated v2": func(ctx context.Context) error {
			w := lambda.NewFunctionUpdatedV2Waiter(s, func(o *lambda.FunctionUpdatedV2WaiterOptions) { o.MinDelay, o.MaxDelay = soon, soon })
			return w.Wait(ctx, &lambda.GetFunctionInput{FunctionName: f, Qualifier: one}, 10*time.Second)
		},
		"function exists": func(ctx context.Context) error {
			w := lambda.NewFunctionExistsWaiter(s, func(o *lambda.FunctionExistsWaiterOptions) { o.MinDelay, o.MaxDelay = soon, soon })
			return w.Wait(ctx, &lambda.GetFunctionInput{FunctionName: f}, 10*time.Second)
		},
	}
	var wg sync.WaitGroup
	for name, wait := range waiters {
		wg.Go(func() {
			if err := wait(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	s.settle("1", controlplane.VersionActive)
	wg.Wait()

	s.settle("1", controlplane.VersionFailed)
	if err := waiters["published version active"](ctx); err == nil {
		t.Error("waiting for a failed version succeeded")
	}
	err := lambda.NewFunctionActiveV2Waiter(s).Wait(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("none")}, time.Second)
	if _, ok := errors.AsType[*types.ResourceNotFoundException](err); !ok {
		t.Errorf("waiting for a function that is not there: %v", err)
	}
}

func TestConcurrentChangesAllCount(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			in := &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: zipOf(t, string(rune('a'+i))), Publish: true}
			if _, err := s.UpdateFunctionCode(t.Context(), in); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list := must[*lambda.ListVersionsByFunctionOutput](t)(s.ListVersionsByFunction(t.Context(),
		&lambda.ListVersionsByFunctionInput{FunctionName: aws.String("f")}))
	seen := map[string]bool{}
	for _, v := range list.Versions {
		seen[*v.CodeSha256] = true
	}
	if len(list.Versions) != 9 || len(seen) != 8 {
		t.Errorf("%d versions with %d archives, want 9 with 8", len(list.Versions), len(seen))
	}
}
