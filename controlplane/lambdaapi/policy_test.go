package lambdaapi_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
)

// permission is a request that "f" takes.
func permission(id string) *lambda.AddPermissionInput {
	return &lambda.AddPermissionInput{
		FunctionName: aws.String("f"), StatementId: &id, Action: aws.String("lambda:InvokeFunction"), Principal: aws.String("s3.amazonaws.com"),
	}
}

func TestStatementsAreWrittenAsIAMDoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(1)
	s.withAlias()
	for name, c := range map[string]struct {
		change func(*lambda.AddPermissionInput)
		want   string
	}{
		"a service": {
			func(in *lambda.AddPermissionInput) {
				in.SourceArn, in.SourceAccount = aws.String("arn:aws:s3:::bucket"), aws.String("123456789012")
			},
			`"Principal":{"Service":"s3.amazonaws.com"},"Action":"lambda:InvokeFunction","Resource":"` + functionBase + `f",` +
				`"Condition":{"ArnLike":{"AWS:SourceArn":"arn:aws:s3:::bucket"},"StringEquals":{"AWS:SourceAccount":"123456789012"}}}`,
		},
		"everybody": {
			func(in *lambda.AddPermissionInput) {
				in.Principal, in.Action, in.FunctionUrlAuthType = aws.String("*"), aws.String("lambda:InvokeFunctionUrl"), "NONE"
				in.PrincipalOrgID = aws.String("o-1234567890")
			},
			`"Principal":"*","Action":"lambda:InvokeFunctionUrl","Resource":"` + functionBase + `f",` +
				`"Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-1234567890","lambda:FunctionUrlAuthType":"NONE"}}}`,
		},
		"an account, for an alias": {
			func(in *lambda.AddPermissionInput) {
				in.Principal, in.Qualifier = aws.String("210987654321"), aws.String("live")
			},
			`"Principal":{"AWS":"arn:aws:iam::210987654321:root"},"Action":"lambda:InvokeFunction","Resource":"` + functionBase + `f:live"}`,
		},
		"an identity, for a version": {
			func(in *lambda.AddPermissionInput) {
				in.Principal, in.Qualifier, in.Action = aws.String("arn:aws:iam::210987654321:user/u"), aws.String("1"), aws.String("lambda:*")
			},
			`"Principal":{"AWS":"arn:aws:iam::210987654321:user/u"},"Action":"lambda:*","Resource":"` + functionBase + `f:1"}`,
		},
		"a token": {
			func(in *lambda.AddPermissionInput) {
				in.Principal, in.EventSourceToken = aws.String("*"), aws.String("amzn1.ask.skill")
				in.InvokedViaFunctionUrl = aws.Bool(true)
			},
			`"Principal":"*","Action":"lambda:InvokeFunction","Resource":"` + functionBase + `f",` +
				`"Condition":{"Bool":{"lambda:InvokedViaFunctionUrl":"true"},"StringEquals":{"lambda:EventSourceToken":"amzn1.ask.skill"}}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := permission(strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), ",", ""))
			c.change(in)
			want := `{"Sid":"` + *in.StatementId + `","Effect":"Allow",` + c.want
			out := must[*lambda.AddPermissionOutput](t)(s.AddPermission(t.Context(), in))
			if *out.Statement != want {
				t.Errorf("got  %s\nwant %s", *out.Statement, want)
			}
			got := must[*lambda.GetPolicyOutput](t)(s.GetPolicy(t.Context(), &lambda.GetPolicyInput{FunctionName: in.FunctionName, Qualifier: in.Qualifier}))
			if !strings.HasPrefix(*got.Policy, `{"Version":"2012-10-17","Id":"default","Statement":[{`) || !strings.Contains(*got.Policy, want) {
				t.Errorf("the policy is %s", *got.Policy)
			}
		})
	}
}

func TestAPolicyGrowsAndShrinks(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	ctx, f := t.Context(), aws.String("f")
	revision := func() *string {
		return must[*lambda.GetPolicyOutput](t)(s.GetPolicy(ctx, &lambda.GetPolicyInput{FunctionName: f})).RevisionId
	}
	first := permission("one")
	first.RevisionId = must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f})).Configuration.RevisionId
	must[*lambda.AddPermissionOutput](t)(s.AddPermission(ctx, first))
	before := revision()
	next := permission("two")
	next.RevisionId = before
	must[*lambda.AddPermissionOutput](t)(s.AddPermission(ctx, next))
	if *revision() == *before {
		t.Error("a changed policy has its old revision")
	}
	const other = "The Revision Id provided does not match the latest Revision Id. Call the GetPolicy API to retrieve the latest Revision Id"
	next = permission("three")
	next.RevisionId = before
	refused(t, second(s.AddPermission(ctx, next)), precondition, 412, other)
	remove := func(id string, revision *string) error {
		return second(s.RemovePermission(ctx, &lambda.RemovePermissionInput{FunctionName: f, StatementId: &id, RevisionId: revision}))
	}
	refused(t, remove("one", before), precondition, 412, other)
	refused(t, remove("none", nil), missing, 404, "Statement none is not found in resource policy.")
	for _, id := range []string{"one", "two"} {
		if err := remove(id, revision()); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, second(s.GetPolicy(ctx, &lambda.GetPolicyInput{FunctionName: f})), missing, 404, "The resource you requested does not exist.")
	refused(t, remove("one", nil), missing, 404, "No policy is associated with the given resource.")
}

func TestPermissionsAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(1)
	must[*lambda.AddPermissionOutput](t)(s.AddPermission(t.Context(), permission("s3")))
	pattern := func(at, value, text string) string {
		return valid(at, "'"+value+"'", "Member must satisfy regular expression pattern: "+text)
	}
	for name, c := range map[string]struct {
		change        func(*lambda.AddPermissionInput)
		code, message string
		status        int
	}{
		"an id that is taken": {
			func(in *lambda.AddPermissionInput) { in.StatementId = aws.String("s3") }, conflicting,
			"The statement id (s3) provided already exists. Please provide a new statement id, or remove the existing statement.", 409,
		},
		"a strange id":     {func(in *lambda.AddPermissionInput) { in.StatementId = aws.String("example.com") }, validation, pattern("statementId", "example.com", "([a-zA-Z0-9-_]+)"), 400},
		"a strange action": {func(in *lambda.AddPermissionInput) { in.Action = aws.String("s3:Get") }, validation, pattern("action", "s3:Get", "(lambda:[*]|lambda:[a-zA-Z]+|[*])"), 400},
		"a strange principal": {
			func(in *lambda.AddPermissionInput) { in.Principal = aws.String("invalid.nonaws.com") }, invalidValue,
			"The provided principal was invalid. Please check the principal and try again.", 400,
		},
		"a strange account": {func(in *lambda.AddPermissionInput) { in.SourceAccount = aws.String("me") }, validation, pattern("sourceAccount", "me", `\d{12}`), 400},
		"$LATEST":           {func(in *lambda.AddPermissionInput) { in.Qualifier = aws.String("$LATEST") }, invalidValue, "We currently do not support adding policies for $LATEST.", 400},
		"two qualifiers": {
			func(in *lambda.AddPermissionInput) {
				in.FunctionName, in.Qualifier = aws.String("f:alias-not-42"), aws.String("42")
			},
			invalidValue, "The derived qualifier from the function name does not match the specified qualifier.", 400,
		},
		"a strange qualifier": {
			func(in *lambda.AddPermissionInput) { in.Qualifier = aws.String("with-?-char") }, validation,
			pattern("qualifier", "with-?-char", `\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+`), 400,
		},
		"no function":                {func(in *lambda.AddPermissionInput) { in.FunctionName = aws.String("g") }, missing, "Function not found: " + functionBase + "g", 404},
		"no version":                 {func(in *lambda.AddPermissionInput) { in.Qualifier = aws.String("42") }, missing, "Function not found: " + functionBase + "f:42", 404},
		"no alias":                   {func(in *lambda.AddPermissionInput) { in.Qualifier = aws.String("none") }, missing, "Cannot find alias arn: " + functionBase + "f:none", 404},
		"neither alias nor a number": {func(in *lambda.AddPermissionInput) { in.Qualifier = aws.String("with-$-none") }, missing, "Function not found: " + functionBase + "f:with-$-none", 404},
	} {
		t.Run(name, func(t *testing.T) {
			in := permission("new")
			c.change(in)
			refused(t, second(s.AddPermission(t.Context(), in)), c.code, c.status, c.message)
		})
	}
	for name, c := range map[string]struct {
		err     error
		message string
	}{
		"removal from no function": {
			second(s.RemovePermission(t.Context(), &lambda.RemovePermissionInput{FunctionName: aws.String("g"), StatementId: aws.String("s")})),
			"No policy found for: " + functionBase + "g",
		},
		"removal from no alias": {
			second(s.RemovePermission(t.Context(), &lambda.RemovePermissionInput{FunctionName: aws.String("f:none"), StatementId: aws.String("s")})),
			"Cannot find alias arn: " + functionBase + "f:none",
		},
		"policy of no function": {second(s.GetPolicy(t.Context(), &lambda.GetPolicyInput{FunctionName: aws.String("g")})), "The resource you requested does not exist."},
		"policy of a version":   {second(s.GetPolicy(t.Context(), &lambda.GetPolicyInput{FunctionName: aws.String("f:1")})), "The resource you requested does not exist."},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.err, missing, 404, c.message) })
	}
}

func TestAPolicyHasALimit(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	policy := func() string {
		return *must[*lambda.GetPolicyOutput](t)(s.GetPolicy(t.Context(), &lambda.GetPolicyInput{FunctionName: aws.String("f")})).Policy
	}
	for i := range 200 {
		out, err := s.AddPermission(t.Context(), permission(fmt.Sprintf("%0100d", i)))
		if err == nil {
			if !strings.Contains(policy(), *out.Statement) || len(policy()) > 20480 {
				t.Errorf("statement %d made a policy of %d bytes", i, len(policy()))
			}
			continue
		}
		statement := len(`{"Sid":"","Effect":"Allow","Principal":{"Service":"s3.amazonaws.com"},"Action":"lambda:InvokeFunction","Resource":"`+
			functionBase+`f"}`) + 100
		refused(t, err, "PolicyLengthExceededException", 400, fmt.Sprintf(
			"The final policy size (%d) is bigger than the limit (20480).", len(policy())+len(",")+statement))
		return
	}
	t.Error("no limit")
}
