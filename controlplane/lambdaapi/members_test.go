package lambdaapi_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
)

// written says what becomes of the members of a request that changes something.
type written struct {
	// inputs set members that are kept; each goes to a new system.
	inputs []any
	// read returns what was kept: every member set above must be in it, under its
	// name and as it was given.
	read func(*testing.T, *system) []any
	// tests names, for each other member, the test that says what it does.
	tests map[string]string
	// refused are members that are refused whatever they say.
	refused map[string]member
}

// providerWrites are the changes of capacity providers.
func providerWrites() map[string]written {
	const updated = "TestAProviderIsUpdatedBeyondAWS"
	read := func(t *testing.T, s *system) []any {
		t.Helper()
		p := must[*lambda.GetCapacityProviderOutput](t)(s.GetCapacityProvider(t.Context(), &lambda.GetCapacityProviderInput{CapacityProviderName: aws.String("other")})).CapacityProvider
		return []any{p, must[*lambda.ListTagsOutput](t)(s.ListTags(t.Context(), &lambda.ListTagsInput{Resource: p.CapacityProviderArn}))}
	}
	manual := &types.CapacityProviderScalingConfig{MaxVCpuCount: aws.Int32(64), ScalingMode: "Manual", ScalingPolicies: policies(30.5)}
	explicit := &types.PropagateTags{Mode: "Explicit", ExplicitTags: map[string]string{"k": "v"}}
	logging := &types.CapacityProviderTelemetryConfig{
		LoggingConfig: &types.CapacityProviderLoggingConfig{SystemLogLevel: "DEBUG", LogGroup: aws.String("group")},
	}
	full := providerInput("other")
	full.VpcConfig.SecurityGroupIds, full.Tags = []string{"sg-1"}, map[string]string{"a": "b"}
	full.InstanceRequirements = &types.InstanceRequirements{Architectures: []types.Architecture{"arm64"}, AllowedInstanceTypes: []string{"m7g.large"}}
	full.KmsKeyArn = aws.String("arn:aws:kms:us-east-1:123456789012:key/k")
	full.CapacityProviderScalingConfig, full.PropagateTags, full.TelemetryConfig = manual, explicit, logging
	excluding := providerInput("other")
	excluding.InstanceRequirements = &types.InstanceRequirements{ExcludedInstanceTypes: []string{"c7i.large"}}
	return map[string]written{
		"CreateCapacityProvider": {
			inputs: []any{full, excluding}, read: read,
			tests: map[string]string{"CapacityProviderName": "TestAProviderIsDescribedAsItWasMade"},
		},
		"UpdateCapacityProvider": {
			inputs: []any{&lambda.UpdateCapacityProviderInput{
				CapacityProviderName: aws.String("other"), CapacityProviderScalingConfig: manual, PropagateTags: explicit, TelemetryConfig: logging,
			}},
			read: read, tests: map[string]string{"CapacityProviderName": updated},
		},
		"DeleteCapacityProvider": {tests: map[string]string{"CapacityProviderName": "TestAProviderIsDescribedAsItWasMade"}},
	}
}

// functionWrites are the changes of functions, their versions and aliases.
func functionWrites() map[string]written {
	const deleting, stale = "TestChangesAreRefusedAsAWSDoes", "TestARevisionThatIsNotTheLatestIsRefused"
	f, name := aws.String("f"), aws.String("a")
	alias := func(t *testing.T, s *system) []any {
		t.Helper()
		return []any{must[*lambda.GetAliasOutput](t)(s.GetAlias(t.Context(), &lambda.GetAliasInput{FunctionName: f, Name: name}))}
	}
	return map[string]written{
		"PublishVersion": {
			inputs: []any{&lambda.PublishVersionInput{FunctionName: f, Description: aws.String("text")}},
			read: func(t *testing.T, s *system) []any {
				t.Helper()
				return []any{must[*lambda.GetFunctionOutput](t)(s.GetFunction(t.Context(), &lambda.GetFunctionInput{FunctionName: f, Qualifier: aws.String("3")}))}
			},
			tests: map[string]string{"CodeSha256": deleting, "PublishTo": deleting, "RevisionId": stale},
		},
		"CreateAlias": {
			inputs: []any{&lambda.CreateAliasInput{
				FunctionName: f, Name: name, FunctionVersion: aws.String("2"), Description: aws.String("text"), RoutingConfig: weights("1", 0.25),
			}},
			read: alias, tests: map[string]string{"FunctionName": "TestWhatTerraformDoesWithAnAliasWorks"},
		},
		"UpdateAlias": {
			inputs: []any{&lambda.UpdateAliasInput{
				FunctionName: f, Name: name, FunctionVersion: aws.String("2"), Description: aws.String("text"), RoutingConfig: weights("1", 0.25),
			}},
			read: alias, tests: map[string]string{"FunctionName": "TestWhatTerraformDoesWithAnAliasWorks", "RevisionId": "TestAnAliasIsMadeMovedAndDeleted"},
		},
		"DeleteAlias":    {tests: map[string]string{"FunctionName": "TestWhatTerraformDoesWithAnAliasWorks", "Name": "TestWhatTerraformDoesWithAnAliasWorks"}},
		"DeleteFunction": {tests: map[string]string{"FunctionName": "TestADeletedFunctionGoesThroughDeleting", "Qualifier": "TestSettingsGoWithWhatTheyAreFor"}},
		"TagResource": {
			inputs: []any{&lambda.TagResourceInput{Resource: aws.String(functionBase + "f"), Tags: map[string]string{"a": "b"}}},
			read: func(t *testing.T, s *system) []any {
				t.Helper()
				return []any{must[*lambda.ListTagsOutput](t)(s.ListTags(t.Context(), &lambda.ListTagsInput{Resource: aws.String(functionBase + "f")}))}
			},
			tests: map[string]string{"Resource": "TestTagsAreAddedReplacedAndRemoved"},
		},
		"UntagResource": {tests: map[string]string{"Resource": "TestTagsAreAddedReplacedAndRemoved", "TagKeys": "TestTagsAreAddedReplacedAndRemoved"}},
		"PutFunctionScalingConfig": {
			inputs: []any{&lambda.PutFunctionScalingConfigInput{FunctionName: f, Qualifier: aws.String("1"), FunctionScalingConfig: &types.FunctionScalingConfig{
				MinExecutionEnvironments: aws.Int32(2), MaxExecutionEnvironments: aws.Int32(5),
			}}},
			read: func(t *testing.T, s *system) []any {
				t.Helper()
				return []any{must[*lambda.GetFunctionScalingConfigOutput](t)(s.GetFunctionScalingConfig(t.Context(), &lambda.GetFunctionScalingConfigInput{FunctionName: f, Qualifier: aws.String("1")}))}
			},
			tests: map[string]string{"FunctionName": "TestScalingConfigsMoveTheState", "Qualifier": "TestScalingConfigsMoveTheState"},
		},
		"PutFunctionConcurrency": {
			inputs: []any{&lambda.PutFunctionConcurrencyInput{FunctionName: f, ReservedConcurrentExecutions: aws.Int32(7)}},
			read: func(t *testing.T, s *system) []any {
				t.Helper()
				return []any{must[*lambda.GetFunctionConcurrencyOutput](t)(s.GetFunctionConcurrency(t.Context(), &lambda.GetFunctionConcurrencyInput{FunctionName: f}))}
			},
			tests: map[string]string{"FunctionName": "TestReservedConcurrencyIsKept"},
		},
		"DeleteFunctionConcurrency": {tests: map[string]string{"FunctionName": "TestReservedConcurrencyIsKept"}},
	}
}

// settingWrites are the changes of what is stored only.
func settingWrites() map[string]written {
	const iam, kept = "TestStatementsAreWrittenAsIAMDoes", "TestEventInvokeConfigsAreKept"
	f, age, retries := aws.String("f"), aws.Int32(77), aws.Int32(1)
	destinations := &types.DestinationConfig{
		OnSuccess: &types.OnSuccess{Destination: aws.String("arn:aws:sqs:us-east-1:123456789012:q")},
		OnFailure: &types.OnFailure{Destination: aws.String("arn:aws:sns:us-east-1:123456789012:t")},
	}
	eventInvoke := func(t *testing.T, s *system) []any {
		t.Helper()
		return []any{must[*lambda.GetFunctionEventInvokeConfigOutput](t)(s.GetFunctionEventInvokeConfig(t.Context(), &lambda.GetFunctionEventInvokeConfigInput{FunctionName: f}))}
	}
	return map[string]written{
		"AddPermission": {tests: map[string]string{
			"Action": iam, "Principal": iam, "EventSourceToken": iam, "FunctionUrlAuthType": iam, "InvokedViaFunctionUrl": iam, "PrincipalOrgID": iam,
			"Qualifier": iam, "SourceAccount": iam, "SourceArn": iam, "StatementId": iam, "FunctionName": iam, "RevisionId": "TestAPolicyGrowsAndShrinks",
		}},
		"RemovePermission": {tests: map[string]string{
			"FunctionName": "terraformPermits", "StatementId": "terraformPermits", "Qualifier": "terraformPermits", "RevisionId": "TestAPolicyGrowsAndShrinks",
		}},
		"PutFunctionEventInvokeConfig": {
			inputs: []any{&lambda.PutFunctionEventInvokeConfigInput{FunctionName: f, MaximumEventAgeInSeconds: age, MaximumRetryAttempts: retries, DestinationConfig: destinations}},
			read:   eventInvoke, tests: map[string]string{"FunctionName": kept, "Qualifier": kept},
		},
		"UpdateFunctionEventInvokeConfig": {
			inputs: []any{&lambda.UpdateFunctionEventInvokeConfigInput{FunctionName: f, MaximumEventAgeInSeconds: age, MaximumRetryAttempts: retries, DestinationConfig: destinations}},
			read:   eventInvoke, tests: map[string]string{"FunctionName": kept, "Qualifier": kept},
		},
		"DeleteFunctionEventInvokeConfig": {tests: map[string]string{"FunctionName": kept, "Qualifier": kept}},
		"PutFunctionRecursionConfig": {
			inputs: []any{&lambda.PutFunctionRecursionConfigInput{FunctionName: f, RecursiveLoop: "Allow"}},
			read: func(t *testing.T, s *system) []any {
				t.Helper()
				return []any{must[*lambda.GetFunctionRecursionConfigOutput](t)(s.GetFunctionRecursionConfig(t.Context(), &lambda.GetFunctionRecursionConfigInput{FunctionName: f}))}
			},
			tests: map[string]string{"FunctionName": "TestRecursionConfigIsKept"},
		},
		"PutRuntimeManagementConfig": {
			inputs: []any{&lambda.PutRuntimeManagementConfigInput{
				FunctionName: f, UpdateRuntimeOn: "Manual", RuntimeVersionArn: aws.String("arn:aws:lambda:us-east-1::runtime:0123456789abcdef"),
			}},
			read: func(t *testing.T, s *system) []any {
				t.Helper()
				return []any{must[*lambda.GetRuntimeManagementConfigOutput](t)(s.GetRuntimeManagementConfig(t.Context(), &lambda.GetRuntimeManagementConfigInput{FunctionName: f}))}
			},
			tests: map[string]string{"FunctionName": "TestRuntimeManagementIsKept", "Qualifier": "TestRuntimeManagementIsKept"},
		},
		"Invoke": {
			tests: map[string]string{
				"FunctionName": "TestAnInvokeSurvivesTheSDK", "Qualifier": "TestAnInvokeSurvivesTheSDK", "Payload": "TestAnInvokeSurvivesTheSDK",
				"ClientContext": "TestAnInvokeSurvivesTheSDK", "InvocationType": "TestInvokesAreRefusedAsAWSDoes", "LogType": "TestWhatSAMRemoteInvokeDoesIsAnswered",
			},
			inputs: []any{&lambda.InvokeInput{FunctionName: f, Qualifier: aws.String("1")}},
			refused: map[string]member{
				"DurableExecutionName": {value: aws.String("d"), refused: "Durable executions are not available in this service."},
				"TenantId":             {value: aws.String("t"), refused: "The invoked function is not enabled with tenancy configuration."},
			},
		},
		"InvokeWithResponseStream": {
			tests: map[string]string{
				"FunctionName": "TestAStreamedInvokeSurvivesTheSDK", "Qualifier": "TestAStreamedInvokeSurvivesTheSDK", "Payload": "TestAStreamedInvokeSurvivesTheSDK",
				"ClientContext": "TestAStreamedInvokeSurvivesTheSDK", "InvocationType": "TestAStreamedInvokeIsRefusedBeforeItBegins", "LogType": "TestWhatSAMRemoteInvokeDoesIsAnswered",
			},
			inputs: []any{&lambda.InvokeWithResponseStreamInput{FunctionName: f, Qualifier: aws.String("1")}},
			refused: map[string]member{
				"TenantId": {value: aws.String("t"), refused: "The invoked function is not enabled with tenancy configuration."},
			},
		},
	}
}

// layerWrites are the changes of layers.
func layerWrites() map[string]written {
	const policy, life, deleting = "TestALayerPolicyGrowsAndShrinks", "TestLayersArePublishedListedAndDeleted", "TestADeletedLayerStaysWithThoseThatUseIt"
	name := aws.String("new")
	return map[string]written{
		"PublishLayerVersion": {
			inputs: []any{&lambda.PublishLayerVersionInput{
				LayerName: name, Content: &types.LayerVersionContentInput{S3Bucket: aws.String("code"), S3Key: aws.String("layer.zip")},
				Description: aws.String("text"), LicenseInfo: aws.String("MIT"), CompatibleRuntimes: []types.Runtime{"java21", "provided.al2023"},
				CompatibleArchitectures: []types.Architecture{"arm64"},
			}},
			read: func(t *testing.T, s *system) []any {
				t.Helper()
				return []any{must[*lambda.GetLayerVersionOutput](t)(s.GetLayerVersion(t.Context(), &lambda.GetLayerVersionInput{LayerName: name, VersionNumber: aws.Int64(1)}))}
			},
			tests: map[string]string{
				"LayerName": life, "Content.ZipFile": life, "Content.S3Bucket": "TestALayerComesFromABucket", "Content.S3Key": "TestALayerComesFromABucket",
				"Content.S3ObjectVersion": "TestALayerComesFromABucket", "Content.S3ObjectStorageMode": "TestLayersAreRefusedAsAWSDoes",
			},
		},
		"DeleteLayerVersion": {tests: map[string]string{"LayerName": deleting, "VersionNumber": deleting}},
		"AddLayerVersionPermission": {tests: map[string]string{
			"LayerName": policy, "VersionNumber": policy, "StatementId": policy, "Action": policy, "Principal": policy, "OrganizationId": policy, "RevisionId": policy,
		}},
		"RemoveLayerVersionPermission": {tests: map[string]string{"LayerName": policy, "VersionNumber": policy, "StatementId": policy, "RevisionId": policy}},
	}
}

// writes are all operations that change something, but those of whose members
// fields_test.go says what becomes.
func writes() map[string]written {
	all := providerWrites()
	for _, some := range []map[string]written{functionWrites(), settingWrites(), layerWrites()} {
		maps.Copy(all, some)
	}
	return all
}

// filled is a system with everything that requests of writes name.
func filled(t *testing.T, operation string) *system {
	t.Helper()
	s, ctx, f := newSystem(t, nil).withVersions(2), t.Context(), aws.String("f")
	s.progress()
	switch operation {
	case "PublishLayerVersion":
		s.object("layer.zip", zipOf(t, "layer"))
	case "UpdateCapacityProvider":
		must[*lambda.CreateCapacityProviderOutput](t)(s.CreateCapacityProvider(ctx, providerInput("other")))
	case "UpdateAlias":
		must[*lambda.CreateAliasOutput](t)(s.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: f, Name: aws.String("a"), FunctionVersion: aws.String("1")}))
	case "UpdateFunctionEventInvokeConfig":
		must[*lambda.PutFunctionEventInvokeConfigOutput](t)(s.PutFunctionEventInvokeConfig(ctx, &lambda.PutFunctionEventInvokeConfigInput{FunctionName: f, MaximumRetryAttempts: aws.Int32(2)}))
	case "PublishVersion":
		must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(t, "new")}))
	}
	return s
}

// call sends a request of any operation.
func (s *system) call(operation string, in any) error {
	s.t.Helper()
	results := reflect.ValueOf(s.Client).MethodByName(operation).Call([]reflect.Value{reflect.ValueOf(s.t.Context()), reflect.ValueOf(in)})
	err, _ := reflect.TypeAssert[error](results[1])
	return err
}

// leaves are the paths of the members of a request, down to those that are no
// structures.
func leaves(typ reflect.Type, path string) (paths []string) {
	for f := range typ.Fields() {
		if !f.IsExported() {
			continue
		}
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			paths = append(paths, leaves(inner, path+f.Name+".")...)
			continue
		}
		paths = append(paths, path+f.Name)
	}
	return paths
}

// at is the member at a path; false if it is not set.
func at(v reflect.Value, path string) (reflect.Value, bool) {
	for name := range strings.SplitSeq(path, ".") {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return v, false
			}
			v = v.Elem()
		}
		v = v.FieldByName(name)
	}
	return v, !v.IsZero()
}

// has reports whether a member of that name and value is anywhere in v.
func has(t *testing.T, v reflect.Value, name, want string) bool {
	t.Helper()
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return false
	}
	for f, value := range v.Fields() {
		if f.IsExported() && (f.Name == name && text(t, value.Interface()) == want || has(t, value, name, want)) {
			return true
		}
	}
	return false
}

// sources are the functions of the tests here, by name.
func sources(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, content, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				out[f.Name.Name] = string(content[set.Position(f.Pos()).Offset:set.Position(f.End()).Offset])
			}
		}
	}
	return out
}

// says checks that a test is there and at least mentions a member.
func says(t *testing.T, all map[string]string, test, path string) {
	t.Helper()
	name := path[strings.LastIndex(path, ".")+1:]
	if !regexp.MustCompile(`\b` + name + `\b`).MatchString(all[test]) {
		t.Errorf("%s is said to be tested by %s, which does not mention it", path, test)
	}
}

// TestEveryMemberOfEveryChangeIsKeptOrRefused goes by the SDK's types: a member
// that a new SDK brings must be in a table here.
func TestEveryMemberOfEveryChangeIsKeptOrRefused(t *testing.T) {
	t.Parallel()
	all, known := sources(t), writes()
	elsewhere := []string{"CreateFunction", "UpdateFunctionConfiguration", "UpdateFunctionCode"} // fields_test.go
	for _, op := range lambdaapi.Operations() {
		if op.Method == "GET" || op.State != lambdaapi.Works && op.State != lambdaapi.StoredOnly || slices.Contains(elsewhere, op.Name) {
			continue
		}
		w, ok := known[op.Name]
		if !ok {
			t.Errorf("nobody says what becomes of the members of %s", op.Name)
			continue
		}
		t.Run(op.Name, func(t *testing.T) {
			t.Parallel()
			w.check(t, op.Name, all)
		})
	}
}

func (w *written) check(t *testing.T, operation string, all map[string]string) {
	t.Helper()
	method := reflect.ValueOf(&lambda.Client{}).MethodByName(operation)
	paths := leaves(method.Type().In(1).Elem(), "")
	said := map[string]bool{}
	for path, test := range w.tests {
		says(t, all, test, path)
		said[path] = true
	}
	if w.read != nil {
		for _, in := range w.inputs {
			for _, path := range w.kept(t, operation, in, paths) {
				said[path] = true
			}
		}
	}
	for path, m := range w.refused {
		in := reflect.New(method.Type().In(1).Elem())
		in.Elem().Set(reflect.ValueOf(w.inputs[0]).Elem())
		in.Elem().FieldByName(path).Set(reflect.ValueOf(m.value))
		refused(t, filled(t, operation).call(operation, in.Interface()), "InvalidParameterValueException", 400, m.refused)
		said[path] = true
	}
	for _, path := range paths {
		if !said[path] {
			t.Errorf("nobody says what becomes of %s", path)
		}
	}
}

// kept sends a request and looks for each of its members in what was kept. It
// returns those that were set.
func (w *written) kept(t *testing.T, operation string, in any, paths []string) (set []string) {
	t.Helper()
	s := filled(t, operation)
	if err := s.call(operation, in); err != nil {
		t.Fatal(err)
	}
	s.progress()
	got := w.read(t, s)
	for _, path := range paths {
		value, ok := at(reflect.ValueOf(in), path)
		if _, elsewhere := w.tests[path]; !ok || elsewhere {
			continue
		}
		name, want := path[strings.LastIndex(path, ".")+1:], text(t, value.Interface())
		if !slices.ContainsFunc(got, func(v any) bool { return has(t, reflect.ValueOf(v), name, want) }) {
			t.Errorf("%s was given as %s, and what is kept is %s", path, want, text(t, got))
		}
		set = append(set, path)
	}
	return set
}
