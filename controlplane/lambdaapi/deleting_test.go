package lambdaapi_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane/store"
)

// TestNothingOfAFunctionBeingDeletedChanges tries every change of a function
// but those of TestChangesAreRefusedAsAWSDoes.
func TestNothingOfAFunctionBeingDeletedChanges(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(1)
	s.withAlias()
	ctx, f, arn := t.Context(), aws.String("f"), aws.String(functionBase+"f")
	must[*lambda.DeleteFunctionOutput](t)(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: f}))
	for name, err := range map[string]error{
		"CreateAlias": second(s.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: f, Name: aws.String("x"), FunctionVersion: aws.String("$LATEST")})),
		"UpdateAlias": second(s.UpdateAlias(ctx, &lambda.UpdateAliasInput{FunctionName: f, Name: aws.String("live")})),
		"DeleteAlias": second(s.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: f, Name: aws.String("live")})),
		"TagResource": second(s.TagResource(ctx, &lambda.TagResourceInput{Resource: arn, Tags: map[string]string{"a": "b"}})),
		"UntagResource": second(s.UntagResource(ctx, &lambda.UntagResourceInput{
			Resource: arn, TagKeys: []string{"a"},
		})),
		"PutFunctionConcurrency":    second(s.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{FunctionName: f, ReservedConcurrentExecutions: aws.Int32(1)})),
		"DeleteFunctionConcurrency": second(s.DeleteFunctionConcurrency(ctx, &lambda.DeleteFunctionConcurrencyInput{FunctionName: f})),
		"PutFunctionRecursionConfig": second(s.PutFunctionRecursionConfig(ctx, &lambda.PutFunctionRecursionConfigInput{
			FunctionName: f, RecursiveLoop: "Allow",
		})),
		"PutRuntimeManagementConfig": second(s.PutRuntimeManagementConfig(ctx, &lambda.PutRuntimeManagementConfigInput{
			FunctionName: f, UpdateRuntimeOn: "Auto",
		})),
		"PutFunctionEventInvokeConfig": second(s.PutFunctionEventInvokeConfig(ctx, &lambda.PutFunctionEventInvokeConfigInput{
			FunctionName: f, MaximumRetryAttempts: aws.Int32(1),
		})),
		"AddPermission": second(s.AddPermission(ctx, permission("s"))),
		"RemovePermission": second(s.RemovePermission(ctx, &lambda.RemovePermissionInput{
			FunctionName: f, StatementId: aws.String("s"),
		})),
	} {
		t.Run(name, func(t *testing.T) { refused(t, err, conflicting, 409, deletingMessage) })
	}
}

// TestSettingsGoWithWhatTheyAreFor deletes an alias and a version that have every
// kind of setting.
func TestSettingsGoWithWhatTheyAreFor(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(2)
	s.withAlias()
	ctx, f := t.Context(), aws.String("f")
	for _, q := range []string{"live", "2"} {
		must[*lambda.PutFunctionEventInvokeConfigOutput](t)(s.PutFunctionEventInvokeConfig(ctx,
			&lambda.PutFunctionEventInvokeConfigInput{FunctionName: f, Qualifier: &q, MaximumRetryAttempts: aws.Int32(1)}))
		must[*lambda.PutRuntimeManagementConfigOutput](t)(s.PutRuntimeManagementConfig(ctx,
			&lambda.PutRuntimeManagementConfigInput{FunctionName: f, Qualifier: &q, UpdateRuntimeOn: "FunctionUpdate"}))
		in := permission("s")
		in.Qualifier = &q
		must[*lambda.AddPermissionOutput](t)(s.AddPermission(ctx, in))
	}
	must[*lambda.DeleteAliasOutput](t)(s.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: f, Name: aws.String("live")}))
	must[*lambda.DeleteFunctionOutput](t)(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: f, Qualifier: aws.String("2")}))
	s.store(func(w store.Writer) error {
		kept, err := w.Function("f")
		if n := len(kept.EventInvoke) + len(kept.RuntimeManagement) + len(kept.Policies); n != 0 {
			t.Errorf("kept %v, %v, %v", kept.EventInvoke, kept.RuntimeManagement, kept.Policies)
		}
		return err
	})
	s.withAlias()
	got := must[*lambda.GetRuntimeManagementConfigOutput](t)(s.GetRuntimeManagementConfig(ctx,
		&lambda.GetRuntimeManagementConfigInput{FunctionName: f, Qualifier: aws.String("live")}))
	if got.UpdateRuntimeOn != types.UpdateRuntimeOnAuto {
		t.Errorf("a new alias has the old one's %s", got.UpdateRuntimeOn)
	}
}

// TestAnAliasNeverNamesAVersionThatGoes makes an alias of a version and deletes
// the version at once: one of the two is refused.
func TestAnAliasNeverNamesAVersionThatGoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(8)
	ctx, f := t.Context(), aws.String("f")
	for n := range 8 {
		version := fmt.Sprint(n + 1)
		var made, gone error
		var both sync.WaitGroup
		both.Go(func() {
			made = second(s.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: f, Name: aws.String("a" + version), FunctionVersion: &version}))
		})
		both.Go(func() {
			gone = second(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: f, Qualifier: &version}))
		})
		both.Wait()
		if (made == nil) == (gone == nil) {
			t.Errorf("version %s: making its alias said %v, deleting it %v", version, made, gone)
		}
	}
}
