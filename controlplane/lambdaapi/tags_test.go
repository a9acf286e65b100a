package lambdaapi_test

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

func TestTagsAreAddedReplacedAndRemoved(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	provider := providerInput("pool")
	provider.Tags = map[string]string{"made": "with"}
	must[*lambda.CreateCapacityProviderOutput](t)(s.CreateCapacityProvider(t.Context(), provider))
	s.activate("pool")
	in := functionInput(t, "f")
	in.Tags = map[string]string{"made": "with"}
	must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(t.Context(), in))
	for _, arn := range []string{functionBase + "f", providerBase + "pool"} {
		t.Run(arn, func(t *testing.T) {
			ctx := t.Context()
			list := func() map[string]string {
				return must[*lambda.ListTagsOutput](t)(s.ListTags(ctx, &lambda.ListTagsInput{Resource: &arn})).Tags
			}
			tag := func(tags map[string]string) {
				must[*lambda.TagResourceOutput](t)(s.TagResource(ctx, &lambda.TagResourceInput{Resource: &arn, Tags: tags}))
			}
			tag(map[string]string{"A": "a", "B": "b"})
			tag(map[string]string{"B": "b2", "a key/é=+": ""})
			if want := (map[string]string{"made": "with", "A": "a", "B": "b2", "a key/é=+": ""}); !maps.Equal(list(), want) {
				t.Errorf("tags %v, want %v", list(), want)
			}
			must[*lambda.UntagResourceOutput](t)(s.UntagResource(ctx, &lambda.UntagResourceInput{
				Resource: &arn, TagKeys: []string{"A", "B", "a key/é=+", "none"},
			}))
			if want := (map[string]string{"made": "with"}); !maps.Equal(list(), want) {
				t.Errorf("tags %v, want %v", list(), want)
			}
			must[*lambda.UntagResourceOutput](t)(s.UntagResource(ctx, &lambda.UntagResourceInput{Resource: &arn, TagKeys: []string{"made"}}))
			if got := list(); got == nil || len(got) != 0 {
				t.Errorf("tags %v, want an empty map", got)
			}
		})
	}
	must[*lambda.TagResourceOutput](t)(s.TagResource(t.Context(), &lambda.TagResourceInput{
		Resource: aws.String(functionBase + "f"), Tags: map[string]string{"late": "tag"},
	}))
	got := must[*lambda.GetFunctionOutput](t)(s.GetFunction(t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String("f")}))
	if !maps.Equal(got.Tags, map[string]string{"late": "tag"}) {
		t.Errorf("GetFunction has the tags %v", got.Tags)
	}
}

func manyTags(n int) map[string]string {
	tags := map[string]string{}
	for i := range n {
		tags[fmt.Sprint("k", i)] = "v"
	}
	return tags
}

func TestTagsAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(1)
	const taggable = `Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|capacity-provider:[a-zA-Z0-9-_]+)`
	const qualified = "Tags on function aliases and versions are not supported. Please specify a function ARN."
	one := map[string]string{"a": "b"}
	mapping := "arn:aws:lambda:us-east-1:123456789012:event-source-mapping:00000000-0000-0000-0000-000000000000"
	signing := "arn:aws:lambda:us-east-1:123456789012:code-signing-config:csc-12345678901234567"
	for name, c := range map[string]struct {
		arn           string
		tags          map[string]string
		code, message string
		status        int
	}{
		"no ARN":                       {"arn:aws:something", one, validation, valid("resource", "'arn:aws:something'", taggable), 400},
		"a name":                       {"f", one, validation, valid("resource", "'f'", taggable), 400},
		"a function that is not there": {functionBase + "g", one, missing, "Function not found: " + functionBase + "g", 404},
		"a provider that is not there": {providerBase + "none", one, missing, "Capacity provider not found: " + providerBase + "none", 404},
		"a version":                    {functionBase + "f:1", one, invalidValue, qualified, 400},
		"$LATEST":                      {functionBase + "f:$LATEST", one, invalidValue, qualified, 400},
		"a mapping":                    {mapping, one, missing, "The resource you requested does not exist.", 404},
		"a code signing configuration": {signing, one, missing, "The Lambda code signing configuration " + signing + " can not be found.", 404},
		"another account": {
			"arn:aws:lambda:us-east-1:000000000000:function:f", one, missing,
			"Function not found: arn:aws:lambda:us-east-1:000000000000:function:f", 404,
		},
		"another region": {
			"arn:aws:lambda:eu-west-1:123456789012:function:f", one, missing,
			"Functions from 'eu-west-1' are not reachable in this region ('us-east-1')", 404,
		},
		"no tags":          {functionBase + "f", map[string]string{}, invalidValue, "An error occurred and the request cannot be processed.", 400},
		"51 tags":          {functionBase + "f", manyTags(51), invalidValue, "Number of tags exceeds resource tag limit.", 400},
		"an empty key":     {functionBase + "f", map[string]string{"": "v"}, invalidValue, "Tag keys must not be empty.", 400},
		"a reserved key":   {functionBase + "f", map[string]string{"AWS:x": "v"}, invalidValue, "Tag keys must not start with the reserved prefix aws: 'AWS:x'", 400},
		"a key of 129":     {functionBase + "f", map[string]string{strings.Repeat("é", 129): ""}, invalidValue, "Tag keys must have at most 128 characters: '" + strings.Repeat("é", 129) + "' has 129.", 400},
		"a value of 257":   {functionBase + "f", map[string]string{"k": strings.Repeat("é", 257)}, invalidValue, "Tag values must have at most 256 characters: that of 'k' has 257.", 400},
		"just long enough": {functionBase + "f", map[string]string{strings.Repeat("é", 128): strings.Repeat("é", 256)}, "", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.TagResource(t.Context(), &lambda.TagResourceInput{Resource: &c.arn, Tags: c.tags})
			if c.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, err, c.code, c.status, c.message)
		})
	}
	for name, err := range map[string]error{
		"untag": second(s.UntagResource(t.Context(), &lambda.UntagResourceInput{Resource: aws.String(providerBase + "none"), TagKeys: []string{"a"}})),
		"list":  second(s.ListTags(t.Context(), &lambda.ListTagsInput{Resource: aws.String(providerBase + "none")})),
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, err, missing, 404, "Capacity provider not found: "+providerBase+"none")
		})
	}
	w, body := s.send("DELETE", "/2017-03-31/tags/"+functionBase+"f", http.NoBody)
	if w.StatusCode != 400 || !strings.Contains(body, valid("tagKeys", "null", "Member must not be null")) {
		t.Errorf("no keys to remove: %d %s", w.StatusCode, body)
	}
}

func TestTagsAreBoundedTogetherAndAtCreation(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	ctx, arn := t.Context(), aws.String(functionBase+"f")
	must[*lambda.TagResourceOutput](t)(s.TagResource(ctx, &lambda.TagResourceInput{Resource: arn, Tags: manyTags(50)}))
	_, err := s.TagResource(ctx, &lambda.TagResourceInput{Resource: arn, Tags: map[string]string{"one more": ""}})
	refused(t, err, invalidValue, 400, "Number of tags exceeds resource tag limit.")
	must[*lambda.TagResourceOutput](t)(s.TagResource(ctx, &lambda.TagResourceInput{Resource: arn, Tags: map[string]string{"k1": "again"}}))
	f, p := functionInput(t, "g"), providerInput("other")
	f.Tags, p.Tags = manyTags(51), manyTags(51)
	refused(t, second(s.CreateFunction(ctx, f)), invalidValue, 400, "Number of tags exceeds resource tag limit.")
	refused(t, second(s.CreateCapacityProvider(ctx, p)), invalidValue, 400, "Number of tags exceeds resource tag limit.")
}

func TestAProviderBeingDeletedKeepsItsTags(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withProvider()
	out := must[*lambda.DeleteCapacityProviderOutput](t)(s.DeleteCapacityProvider(t.Context(),
		&lambda.DeleteCapacityProviderInput{CapacityProviderName: aws.String("pool")}))
	if out.CapacityProvider.State != types.CapacityProviderStateDeleting {
		t.Fatalf("state %s", out.CapacityProvider.State)
	}
	_, err := s.TagResource(t.Context(), &lambda.TagResourceInput{Resource: aws.String(providerBase + "pool"), Tags: manyTags(1)})
	refused(t, err, conflicting, 409, "The operation cannot be performed at this time. The capacity provider "+providerBase+
		"pool is currently in the following state: 'Deleting'")
}
