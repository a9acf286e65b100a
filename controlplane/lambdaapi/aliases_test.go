package lambdaapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
)

const (
	invalidValue = "InvalidParameterValueException"
	validation   = "ValidationException"
	missing      = "ResourceNotFoundException"
	conflicting  = "ResourceConflictException"
	precondition = "PreconditionFailedException"
)

const deletingMessage = "The operation cannot be performed at this time. The function is currently in the following state: 'Deleting'"

// withVersions publishes n versions of the function "f", each with code of its own.
func (s *system) withVersions(n int) *system {
	s.t.Helper()
	s.withFunction()
	for i := range n {
		must[*lambda.UpdateFunctionCodeOutput](s.t)(s.UpdateFunctionCode(s.t.Context(), &lambda.UpdateFunctionCodeInput{
			FunctionName: aws.String("f"), ZipFile: zipOf(s.t, strings.Repeat("x", i+1)), Publish: true,
		}))
	}
	return s
}

func weights(version string, weight float64) *types.AliasRoutingConfiguration {
	return &types.AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{version: weight}}
}

// withAlias makes the alias "live" of version 1 of "f".
func (s *system) withAlias() *lambda.CreateAliasOutput {
	s.t.Helper()
	return must[*lambda.CreateAliasOutput](s.t)(s.CreateAlias(s.t.Context(), &lambda.CreateAliasInput{
		FunctionName: aws.String("f"), Name: aws.String("live"), FunctionVersion: aws.String("1"),
	}))
}

// aliasOf is an alias without its revision, in one line.
func aliasOf(arn, version, description *string, routing *types.AliasRoutingConfiguration) string {
	text := strings.TrimPrefix(*arn, functionBase) + " is " + *version
	if routing != nil {
		text += fmt.Sprint(" shared ", routing.AdditionalVersionWeights)
	}
	return text + " '" + *description + "'"
}

func TestAnAliasIsMadeMovedAndDeleted(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(2)
	ctx, f, live := t.Context(), aws.String("f"), aws.String("live")
	revisions := map[string]bool{}
	made := s.withAlias()
	same(t, "made", "f:live is 1 ''", aliasOf(made.AliasArn, made.FunctionVersion, made.Description, made.RoutingConfig))
	revisions[*made.RevisionId] = true
	out := must[*lambda.UpdateAliasOutput](t)(s.UpdateAlias(ctx, &lambda.UpdateAliasInput{
		FunctionName: f, Name: live, RoutingConfig: weights("2", 0.25), Description: aws.String("canary"), RevisionId: made.RevisionId,
	}))
	same(t, "changed", "f:live is 1 shared map[2:0.25] 'canary'", aliasOf(out.AliasArn, out.FunctionVersion, out.Description, out.RoutingConfig))
	revisions[*out.RevisionId] = true
	for _, step := range []struct {
		want   string
		change lambda.UpdateAliasInput
	}{
		{"f:live is 1 shared map[2:0.25] 'canary'", lambda.UpdateAliasInput{}},
		{"f:live is 2 'canary'", lambda.UpdateAliasInput{FunctionVersion: aws.String("2"), RoutingConfig: &types.AliasRoutingConfiguration{}}},
		{"f:live is 2 ''", lambda.UpdateAliasInput{Description: aws.String("")}},
	} {
		step.change.FunctionName, step.change.Name = f, live
		must[*lambda.UpdateAliasOutput](t)(s.UpdateAlias(ctx, &step.change))
		got := must[*lambda.GetAliasOutput](t)(s.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: aws.String(functionBase + "f"), Name: live}))
		same(t, "got", step.want, aliasOf(got.AliasArn, got.FunctionVersion, got.Description, got.RoutingConfig))
		if revisions[*got.RevisionId] {
			t.Errorf("%s has the revision of an earlier one", step.want)
		}
		revisions[*got.RevisionId] = true
	}
	for range 2 { // the second finds nothing, and is content
		must[*lambda.DeleteAliasOutput](t)(s.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: f, Name: live}))
	}
	refused(t, second(s.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: f, Name: live})), missing, 404,
		"Cannot find alias arn: "+functionBase+"f:live")
}

func TestAnAliasNamesItsVersionWhereFunctionsAreDescribed(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(2)
	s.withAlias()
	ctx, f, live := t.Context(), aws.String("f"), aws.String("live")
	for _, in := range []*lambda.GetFunctionInput{
		{FunctionName: f, Qualifier: live}, {FunctionName: aws.String("f:live")}, {FunctionName: aws.String(functionBase + "f:live")},
	} {
		got := must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, in)).Configuration
		if *got.Version != "1" || *got.FunctionArn != functionBase+"f:live" {
			t.Errorf("%s described version %s under %s", *in.FunctionName, *got.Version, *got.FunctionArn)
		}
	}
	must[*lambda.UpdateAliasOutput](t)(s.UpdateAlias(ctx, &lambda.UpdateAliasInput{
		FunctionName: f, Name: live, FunctionVersion: aws.String("$LATEST"),
	}))
	got := must[*lambda.GetFunctionConfigurationOutput](t)(s.GetFunctionConfiguration(ctx,
		&lambda.GetFunctionConfigurationInput{FunctionName: f, Qualifier: live}))
	if *got.Version != "$LATEST" || *got.FunctionArn != functionBase+"f:live" {
		t.Errorf("described version %s under %s", *got.Version, *got.FunctionArn)
	}
	refused(t, second(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f, Qualifier: aws.String("none")})), missing, 404,
		"Function not found: "+functionBase+"f:none")
}

func TestNewAliasesAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(2)
	s.withAlias()
	const at = "routingConfig.additionalVersionWeights"
	const range1 = "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, " +
		"Member must have value greater than or equal to 0.0, Member must not be null]"
	for name, c := range map[string]struct {
		change        func(*lambda.CreateAliasInput)
		code, message string
		status        int
	}{
		"a name that is taken": {
			func(in *lambda.CreateAliasInput) { in.Name = aws.String("live") },
			conflicting, "Alias already exists: " + functionBase + "f:live", 409,
		},
		"a number": {
			func(in *lambda.CreateAliasInput) { in.Name = aws.String("2024") },
			validation, valid("name", "'2024'", "Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"), 400,
		},
		"no name": {
			func(in *lambda.CreateAliasInput) { in.Name = aws.String("a.b") },
			validation, valid("name", "'a.b'", "Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"), 400,
		},
		"no version": {
			func(in *lambda.CreateAliasInput) { in.FunctionVersion = aws.String("live") },
			validation, valid("functionVersion", "'live'", `Member must satisfy regular expression pattern: (\$LATEST(\.PUBLISHED)?|[0-9]+)`), 400,
		},
		"a version that is not there": {
			func(in *lambda.CreateAliasInput) { in.FunctionVersion = aws.String("10") },
			missing, "Function not found: " + functionBase + "f:10", 404,
		},
		"a function that is not there": {
			func(in *lambda.CreateAliasInput) { in.FunctionName = aws.String("g") },
			missing, "Function not found: " + functionBase + "g:1", 404,
		},
		"$LATEST.PUBLISHED": {
			func(in *lambda.CreateAliasInput) { in.FunctionVersion = aws.String("$LATEST.PUBLISHED") },
			invalidValue, "An alias can't name $LATEST.PUBLISHED. Specify $LATEST or the number of a version.", 400,
		},
		"a description of 257 bytes": {
			func(in *lambda.CreateAliasInput) { in.Description = aws.String(strings.Repeat("x", 257)) },
			validation, valid("description", "'"+strings.Repeat("x", 257)+"'", "Member must have length less than or equal to 256"), 400,
		},
		"three versions": {
			func(in *lambda.CreateAliasInput) {
				in.RoutingConfig = weights("1", 0.1)
				in.RoutingConfig.AdditionalVersionWeights["2"] = 0.1
			},
			invalidValue, "Number of items in AdditionalVersionWeights cannot be greater than 1", 400,
		},
		"twice as many": {
			func(in *lambda.CreateAliasInput) { in.RoutingConfig = weights("2", 2) },
			validation, valid(at, "'{2=2.0}'", range1), 400,
		},
		"less than none": {
			func(in *lambda.CreateAliasInput) { in.RoutingConfig = weights("2", -1) },
			validation, valid(at, "'{2=-1.0}'", range1), 400,
		},
		"the same version twice": {
			func(in *lambda.CreateAliasInput) { in.RoutingConfig = weights("1", 0.5) },
			invalidValue, "Invalid function version 1. Function version 1 is already included in routing configuration.", 400,
		},
		"another version that is not there": {
			func(in *lambda.CreateAliasInput) { in.RoutingConfig = weights("10", 0.5) },
			missing, "Function not found: " + functionBase + "f:10", 404,
		},
		"$LATEST beside a version": {
			func(in *lambda.CreateAliasInput) { in.RoutingConfig = weights("$LATEST", 0.5) },
			validation, valid(at, "'{$LATEST=0.5}'", "Map keys must satisfy constraint: [Member must have length less than or equal to "+
				"1024, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+]"), 400,
		},
		"a version beside $LATEST": {
			func(in *lambda.CreateAliasInput) {
				in.FunctionVersion, in.RoutingConfig = aws.String("$LATEST"), weights("1", 0.5)
			},
			invalidValue, "$LATEST is not supported for an alias pointing to more than 1 version", 400,
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := &lambda.CreateAliasInput{FunctionName: aws.String("f"), Name: aws.String("new"), FunctionVersion: aws.String("1")}
			c.change(in)
			refused(t, second(s.CreateAlias(t.Context(), in)), c.code, c.status, c.message)
		})
	}
}

func TestChangesOfAliasesAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(2)
	s.withAlias()
	ctx, f, live := t.Context(), aws.String("f"), aws.String("live")
	update := func(in lambda.UpdateAliasInput) error {
		in.FunctionName = f
		if in.Name == nil {
			in.Name = live
		}
		return second(s.UpdateAlias(ctx, &in))
	}
	refused(t, update(lambda.UpdateAliasInput{Name: aws.String("none")}), missing, 404, "Alias not found: "+functionBase+"f:none")
	refused(t, update(lambda.UpdateAliasInput{RevisionId: aws.String("wrong")}), precondition, 412,
		"The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id")
	refused(t, update(lambda.UpdateAliasInput{FunctionVersion: aws.String("7")}), missing, 404, "Function not found: "+functionBase+"f:7")
	if err := update(lambda.UpdateAliasInput{RoutingConfig: weights("2", 1)}); err != nil {
		t.Error(err)
	}
	refused(t, update(lambda.UpdateAliasInput{FunctionVersion: aws.String("2")}), invalidValue, 400,
		"Invalid function version 2. Function version 2 is already included in routing configuration.")
	refused(t, second(s.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: aws.String("g"), Name: live})), missing, 404,
		"Function not found: "+functionBase+"g")
	refused(t, second(s.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: aws.String("g"), Name: live})), missing, 404,
		"Function not found: "+functionBase+"g")
}

func TestAVersionWithAliasesStays(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(2)
	s.withAlias()
	ctx, f := t.Context(), aws.String("f")
	must[*lambda.CreateAliasOutput](t)(s.CreateAlias(ctx, &lambda.CreateAliasInput{
		FunctionName: f, Name: aws.String("canary"), FunctionVersion: aws.String("2"), RoutingConfig: weights("1", 0.5),
	}))
	drop := func(version string) error {
		return second(s.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: f, Qualifier: &version}))
	}
	refused(t, drop("1"), conflicting, 409, "Unable to delete version because the following aliases reference it: [canary, live]")
	refused(t, drop("2"), conflicting, 409, "Unable to delete version because the following aliases reference it: [canary]")
	for _, name := range []string{"canary", "live"} {
		must[*lambda.DeleteAliasOutput](t)(s.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: f, Name: &name}))
	}
	if err := drop("2"); err != nil {
		t.Error(err)
	}
	refused(t, second(s.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: f, Name: aws.String("late"), FunctionVersion: aws.String("2")})),
		conflicting, 409, deletingMessage)
}

func TestAliasesAreListedInPages(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withVersions(2)
	ctx, f := t.Context(), aws.String("f")
	for name, version := range map[string]string{"a": "1", "b": "2", "b-c": "1", "d": "1", "e": "2"} {
		must[*lambda.CreateAliasOutput](t)(s.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: f, Name: &name, FunctionVersion: &version}))
	}
	var pages [][]string
	for p := lambda.NewListAliasesPaginator(s.Client, &lambda.ListAliasesInput{FunctionName: f, MaxItems: aws.Int32(2)}); p.HasMorePages() && len(pages) < 9; {
		out := must[*lambda.ListAliasesOutput](t)(p.NextPage(ctx))
		pages = append(pages, aliasNames(out.Aliases))
		// What is deleted was listed already.
		must[*lambda.DeleteAliasOutput](t)(s.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: f, Name: out.Aliases[len(out.Aliases)-1].Name}))
	}
	if diff := cmp.Diff([][]string{{"a", "b"}, {"b-c", "d"}, {"e"}}, pages); diff != "" {
		t.Error(diff)
	}
	out := must[*lambda.ListAliasesOutput](t)(s.ListAliases(ctx, &lambda.ListAliasesInput{FunctionName: f, FunctionVersion: aws.String("1")}))
	if names := aliasNames(out.Aliases); !slices.Equal(names, []string{"a", "b-c"}) {
		t.Errorf("version 1 has the aliases %v", names)
	}
	refused(t, second(s.ListAliases(ctx, &lambda.ListAliasesInput{FunctionName: f, MaxItems: aws.Int32(10001)})), validation, 400,
		valid("maxItems", "'10001'", "Member must have value less than or equal to 10000"))
}

func aliasNames(aliases []types.AliasConfiguration) (names []string) {
	for _, a := range aliases {
		names = append(names, *a.Name)
	}
	return names
}

// TestAMarkerOfNobodyIsRefusedByEveryList asks every list there is.
func TestAMarkerOfNobodyIsRefusedByEveryList(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	labels := strings.NewReplacer("{FunctionName}", "f", "{CapacityProviderName}", "pool", "{LayerName}", "l")
	asked := 0
	for _, op := range lambdaapi.Operations() {
		served := op.State == lambdaapi.Works || op.State == lambdaapi.StoredOnly
		if !served || !strings.HasPrefix(op.Name, "List") || op.Name == "ListTags" { // tags come all at once
			continue
		}
		asked++
		t.Run(op.Name, func(t *testing.T) {
			for query, want := range map[string]string{
				"Marker=garbage": "Invalid value for marker: garbage", "MaxItems=0": valid("maxItems", "'0'", "Member must have value greater than or equal to 1"),
			} {
				path, more, _ := strings.Cut(labels.Replace(op.Path), "?")
				w, body := s.send(op.Method, path+"?"+query+"&"+more, http.NoBody)
				if w.StatusCode != http.StatusBadRequest || !strings.Contains(body, want) {
					t.Errorf("%s: %d %s; want %s", query, w.StatusCode, body, want)
				}
			}
		})
	}
	if asked < 6 {
		t.Errorf("only %d lists were asked", asked)
	}
}
