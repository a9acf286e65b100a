package lambdaapi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// eventInvokeOf is an event-invoke config without its time, in one line.
func eventInvokeOf(arn *string, age, retries *int32, d *types.DestinationConfig) string {
	text := strings.TrimPrefix(*arn, functionBase)
	for i, n := range []*int32{age, retries} {
		if n != nil {
			text += fmt.Sprint([]string{" age ", " retries "}[i], *n)
		}
	}
	return text + fmt.Sprint(" [", aws.ToString(d.OnSuccess.Destination), "|", aws.ToString(d.OnFailure.Destination), "]")
}

func TestEventInvokeConfigsAreKept(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(1)
	s.withAlias()
	ctx, f := t.Context(), aws.String("f")
	queue, topic := "arn:aws:sqs:us-east-1:123456789012:q", "arn:aws:sns:us-east-1:123456789012:t"
	both := &types.DestinationConfig{OnSuccess: &types.OnSuccess{Destination: &queue}, OnFailure: &types.OnFailure{Destination: &topic}}
	bucket := &types.DestinationConfig{OnFailure: &types.OnFailure{Destination: aws.String("arn:aws:s3:::bucket")}}
	var last time.Time
	for _, step := range []struct { // a put forgets what it does not say, an update keeps it
		want, q      string
		update       bool
		age, retries *int32
		destinations *types.DestinationConfig
	}{
		{"f:$LATEST retries 0 [|]", "", false, nil, aws.Int32(0), nil},
		{"f:$LATEST retries 0 [" + queue + "|" + topic + "]", "$LATEST", true, nil, nil, both},
		{"f:$LATEST retries 1 [" + queue + "|" + topic + "]", "", true, nil, aws.Int32(1), nil},
		{"f:$LATEST age 60 [|]", "", false, aws.Int32(60), nil, nil},
		{"f:live retries 2 [|arn:aws:s3:::bucket]", "live", false, nil, aws.Int32(2), bucket},
		{"f:1 age 21600 [|]", "1", false, aws.Int32(21600), nil, nil},
	} {
		var q *string
		if step.q != "" {
			q = &step.q
		}
		if step.update {
			must[*lambda.UpdateFunctionEventInvokeConfigOutput](t)(s.UpdateFunctionEventInvokeConfig(ctx, &lambda.UpdateFunctionEventInvokeConfigInput{
				FunctionName: f, Qualifier: q, MaximumEventAgeInSeconds: step.age, MaximumRetryAttempts: step.retries, DestinationConfig: step.destinations,
			}))
		} else {
			put := must[*lambda.PutFunctionEventInvokeConfigOutput](t)(s.PutFunctionEventInvokeConfig(ctx, &lambda.PutFunctionEventInvokeConfigInput{
				FunctionName: f, Qualifier: q, MaximumEventAgeInSeconds: step.age, MaximumRetryAttempts: step.retries, DestinationConfig: step.destinations,
			}))
			same(t, "put", step.want, eventInvokeOf(put.FunctionArn, put.MaximumEventAgeInSeconds, put.MaximumRetryAttempts, put.DestinationConfig))
		}
		got := must[*lambda.GetFunctionEventInvokeConfigOutput](t)(s.GetFunctionEventInvokeConfig(ctx, &lambda.GetFunctionEventInvokeConfigInput{FunctionName: f, Qualifier: q}))
		same(t, "got", step.want, eventInvokeOf(got.FunctionArn, got.MaximumEventAgeInSeconds, got.MaximumRetryAttempts, got.DestinationConfig))
		if got.LastModified.Before(last) {
			t.Errorf("%s was modified at %v, before the one before", step.want, got.LastModified)
		}
		last = *got.LastModified
	}
	same(t, "list", []string{functionBase + "f:$LATEST", functionBase + "f:1", functionBase + "f:live"}, s.eventInvokeARNs())
	remove := &lambda.DeleteFunctionEventInvokeConfigInput{FunctionName: f, Qualifier: aws.String("live")}
	must[*lambda.DeleteFunctionEventInvokeConfigOutput](t)(s.DeleteFunctionEventInvokeConfig(ctx, remove))
	refused(t, second(s.DeleteFunctionEventInvokeConfig(ctx, remove)), missing, 404,
		"The function "+functionBase+"f:live doesn't have an EventInvokeConfig")
}

// eventInvokeARNs lists those of "f" that have an event-invoke config, in pages
// of one.
func (s *system) eventInvokeARNs() (arns []string) {
	p := lambda.NewListFunctionEventInvokeConfigsPaginator(s.Client,
		&lambda.ListFunctionEventInvokeConfigsInput{FunctionName: aws.String("f"), MaxItems: aws.Int32(1)})
	for p.HasMorePages() && len(arns) < 9 {
		out := must[*lambda.ListFunctionEventInvokeConfigsOutput](s.t)(p.NextPage(s.t.Context()))
		arns = append(arns, *out.FunctionEventInvokeConfigs[0].FunctionArn)
	}
	return arns
}

func TestEventInvokeConfigsAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	ctx := t.Context()
	const pattern = `Member must satisfy regular expression pattern: $|kafka://([^.]([a-zA-Z0-9\-_.]{0,248}))|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)`
	success := func(arn string) *types.DestinationConfig {
		return &types.DestinationConfig{OnSuccess: &types.OnSuccess{Destination: &arn}}
	}
	strange := "arn:aws:_-/!lambda:us-east-1:123456789012:function:g"
	for name, c := range map[string]struct {
		in            lambda.PutFunctionEventInvokeConfigInput
		code, message string
		status        int
	}{
		"nothing":                      {lambda.PutFunctionEventInvokeConfigInput{}, invalidValue, "You must specify at least one of error handling or destination setting.", 400},
		"a function that is not there": {lambda.PutFunctionEventInvokeConfigInput{FunctionName: aws.String("g"), MaximumRetryAttempts: aws.Int32(1)}, missing, "The function doesn't exist.", 404},
		"a version that is not there":  {lambda.PutFunctionEventInvokeConfigInput{Qualifier: aws.String("7"), MaximumRetryAttempts: aws.Int32(1)}, missing, "The function doesn't exist.", 404},
		"an alias that is not there":   {lambda.PutFunctionEventInvokeConfigInput{Qualifier: aws.String("x"), MaximumRetryAttempts: aws.Int32(1)}, missing, "The function doesn't exist.", 404},
		"two qualifiers": {
			lambda.PutFunctionEventInvokeConfigInput{FunctionName: aws.String("f:1"), Qualifier: aws.String("2"), MaximumRetryAttempts: aws.Int32(1)},
			invalidValue, "The derived qualifier from the function name does not match the specified qualifier.", 400,
		},
		"3 attempts": {lambda.PutFunctionEventInvokeConfigInput{MaximumRetryAttempts: aws.Int32(3)}, validation, valid("maximumRetryAttempts", "'3'", "Member must have value less than or equal to 2"), 400},
		"59 seconds": {lambda.PutFunctionEventInvokeConfigInput{MaximumEventAgeInSeconds: aws.Int32(59)}, validation, valid("maximumEventAgeInSeconds", "'59'", "Member must have value greater than or equal to 60"), 400},
		"itself": {
			lambda.PutFunctionEventInvokeConfigInput{DestinationConfig: success(functionBase + "f")},
			invalidValue, "You can't specify the function as a destination for itself.", 400,
		},
		"another that is not there": {
			lambda.PutFunctionEventInvokeConfigInput{DestinationConfig: success(functionBase + "none")},
			invalidValue, "The destination ARN " + functionBase + "none is invalid.", 400,
		},
		"another service": {
			lambda.PutFunctionEventInvokeConfigInput{DestinationConfig: success("arn:aws:iam:us-east-1:123456789012:function:g")},
			invalidValue, "The provided destination config DestinationConfig(onSuccess=OnSuccess(destination=" +
				"arn:aws:iam:us-east-1:123456789012:function:g), onFailure=null) is invalid.", 400,
		},
		"no ARN": {
			lambda.PutFunctionEventInvokeConfigInput{DestinationConfig: &types.DestinationConfig{OnFailure: &types.OnFailure{Destination: &strange}}},
			validation, valid("destinationConfig.onFailure.destination", "'"+strange+"'", pattern), 400,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.in.FunctionName == nil {
				c.in.FunctionName = aws.String("f")
			}
			refused(t, second(s.PutFunctionEventInvokeConfig(ctx, &c.in)), c.code, c.status, c.message)
		})
	}
	none := func(q string) string {
		return "The function " + functionBase + q + " doesn't have an EventInvokeConfig"
	}
	for name, c := range map[string]struct {
		err     error
		message string
	}{
		"get of no function":    {second(s.GetFunctionEventInvokeConfig(ctx, &lambda.GetFunctionEventInvokeConfigInput{FunctionName: aws.String("g")})), none("g:$LATEST")},
		"get of no version":     {second(s.GetFunctionEventInvokeConfig(ctx, &lambda.GetFunctionEventInvokeConfigInput{FunctionName: aws.String("f:x")})), none("f:x")},
		"get of none":           {second(s.GetFunctionEventInvokeConfig(ctx, &lambda.GetFunctionEventInvokeConfigInput{FunctionName: aws.String("f")})), none("f:$LATEST")},
		"deletion of none":      {second(s.DeleteFunctionEventInvokeConfig(ctx, &lambda.DeleteFunctionEventInvokeConfigInput{FunctionName: aws.String("f")})), none("f:$LATEST")},
		"update of none":        {second(s.UpdateFunctionEventInvokeConfig(ctx, &lambda.UpdateFunctionEventInvokeConfigInput{FunctionName: aws.String("f"), MaximumRetryAttempts: aws.Int32(1)})), none("f:$LATEST")},
		"update of no function": {second(s.UpdateFunctionEventInvokeConfig(ctx, &lambda.UpdateFunctionEventInvokeConfigInput{FunctionName: aws.String("g"), MaximumRetryAttempts: aws.Int32(1)})), "The function doesn't exist."},
		"list of no function":   {second(s.ListFunctionEventInvokeConfigs(ctx, &lambda.ListFunctionEventInvokeConfigsInput{FunctionName: aws.String("g")})), "The function doesn't exist."},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.err, missing, 404, c.message) })
	}
}
