package lambdaapi_test

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

func TestReservedConcurrencyIsKept(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	ctx, f := t.Context(), aws.String("f")
	get := func() (*int32, *types.Concurrency) {
		got := must[*lambda.GetFunctionConcurrencyOutput](t)(s.GetFunctionConcurrency(ctx, &lambda.GetFunctionConcurrencyInput{FunctionName: f}))
		return got.ReservedConcurrentExecutions, must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f})).Concurrency
	}
	if reserved, described := get(); reserved != nil || described != nil {
		t.Errorf("a new function has %v and %v", reserved, described)
	}
	for _, n := range []int32{0, 5000} {
		put := must[*lambda.PutFunctionConcurrencyOutput](t)(s.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{
			FunctionName: f, ReservedConcurrentExecutions: &n,
		}))
		reserved, described := get()
		if *put.ReservedConcurrentExecutions != n || *reserved != n || *described.ReservedConcurrentExecutions != n {
			t.Errorf("reserved %d, answered %d, got %d and %+v", n, *put.ReservedConcurrentExecutions, *reserved, described)
		}
	}
	for range 2 {
		must[*lambda.DeleteFunctionConcurrencyOutput](t)(s.DeleteFunctionConcurrency(ctx, &lambda.DeleteFunctionConcurrencyInput{FunctionName: f}))
	}
	if reserved, described := get(); reserved != nil || described != nil {
		t.Errorf("kept %v and %v", reserved, described)
	}
}

func TestReservedConcurrencyIsRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(t.Context(), functionInput(t, "g")))
	must[*lambda.PutFunctionConcurrencyOutput](t)(s.PutFunctionConcurrency(t.Context(), &lambda.PutFunctionConcurrencyInput{
		FunctionName: aws.String("g"), ReservedConcurrentExecutions: aws.Int32(1000),
	}))
	const whole = "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. " +
		"Please specify either a function name or an unqualified function ARN."
	const most = math.MaxInt32 - 1000 - 100
	for name, c := range map[string]struct {
		function      string
		reserved      int32
		code, message string
		status        int
	}{
		"a function that is not there": {"h", 1, missing, "Function not found: " + functionBase + "h:$LATEST", 404},
		"a version":                    {functionBase + "f:1", 1, invalidValue, whole, 400},
		"less than none":               {"f", -1, validation, valid("reservedConcurrentExecutions", "'-1'", "Member must have value greater than or equal to 0"), 400},
		"more than there is": {
			"f", most + 1, invalidValue, "Specified ReservedConcurrentExecutions for function decreases account's " +
				"UnreservedConcurrentExecution below its minimum value of [100].", 400,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.PutFunctionConcurrency(t.Context(), &lambda.PutFunctionConcurrencyInput{
				FunctionName: &c.function, ReservedConcurrentExecutions: &c.reserved,
			})
			refused(t, err, c.code, c.status, c.message)
		})
	}
	for range 2 { // what the function has reserved itself does not count
		must[*lambda.PutFunctionConcurrencyOutput](t)(s.PutFunctionConcurrency(t.Context(), &lambda.PutFunctionConcurrencyInput{
			FunctionName: aws.String("f"), ReservedConcurrentExecutions: aws.Int32(most),
		}))
	}
	got := must[*lambda.GetAccountSettingsOutput](t)(s.GetAccountSettings(t.Context(), &lambda.GetAccountSettingsInput{}))
	if left := *got.AccountLimit.UnreservedConcurrentExecutions; left != 100 {
		t.Errorf("%d are left unreserved", left)
	}
}

func TestAccountSettingsCountWhatIsThere(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	get := func() *lambda.GetAccountSettingsOutput {
		return must[*lambda.GetAccountSettingsOutput](t)(s.GetAccountSettings(t.Context(), &lambda.GetAccountSettingsInput{}))
	}
	empty := get()
	if empty.AccountUsage.FunctionCount != 0 || empty.AccountUsage.TotalCodeSize != 0 ||
		*empty.AccountLimit.UnreservedConcurrentExecutions != empty.AccountLimit.ConcurrentExecutions {
		t.Errorf("nothing there is %+v of %+v", empty.AccountUsage, empty.AccountLimit)
	}
	if l := empty.AccountLimit; l.CodeSizeZipped != 52428800 || l.CodeSizeUnzipped != 262144000 || l.ConcurrentExecutions < 1000 || l.TotalCodeSize < 80530636800 {
		t.Errorf("limits %+v", l)
	}
	s.withVersions(2)
	var size int64
	versions := must[*lambda.ListVersionsByFunctionOutput](t)(s.ListVersionsByFunction(t.Context(), &lambda.ListVersionsByFunctionInput{FunctionName: aws.String("f")}))
	for _, v := range versions.Versions {
		size += v.CodeSize
	}
	if got := get().AccountUsage; got.FunctionCount != 1 || got.TotalCodeSize != size || size == 0 {
		t.Errorf("usage %+v, want 1 function and %d bytes", got, size)
	}
}

func TestRecursionConfigIsKept(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	ctx, f := t.Context(), aws.String("f")
	for _, want := range []types.RecursiveLoop{"Terminate", "Allow", "Terminate"} {
		got := must[*lambda.GetFunctionRecursionConfigOutput](t)(s.GetFunctionRecursionConfig(ctx, &lambda.GetFunctionRecursionConfigInput{FunctionName: f}))
		if got.RecursiveLoop != want {
			t.Errorf("got %s, want %s", got.RecursiveLoop, want)
		}
		next := types.RecursiveLoopAllow
		if want == next {
			next = types.RecursiveLoopTerminate
		}
		put := must[*lambda.PutFunctionRecursionConfigOutput](t)(s.PutFunctionRecursionConfig(ctx, &lambda.PutFunctionRecursionConfigInput{FunctionName: f, RecursiveLoop: next}))
		if put.RecursiveLoop != next {
			t.Errorf("put %s, answered %s", next, put.RecursiveLoop)
		}
	}
	_, err := s.PutFunctionRecursionConfig(ctx, &lambda.PutFunctionRecursionConfigInput{FunctionName: f, RecursiveLoop: "InvalidValue"})
	refused(t, err, validation, 400, valid("recursiveLoop", "'InvalidValue'", "Member must satisfy enum value set: [Terminate, Allow]"))
	_, err = s.GetFunctionRecursionConfig(ctx, &lambda.GetFunctionRecursionConfigInput{FunctionName: aws.String("g")})
	refused(t, err, missing, 404, "Function not found: "+functionBase+"g")
	_, err = s.GetFunctionRecursionConfig(ctx, &lambda.GetFunctionRecursionConfigInput{FunctionName: aws.String("f:1")})
	refused(t, err, validation, 400, valid("functionName", "'f:1'", "Member must satisfy regular expression pattern: "+
		`(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)`))
}

func TestRuntimeManagementIsKept(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(1)
	ctx, f := t.Context(), aws.String("f")
	get := func(q *string) *lambda.GetRuntimeManagementConfigOutput {
		return must[*lambda.GetRuntimeManagementConfigOutput](t)(s.GetRuntimeManagementConfig(ctx, &lambda.GetRuntimeManagementConfigInput{FunctionName: f, Qualifier: q}))
	}
	if got := get(nil); got.UpdateRuntimeOn != "Auto" || *got.FunctionArn != functionBase+"f:$LATEST" || got.RuntimeVersionArn != nil {
		t.Errorf("a new function has %+v", got)
	}
	runtime := aws.String("arn:aws:lambda:us-east-1::runtime:0123456789abcdef")
	put := must[*lambda.PutRuntimeManagementConfigOutput](t)(s.PutRuntimeManagementConfig(ctx, &lambda.PutRuntimeManagementConfigInput{
		FunctionName: f, Qualifier: aws.String("1"), UpdateRuntimeOn: "Manual", RuntimeVersionArn: runtime,
	}))
	got := get(aws.String("1"))
	if put.UpdateRuntimeOn != "Manual" || *put.FunctionArn != functionBase+"f:1" || *got.RuntimeVersionArn != *runtime || got.UpdateRuntimeOn != "Manual" {
		t.Errorf("put %+v, got %+v", put, got)
	}
	if got := get(nil); got.UpdateRuntimeOn != "Auto" {
		t.Errorf("$LATEST has the version's %s", got.UpdateRuntimeOn)
	}
	_, err := s.PutRuntimeManagementConfig(ctx, &lambda.PutRuntimeManagementConfigInput{FunctionName: f, UpdateRuntimeOn: "Manual"})
	refused(t, err, invalidValue, 400, "RuntimeVersionArn must be specified when UpdateRuntimeOn is Manual.")
	_, err = s.PutRuntimeManagementConfig(ctx, &lambda.PutRuntimeManagementConfigInput{FunctionName: f, UpdateRuntimeOn: "Auto", RuntimeVersionArn: runtime})
	refused(t, err, invalidValue, 400, "RuntimeVersionArn can only be specified when UpdateRuntimeOn is Manual.")
	_, err = s.PutRuntimeManagementConfig(ctx, &lambda.PutRuntimeManagementConfigInput{FunctionName: f, UpdateRuntimeOn: "Never"})
	refused(t, err, validation, 400, valid("updateRuntimeOn", "'Never'", "Member must satisfy enum value set: [Auto, Manual, FunctionUpdate]"))
	_, err = s.GetRuntimeManagementConfig(ctx, &lambda.GetRuntimeManagementConfigInput{FunctionName: f, Qualifier: aws.String("7")})
	refused(t, err, missing, 404, "Function not found: "+functionBase+"f:7")
	_, err = s.GetRuntimeManagementConfig(ctx, &lambda.GetRuntimeManagementConfigInput{FunctionName: f, Qualifier: aws.String("none")})
	refused(t, err, missing, 404, "Cannot find alias arn: "+functionBase+"f:none")
	s.store(func(w store.Writer) error {
		kept, err := w.Function("f")
		kept.Latest.Config.PackageType = "Image"
		if err == nil {
			err = w.PutFunction(kept)
		}
		return err
	})
	_, err = s.PutRuntimeManagementConfig(ctx, &lambda.PutRuntimeManagementConfigInput{FunctionName: f, UpdateRuntimeOn: "Auto"})
	refused(t, err, invalidValue, 400, "Runtime management is not supported for functions packaged as container images.")
}

func TestNoFunctionHasACodeSigningConfig(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	got := must[*lambda.GetFunctionCodeSigningConfigOutput](t)(s.GetFunctionCodeSigningConfig(t.Context(),
		&lambda.GetFunctionCodeSigningConfigInput{FunctionName: aws.String("f")}))
	if got.CodeSigningConfigArn != nil || got.FunctionName != nil {
		t.Errorf("got %+v", got)
	}
	_, err := s.GetFunctionCodeSigningConfig(t.Context(), &lambda.GetFunctionCodeSigningConfigInput{FunctionName: aws.String("g")})
	refused(t, err, missing, 404, "Function not found: "+functionBase+"g")
}

// TestListsSurviveWhatIsMadeMeanwhile lists functions and their versions in
// pages of one while others are made before and after.
func TestListsSurviveWhatIsMadeMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(11)
	ctx := t.Context()
	s.settle(controlplane.Number(11), controlplane.VersionActive)
	seen, order := map[string]int{}, []string{}
	p := lambda.NewListFunctionsPaginator(s.Client, &lambda.ListFunctionsInput{FunctionVersion: types.FunctionVersionAll, MaxItems: aws.Int32(1)})
	for i := 0; p.HasMorePages() && i < 20; i++ {
		out := must[*lambda.ListFunctionsOutput](t)(p.NextPage(ctx))
		for _, v := range out.Functions {
			arn := strings.TrimPrefix(*v.FunctionArn, functionBase)
			seen[arn]++
			order = append(order, arn)
		}
		if i == 3 {
			for _, name := range []string{"a", "f-2", "z"} {
				must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, functionInput(t, name)))
			}
		}
	}
	want := []string{
		"f:$LATEST", "f:1", "f:2", "f:3", "f:4", "f:5", "f:6", "f:7", "f:8", "f:9", "f:10", "f:11", "f-2:$LATEST", "z:$LATEST",
	}
	if !slices.Equal(order, want) || slices.Max(slices.Collect(maps.Values(seen))) != 1 {
		t.Errorf("listed %v\nwant   %v", order, want)
	}
}

func TestNoFunctionIsAReplicaOfAnotherRegion(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	out := must[*lambda.ListFunctionsOutput](t)(s.ListFunctions(t.Context(), &lambda.ListFunctionsInput{
		MasterRegion: aws.String("eu-west-1"), FunctionVersion: types.FunctionVersionAll,
	}))
	if len(out.Functions) != 0 {
		t.Errorf("%d functions are replicas", len(out.Functions))
	}
	_, err := s.ListFunctions(t.Context(), &lambda.ListFunctionsInput{MasterRegion: aws.String("eu-west-1")})
	refused(t, err, invalidValue, 400, "The combination MasterArn=eu-west-1 and FunctionVersion=NULL is not supported. Please see our "+
		"documentation for valid combinations of ListFunctions options.")
}
