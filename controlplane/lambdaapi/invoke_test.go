package lambdaapi_test

import (
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
)

func TestInvokesAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	const invalid = "InvalidParameterValueException"
	for name, c := range map[string]struct {
		in            lambda.InvokeInput
		err           error
		code, message string
		status        int
	}{
		"nothing is published": {
			lambda.InvokeInput{},
			&controlplane.NoPublishedVersionError{Function: "f"}, "NoPublishedVersionException",
			"The function can't be invoked because no published version exists. For functions with capacity provider configuration, " +
				"either publish a version to $LATEST.PUBLISHED, or specify a published version qualifier.", 400,
		},
		"$LATEST": {
			lambda.InvokeInput{Qualifier: aws.String("$LATEST")},
			&controlplane.LatestNotInvocableError{Function: "f"}, invalid,
			"Functions configured with capacity provider configuration can't be invoked with $LATEST qualifier. " +
				"To invoke this function, specify a published version qualifier or $LATEST.PUBLISHED.", 400,
		},
		"an event": {
			lambda.InvokeInput{InvocationType: "Event"},
			nil, invalid,
			"Asynchronous invocation is not available in this service yet. Use the invocation type RequestResponse.", 400,
		},
		"an unknown type": {
			lambda.InvokeInput{InvocationType: "Later"},
			nil, "ValidationException",
			valid("invocationType", "'Later'", "Member must satisfy enum value set: [Event, RequestResponse, DryRun]"), 400,
		},
		"no such function": {
			lambda.InvokeInput{},
			&controlplane.FunctionNotFoundError{ARN: functionBase + "f"}, "ResourceNotFoundException",
			"Function not found: " + functionBase + "f", 404,
		},
		"a pending version": {
			lambda.InvokeInput{},
			&controlplane.VersionStateError{State: "Pending", Reason: "The function is being created."},
			"ResourceConflictException", "The operation cannot be performed at this time. The function is currently in the " +
				"following state: 'Pending': The function is being created.", 409,
		},
		"a lost connection": {
			lambda.InvokeInput{},
			&controlplane.LostError{Environment: "e-1", Err: errors.New("secret")}, "ServiceException",
			"The connection to the execution environment was lost during the invoke. The function may have run.", 500,
		},
		"a bug": {
			lambda.InvokeInput{},
			errors.New("secret"), "ServiceException",
			"The service encountered an internal error. Its log has more under the request id.", 500,
		},
		"two qualifiers": {
			lambda.InvokeInput{FunctionName: aws.String("f:1"), Qualifier: aws.String("2")},
			nil, invalid,
			"The derived qualifier from the function name does not match the specified qualifier.", 400,
		},
		"another region": {
			lambda.InvokeInput{FunctionName: aws.String("arn:aws:lambda:eu-west-1:123456789012:function:f")},
			nil,
			"ResourceNotFoundException", "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')", 404,
		},
		"no JSON": {
			lambda.InvokeInput{Payload: []byte("hello")},
			nil, "InvalidRequestContentException",
			"Could not parse request body into json: the payload is not valid JSON", 400,
		},
		"no UTF-8": {
			lambda.InvokeInput{Payload: []byte("\"\xff\"")},
			nil, "InvalidRequestContentException",
			"Could not parse request body into json: the payload is not valid JSON", 400,
		},
		"a client context that is no base64": {
			lambda.InvokeInput{ClientContext: aws.String("{}")},
			nil, "InvalidRequestContentException",
			"Client context must be a valid Base64-encoded JSON object.", 400,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, nil)
			s.invoker.set(controlplane.InvokeResult{}, c.err)
			if c.in.FunctionName == nil {
				c.in.FunctionName = aws.String("f")
			}
			_, err := s.Invoke(t.Context(), &c.in)
			refused(t, err, c.code, c.status, c.message)
			if calls := s.invoker.calls; c.err == nil && calls != 0 {
				t.Errorf("the router was asked %d times", calls)
			}
		})
	}
}

func TestAThrottleSaysWhyAndWhenToComeBack(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	for wait, header := range map[time.Duration]string{0: "1", 1500 * time.Millisecond: "2", 7 * time.Second: "7"} {
		s.invoker.set(controlplane.InvokeResult{}, &controlplane.ThrottledError{Reason: controlplane.ThrottleMemory, RetryAfter: wait})
		_, err := s.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f")})
		refused(t, err, "TooManyRequestsException", 429, "Rate Exceeded: the execution environments are short of memory.")
		throttled, ok := errors.AsType[*types.TooManyRequestsException](err)
		if !ok || throttled.Reason != "memory" || aws.ToString(throttled.Type) != "User" || aws.ToString(throttled.RetryAfterSeconds) != header {
			t.Errorf("after %v: throttle %+v, want Retry-After %s", wait, throttled, header)
		}
	}
}
