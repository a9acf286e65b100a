package lambdaapi_test

import (
	"context"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/hearth-compute/hearth/controlplane"
)

// TestMessagesQuotedOfAWS has a row for every message that lmi-behaviour
// quotes, by its section.
func TestMessagesQuotedOfAWS(t *testing.T) {
	t.Parallel()
	for name, c := range quotedMessages(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, withDefaultProvider).withFunction()
			demand := onDemandInput(t, "demand")
			must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(t.Context(), demand))
			refused(t, c.ask(t.Context(), s), c.code, c.status, c.message)
		})
	}
	t.Run("2.3 a runtime that cannot", func(t *testing.T) {
		t.Parallel()
		s, in := newSystem(t, strict).withProvider(), functionInput(t, "g")
		in.Runtime = types.RuntimePython312
		_, err := s.CreateFunction(t.Context(), in)
		refused(t, err, "InvalidParameterValueException", 400,
			"Runtime Enum python3.12 does not support specified feature: Lambda Managed Instances")
	})
	t.Run("8.3 a timeout", func(t *testing.T) { // an answer, which must come through as the agent wrote it
		t.Parallel()
		s := newSystem(t, nil).withFunction()
		document := []byte(`{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: r Error: Task timed out after 3.00 seconds"}`)
		s.invoker.set(controlplane.InvokeResult{Executed: "1", FunctionError: "Unhandled", Payload: document}, nil)
		out := must[*lambda.InvokeOutput](t)(s.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Qualifier: aws.String("1")}))
		if out.StatusCode != 200 || *out.FunctionError != "Unhandled" || string(out.Payload) != string(document) {
			t.Errorf("answered %d %s %s", out.StatusCode, *out.FunctionError, out.Payload)
		}
	})
}

// quoted is a request and what AWS answers.
type quoted struct {
	ask           func(context.Context, *system) error
	code, message string
	status        int
}

func quotedMessages(t *testing.T) map[string]quoted {
	const invalid = "InvalidParameterValueException"
	f, demand, published := aws.String("f"), aws.String("demand"), aws.String("$LATEST.PUBLISHED")
	bound := functionInput(t, "f").CapacityProviderConfig
	invoke := func(ctx context.Context, s *system, in *lambda.InvokeInput, answer error) error {
		s.invoker.set(controlplane.InvokeResult{}, answer)
		in.FunctionName = f
		return second(s.Invoke(ctx, in))
	}
	return map[string]quoted{
		"1.1 an unknown provider": {func(ctx context.Context, s *system) error {
			return second(s.GetCapacityProvider(ctx, &lambda.GetCapacityProviderInput{CapacityProviderName: aws.String("none")}))
		}, "ResourceNotFoundException", "Capacity provider not found: " + providerBase + "none", 404},
		"1.1 tags of an unknown provider": {func(ctx context.Context, s *system) error {
			return second(s.ListTags(ctx, &lambda.ListTagsInput{Resource: aws.String(providerBase + "none")}))
		}, "ResourceNotFoundException", "Capacity provider not found: " + providerBase + "none", 404},
		"2.4 log format text": {func(ctx context.Context, s *system) error {
			return second(s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{
				FunctionName: f, LoggingConfig: &types.LoggingConfig{LogFormat: "Text"},
			}))
		}, invalid, `LogLevel is not supported when LogFormat is set to "Text". Remove LogLevel from your request or change ` +
			`the LogFormat to "JSON" and try again.`, 400},
		"2.5 a provider for a function on demand": {func(ctx context.Context, s *system) error {
			return second(s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: demand, CapacityProviderConfig: bound}))
		}, invalid, "CapacityProviderConfig isn't supported for Lambda Default functions.", 400},
		"2.5 no provider for a function that has one": {func(ctx context.Context, s *system) error {
			return second(s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{
				FunctionName: f, CapacityProviderConfig: &types.CapacityProviderConfig{},
			}, lenient))
		}, "ValidationException", "1 validation error detected: Value null at " +
			"'capacityProviderConfig.lambdaManagedInstancesCapacityProviderConfig' failed to satisfy constraint: Member must not be null", 400},
		"3.3 scaling on demand": {func(ctx context.Context, s *system) error {
			return second(s.PutFunctionScalingConfig(ctx, &lambda.PutFunctionScalingConfigInput{FunctionName: demand, Qualifier: published}))
		}, "AccessDeniedException", "The function provided by the arn does not contain a capacity provider configuration", 403},
		"4.2 nothing published": {func(ctx context.Context, s *system) error {
			return invoke(ctx, s, &lambda.InvokeInput{}, &controlplane.NoPublishedVersionError{Function: "f"})
		}, "NoPublishedVersionException", "The function can't be invoked because no published version exists. For functions with " +
			"capacity provider configuration, either publish a version to $LATEST.PUBLISHED, or specify a published version qualifier.", 400},
		"4.2 $LATEST": {func(ctx context.Context, s *system) error {
			return invoke(ctx, s, &lambda.InvokeInput{Qualifier: aws.String("$LATEST")}, &controlplane.LatestNotInvocableError{Function: "f"})
		}, invalid, "Functions configured with capacity provider configuration can't be invoked with $LATEST qualifier. To invoke this " +
			"function, specify a published version qualifier or $LATEST.PUBLISHED.", 400},
		"4.2 every slot taken": {func(ctx context.Context, s *system) error {
			return invoke(ctx, s, &lambda.InvokeInput{}, &controlplane.ThrottledError{Reason: controlplane.ThrottleConcurrency})
		}, "TooManyRequestsException", "Rate Exceeded: every execution environment is at its concurrency limit.", 429},
	}
}

// lenient lets a request through that the SDK itself would refuse.
func lenient(o *lambda.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		_, err := stack.Initialize.Remove("OperationInputValidation")
		return err
	})
}
