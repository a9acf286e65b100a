package lambdaapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
)

// member is what becomes of a member of a request: it is returned as given, or
// as want; or refused with an exception; or a test of its own says what it does.
type member struct {
	value, want any
	refused     string
	test        string
}

// configurationMembers are those of CreateFunction and UpdateFunctionConfiguration.
func configurationMembers() map[string]member {
	const refused = " is not supported for functions configured with capacity provider"
	arn := func(service, rest string) *string {
		return aws.String("arn:aws:" + service + ":us-east-1:123456789012:" + rest)
	}
	return map[string]member{
		"FunctionName":     {value: aws.String("g")},
		"Role":             {value: aws.String(role + "2")},
		"Handler":          {value: aws.String("other")},
		"Runtime":          {value: types.RuntimeJava21},
		"Description":      {value: aws.String("text")},
		"Timeout":          {value: aws.Int32(77)},
		"MemorySize":       {value: aws.Int32(4096)},
		"PackageType":      {value: types.PackageTypeZip},
		"Architectures":    {value: []types.Architecture{"x86_64"}},
		"KMSKeyArn":        {value: arn("kms", "key/k")},
		"Environment":      {value: &types.Environment{Variables: map[string]string{"KEY": "v"}}, want: &types.EnvironmentResponse{Variables: map[string]string{"KEY": "v"}}},
		"EphemeralStorage": {value: &types.EphemeralStorage{Size: aws.Int32(1024)}},
		"TracingConfig":    {value: &types.TracingConfig{Mode: "Active"}},
		"DeadLetterConfig": {value: &types.DeadLetterConfig{TargetArn: arn("sqs", "q")}},
		"LoggingConfig": {value: &types.LoggingConfig{
			LogFormat: "JSON", ApplicationLogLevel: "TRACE", SystemLogLevel: "DEBUG", LogGroup: aws.String("group"),
		}},
		"CapacityProviderConfig": {value: &types.CapacityProviderConfig{
			LambdaManagedInstancesCapacityProviderConfig: &types.LambdaManagedInstancesCapacityProviderConfig{
				CapacityProviderArn:                   aws.String(providerBase + "pool"),
				PerExecutionEnvironmentMaxConcurrency: aws.Int32(3), ExecutionEnvironmentMemoryGiBPerVCpu: aws.Float64(2),
			},
		}},
		"VpcConfig":            {value: &types.VpcConfig{SecurityGroupIds: []string{"sg"}}, refused: "VpcConfig" + refused},
		"SnapStart":            {value: &types.SnapStart{ApplyOn: "PublishedVersions"}, refused: "SnapStart" + refused},
		"Layers":               {value: []string{layerBase + "l:1"}, want: []types.Layer{{Arn: aws.String(layerBase + "l:1"), CodeSize: zipSize}}},
		"FileSystemConfigs":    {value: []types.FileSystemConfig{{Arn: arn("x", "y"), LocalMountPath: aws.String("/mnt/a")}}, refused: "FileSystemConfigs" + refused},
		"DurableConfig":        {value: &types.DurableConfig{ExecutionTimeout: aws.Int32(1)}, refused: "DurableConfig" + refused},
		"TenancyConfig":        {value: &types.TenancyConfig{TenantIsolationMode: "PER_TENANT"}, refused: "TenancyConfig" + refused},
		"CodeSigningConfigArn": {value: arn("lambda", "code-signing-config:csc-0123456789abcdef0"), refused: "CodeSigningConfigArn" + refused},
		"ImageConfig":          {test: "TestAFunctionIsMadeOfAnImage"},
		"Code":                 {test: "TestEveryMemberOfCodeIsKeptOrRefused"},
		"Tags":                 {test: "TestAFunctionIsDescribedAsItWasMade"},
		"Publish":              {test: "TestAFunctionIsPublishedAsItIsMade"},
		"PublishTo":            {test: "TestAFunctionIsPublishedAsItIsMade"},
		"RevisionId":           {test: "TestARevisionThatIsNotTheLatestIsRefused"},
	}
}

// members are the names of a request's members.
func members(request any) (names []string) {
	for f := range reflect.TypeOf(request).Fields() {
		if f.IsExported() {
			names = append(names, f.Name)
		}
	}
	return names
}

// text is a wire type, for comparing types that differ in name only.
func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// whole checks that a structure that is kept has every member of its own set: a
// member that a new SDK brings must be here.
func (m member) whole(t *testing.T, name string) {
	t.Helper()
	typ := reflect.TypeOf(m.value)
	if m.refused != "" || typ.Kind() != reflect.Pointer || typ.Elem().Kind() != reflect.Struct {
		return
	}
	for _, path := range leaves(typ.Elem(), "") {
		if _, set := at(reflect.ValueOf(m.value), path); !set {
			t.Errorf("nobody says what becomes of %s.%s", name, path)
		}
	}
}

// outcome checks what became of a member that a request had.
func (m member) outcome(t *testing.T, name string, got *types.FunctionConfiguration, err error) {
	t.Helper()
	if m.refused != "" {
		refused(t, err, "InvalidParameterValueException", 400, m.refused)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	want := m.want
	if want == nil {
		want = m.value
	}
	if kept := reflect.ValueOf(got).Elem().FieldByName(name).Interface(); text(t, kept) != text(t, want) {
		t.Errorf("%s is %s, given %s", name, text(t, kept), text(t, want))
	}
}

func TestEveryMemberOfCreateFunctionIsKeptOrRefused(t *testing.T) {
	t.Parallel()
	known, all := configurationMembers(), sources(t)
	for _, name := range members(lambda.CreateFunctionInput{}) {
		m, ok := known[name]
		if !ok {
			t.Errorf("nobody says what becomes of %s", name)
		}
		if m.value == nil {
			says(t, all, m.test, name)
			continue
		}
		m.whole(t, name)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, in := newSystem(t, nil).withProvider().withLayer(), functionInput(t, "g")
			reflect.ValueOf(in).Elem().FieldByName(name).Set(reflect.ValueOf(m.value))
			_, err := s.CreateFunction(t.Context(), in)
			var got types.FunctionConfiguration
			if err == nil {
				got = *must[*lambda.GetFunctionOutput](t)(s.GetFunction(t.Context(), &lambda.GetFunctionInput{FunctionName: in.FunctionName})).Configuration
			}
			m.outcome(t, name, &got, err)
		})
	}
}

func TestEveryMemberOfUpdateFunctionConfigurationIsKeptOrRefused(t *testing.T) {
	t.Parallel()
	known := configurationMembers()
	for _, name := range members(lambda.UpdateFunctionConfigurationInput{}) {
		m, ok := known[name]
		if !ok {
			t.Errorf("nobody says what becomes of %s", name)
		}
		if m.value == nil || name == "FunctionName" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, in := newSystem(t, nil).withFunction().withLayer(), &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("f")}
			reflect.ValueOf(in).Elem().FieldByName(name).Set(reflect.ValueOf(m.value))
			_, err := s.UpdateFunctionConfiguration(t.Context(), in)
			var got types.FunctionConfiguration
			if err == nil {
				got = *must[*lambda.GetFunctionOutput](t)(s.GetFunction(t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String("f")})).Configuration
			}
			m.outcome(t, name, &got, err)
		})
	}
}

func TestEveryMemberOfCodeIsKeptOrRefused(t *testing.T) {
	t.Parallel()
	all := sources(t)
	tests := map[string]string{
		"ZipFile": "TestAFunctionIsDescribedAsItWasMade", "ImageUri": "TestAFunctionIsMadeOfAnImage",
		"S3Bucket": "TestCodeComesFromABucket", "S3Key": "TestCodeComesFromABucket", "S3ObjectVersion": "TestTheVersionOfAnObjectIsAskedFor",
		"S3ObjectStorageMode": "", "SourceKMSKeyArn": "",
		// of UpdateFunctionCode
		"FunctionName": "TestPublishingWhatChangedMakesNumbers", "Architectures": "TestCodeMayBringAnArchitecture",
		"DryRun": "TestNothingOfADryRunIsKept", "Publish": "TestPublishingWhatChangedMakesNumbers",
		"PublishTo": "TestCodeIsPublishedToLatestPublished", "RevisionId": "TestARevisionThatIsNotTheLatestIsRefused",
	}
	for _, name := range append(members(types.FunctionCode{}), members(lambda.UpdateFunctionCodeInput{})...) {
		test, ok := tests[name]
		if !ok {
			t.Errorf("nobody says what becomes of %s", name)
		}
		if test != "" { // else it is refused, below
			says(t, all, test, name)
		}
	}
	s, key := newSystem(t, nil).withFunction(), aws.String("arn:aws:kms:us-east-1:123456789012:key/k")
	in := functionInput(t, "g")
	in.Code.S3ObjectStorageMode = types.S3ObjectStorageModeReference
	const reference = "S3ObjectStorageMode REFERENCE is not available in this service. Use COPY."
	_, err := s.CreateFunction(t.Context(), in)
	refused(t, err, "InvalidParameterValueException", 400, reference)
	_, err = s.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{
		FunctionName: aws.String("f"), ZipFile: zipOf(t, "x"), S3ObjectStorageMode: types.S3ObjectStorageModeReference,
	})
	refused(t, err, "InvalidParameterValueException", 400, reference)
	in.Code.S3ObjectStorageMode, in.Code.SourceKMSKeyArn = types.S3ObjectStorageModeCopy, key
	_, err = s.CreateFunction(t.Context(), in)
	refused(t, err, "InvalidParameterValueException", 400, "SourceKMSKeyArn is not supported for functions configured with capacity provider")
	_, err = s.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: zipOf(t, "x"), SourceKMSKeyArn: key})
	refused(t, err, "InvalidParameterValueException", 400, "SourceKMSKeyArn is not available in this service.")
}

// versioned is buckets with one archive, which remember what was asked for.
type versioned struct {
	archive []byte
	asked   []controlplane.Object
}

func (b *versioned) Read(_ context.Context, o controlplane.Object, _ int64) ([]byte, error) {
	b.asked = append(b.asked, o)
	return b.archive, nil
}

func TestTheVersionOfAnObjectIsAskedFor(t *testing.T) {
	t.Parallel()
	objects := &versioned{archive: zipOf(t, "one")}
	s := newSystem(t, func(c *lambdaapi.Config) { c.Buckets = objects }).withProvider()
	in := functionInput(t, "f")
	in.Code = &types.FunctionCode{S3Bucket: aws.String("code"), S3Key: aws.String("k"), S3ObjectVersion: aws.String("v1")}
	must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(t.Context(), in))
	must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{
		FunctionName: aws.String("f"), S3Bucket: aws.String("code"), S3Key: aws.String("k"), S3ObjectVersion: aws.String("v2"),
	}))
	same(t, "objects read", []controlplane.Object{{Bucket: "code", Key: "k", Version: "v1"}, {Bucket: "code", Key: "k", Version: "v2"}}, objects.asked)
}

func TestAFunctionIsPublishedAsItIsMade(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, withDefaultProvider).withProvider(), t.Context()
	numbered, latest, demand := functionInput(t, "a"), functionInput(t, "b"), onDemandInput(t, "c")
	numbered.Publish, demand.Publish = true, true
	latest.PublishTo = types.FunctionVersionLatestPublishedLatestPublished
	for _, c := range []struct {
		in   *lambda.CreateFunctionInput
		want string
	}{{numbered, "1"}, {latest, "$LATEST.PUBLISHED"}, {demand, "1"}} {
		out := must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, c.in))
		if *out.Version != c.want || out.State != types.StatePending {
			t.Errorf("made %s %s, want %s Pending", *out.Version, out.State, c.want)
		}
		got := must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: c.in.FunctionName, Qualifier: out.Version})).Configuration
		if *got.FunctionArn != functionBase+*c.in.FunctionName+":"+c.want || *got.CodeSha256 != *digest(c.in.Code.ZipFile) {
			t.Errorf("kept %s with code %s", *got.FunctionArn, *got.CodeSha256)
		}
	}
	refusing := onDemandInput(t, "d")
	refusing.PublishTo = types.FunctionVersionLatestPublishedLatestPublished
	refused(t, second(s.CreateFunction(ctx, refusing)), "AccessDeniedException", 403,
		"The function provided by the arn does not contain a capacity provider configuration")
}

func TestCodeIsPublishedToLatestPublished(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	out := must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{
		FunctionName: aws.String("f"), ZipFile: zipOf(t, "two"), PublishTo: "LATEST_PUBLISHED",
	}))
	if *out.Version != "$LATEST.PUBLISHED" || out.State != "Pending" {
		t.Errorf("published %s, %s", *out.Version, out.State)
	}
}

func TestCodeMayBringAnArchitecture(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	for _, dry := range []bool{true, false} {
		_, err := s.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{
			FunctionName: aws.String("f"), ZipFile: zipOf(t, "two"), Architectures: []types.Architecture{"arm64"}, DryRun: dry,
		})
		refused(t, err, "InvalidParameterValueException", 400, "The architecture of the function, arm64, is not that of its capacity provider, x86_64.")
	}
	out := must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(t.Context(), &lambda.UpdateFunctionCodeInput{
		FunctionName: aws.String("f"), ZipFile: zipOf(t, "two"), Architectures: []types.Architecture{"x86_64"},
	}))
	if fmt.Sprint(out.Architectures) != "[x86_64]" {
		t.Errorf("architectures %v", out.Architectures)
	}
}

func TestARevisionThatIsNotTheLatestIsRefused(t *testing.T) {
	t.Parallel()
	s, ctx, f, other := newSystem(t, nil).withFunction(), t.Context(), aws.String("f"), aws.String("other")
	const stale = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
	for _, err := range []error{
		second(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(t, "x"), RevisionId: other})),
		second(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(t, "x"), RevisionId: other, DryRun: true})),
		second(s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: f, RevisionId: other})),
		second(s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f, RevisionId: other})),
	} {
		refused(t, err, "PreconditionFailedException", 412, stale)
	}
	revision := func() *string {
		t.Helper()
		return must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f})).Configuration.RevisionId
	}
	first := revision()
	code := must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(t, "x"), RevisionId: first}))
	config := must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(ctx,
		&lambda.UpdateFunctionConfigurationInput{FunctionName: f, Description: aws.String("d"), RevisionId: code.RevisionId}))
	if *first == *code.RevisionId || *code.RevisionId == *config.RevisionId || *config.RevisionId != *revision() {
		t.Errorf("revisions %s, %s, %s, then %s", *first, *code.RevisionId, *config.RevisionId, *revision())
	}
	must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f, RevisionId: config.RevisionId}))
}
