package lambdaapi_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// TestToolsAreToldThatThereIsNone of what no function can have here.
func TestToolsAreToldThatThereIsNone(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	ctx, f, none := t.Context(), aws.String("f"), aws.String("none")
	must[*lambda.ListEventSourceMappingsOutput](t)(s.ListEventSourceMappings(ctx, &lambda.ListEventSourceMappingsInput{FunctionName: f}))
	must[*lambda.ListCodeSigningConfigsOutput](t)(s.ListCodeSigningConfigs(ctx, &lambda.ListCodeSigningConfigsInput{}))
	must[*lambda.ListFunctionUrlConfigsOutput](t)(s.ListFunctionUrlConfigs(ctx, &lambda.ListFunctionUrlConfigsInput{FunctionName: f}))
	must[*lambda.ListProvisionedConcurrencyConfigsOutput](t)(
		s.ListProvisionedConcurrencyConfigs(ctx, &lambda.ListProvisionedConcurrencyConfigsInput{FunctionName: f}))
	refused(t, second(s.GetFunctionUrlConfig(ctx, &lambda.GetFunctionUrlConfigInput{FunctionName: f})),
		"ResourceNotFoundException", 404, "The resource you requested does not exist.")
	refused(t, second(s.GetProvisionedConcurrencyConfig(ctx, &lambda.GetProvisionedConcurrencyConfigInput{FunctionName: f, Qualifier: aws.String("$LATEST")})),
		"ProvisionedConcurrencyConfigNotFoundException", 404, "No Provisioned Concurrency Config found for function: "+functionBase+"f:$LATEST")
	refused(t, second(s.ListFunctionUrlConfigs(ctx, &lambda.ListFunctionUrlConfigsInput{FunctionName: none})),
		"ResourceNotFoundException", 404, "Function not found: "+functionBase+"none")
	refused(t, second(s.ListProvisionedConcurrencyConfigs(ctx, &lambda.ListProvisionedConcurrencyConfigsInput{FunctionName: none})),
		"ResourceNotFoundException", 404, "Function not found: "+functionBase+"none")
}

// TestTheFirstPublicationIsAnUpdateToo: tools wait for the end of the update
// only, and what waits for the state waits all the same.
func TestTheFirstPublicationIsAnUpdateToo(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	v := must[*lambda.PublishVersionOutput](t)(s.PublishVersion(t.Context(), &lambda.PublishVersionInput{
		FunctionName: aws.String("f"), PublishTo: types.FunctionVersionLatestPublishedLatestPublished,
	}))
	if v.State != types.StatePending || v.LastUpdateStatus != types.LastUpdateStatusInProgress {
		t.Errorf("state %s, last update %s; want Pending and InProgress", v.State, v.LastUpdateStatus)
	}
}
