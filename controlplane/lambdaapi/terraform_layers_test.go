package lambdaapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// TestWhatTerraformDoesWithALayerWorks is layer_version.go,
// layer_version_data_source.go and the layers of function.go.
func TestWhatTerraformDoesWithALayerWorks(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil).withFunction(), t.Context()
	s.object("layer.zip", zipOf(t, "layer"))
	in := &lambda.PublishLayerVersionInput{
		LayerName: aws.String("l"), Description: aws.String("text"), LicenseInfo: aws.String("MIT"),
		Content:                 &types.LayerVersionContentInput{S3Bucket: aws.String("code"), S3Key: aws.String("layer.zip")},
		CompatibleArchitectures: []types.Architecture{"x86_64", "arm64"}, CompatibleRuntimes: []types.Runtime{"java21"},
	}
	id := *must[*lambda.PublishLayerVersionOutput](t)(s.PublishLayerVersion(ctx, in)).LayerVersionArn
	name, number := aws.String(strings.Split(id, ":")[6]), aws.Int64(1) // as it parses its id
	out := must[*lambda.GetLayerVersionOutput](t)(s.GetLayerVersion(ctx, &lambda.GetLayerVersionInput{LayerName: name, VersionNumber: number}))
	same(t, "what is kept", []any{
		in.Description, in.LicenseInfo, in.CompatibleArchitectures, in.CompatibleRuntimes, layerBase + "l", id, digest(zipOf(t, "layer")), int64(zipSize),
	}, []any{
		out.Description, out.LicenseInfo, out.CompatibleArchitectures, out.CompatibleRuntimes, *out.LayerArn, *out.LayerVersionArn,
		out.Content.CodeSha256, out.Content.CodeSize,
	})
	listed := must[*lambda.ListLayerVersionsOutput](t)(s.ListLayerVersions(ctx, &lambda.ListLayerVersionsInput{
		LayerName: name, MaxItems: aws.Int32(1), CompatibleRuntime: "java21", CompatibleArchitecture: "arm64",
	}))
	if len(listed.LayerVersions) != 1 || listed.LayerVersions[0].Version != 1 {
		t.Errorf("listed %s", text(t, listed))
	}
	if err := s.setLayers(id); err != nil {
		t.Fatal(err)
	}
	same(t, "layers", []string{id}, s.layersOf(nil))
	s.terraformPermitsLayer(out.LayerArn)
	if err := s.setLayers([]string{}...); err != nil { // the argument was taken out
		t.Fatal(err)
	}
	must[*lambda.DeleteLayerVersionOutput](t)(s.DeleteLayerVersion(ctx, &lambda.DeleteLayerVersionInput{LayerName: name, VersionNumber: number}))
	refused(t, second(s.GetLayerVersion(ctx, &lambda.GetLayerVersionInput{LayerName: name, VersionNumber: number})), missing, 404, "The resource you requested does not exist.")
}

// terraformPermitsLayer is layer_version_permission.go.
func (s *system) terraformPermitsLayer(arn *string) {
	s.t.Helper()
	ctx, id, number := s.t.Context(), aws.String("dev-account"), aws.Int64(1)
	must[*lambda.AddLayerVersionPermissionOutput](s.t)(s.AddLayerVersionPermission(ctx, &lambda.AddLayerVersionPermissionInput{
		LayerName: arn, VersionNumber: number, StatementId: id, Action: aws.String("lambda:GetLayerVersion"), Principal: aws.String("111111111111"),
	}))
	out := must[*lambda.GetLayerVersionPolicyOutput](s.t)(s.GetLayerVersionPolicy(ctx, &lambda.GetLayerVersionPolicyInput{LayerName: arn, VersionNumber: number}))
	var policy struct {
		Statement []struct {
			Sid, Effect, Action string
			Principal           struct{ AWS string }
		}
	}
	if err := json.Unmarshal([]byte(*out.Policy), &policy); err != nil {
		s.t.Fatal(err)
	}
	if p := policy.Statement; len(p) != 1 || p[0].Sid != *id || p[0].Principal.AWS != "arn:aws:iam::111111111111:root" || p[0].Action != "lambda:GetLayerVersion" {
		s.t.Errorf("policy %s", *out.Policy)
	}
	must[*lambda.RemoveLayerVersionPermissionOutput](s.t)(s.RemoveLayerVersionPermission(ctx,
		&lambda.RemoveLayerVersionPermissionInput{LayerName: arn, VersionNumber: number, StatementId: id}))
	refused(s.t, second(s.GetLayerVersionPolicy(ctx, &lambda.GetLayerVersionPolicyInput{LayerName: arn, VersionNumber: number})),
		missing, 404, "No policy is associated with the given resource.")
}

// TestWhatSAMSyncDoesWithALayerWorks is samcli/lib/sync/flows/layer_sync_flow.py:
// the ARN of the layer is its name, the new version is published and takes the
// place of the old one in each function, and the old one is deleted.
func TestWhatSAMSyncDoesWithALayerWorks(t *testing.T) {
	t.Parallel()
	s, ctx, layer, f := newSystem(t, nil).withFunction(), t.Context(), aws.String(layerBase+"l"), aws.String("f")
	s.publishLayer("other", zipOf(t, "other"))
	s.withLayer()
	if err := s.setLayers(layerBase+"other:1", layerBase+"l:1"); err != nil {
		t.Fatal(err)
	}
	old := must[*lambda.ListLayerVersionsOutput](t)(s.ListLayerVersions(ctx, &lambda.ListLayerVersionsInput{LayerName: layer})).LayerVersions[0].Version
	remote := must[*lambda.GetLayerVersionOutput](t)(s.GetLayerVersion(ctx, &lambda.GetLayerVersionInput{LayerName: layer, VersionNumber: &old}))
	same(t, "remote digest", digest(zipOf(t, "layer")), remote.Content.CodeSha256)
	published := must[*lambda.PublishLayerVersionOutput](t)(s.PublishLayerVersion(ctx, &lambda.PublishLayerVersionInput{
		LayerName: layer, Content: &types.LayerVersionContentInput{ZipFile: zipOf(t, "new")}, CompatibleRuntimes: []types.Runtime{"java21"},
	}))
	var arns []string
	for _, l := range must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f})).Configuration.Layers {
		if *l.Arn == *layer+":1" {
			l.Arn = published.LayerVersionArn
		}
		arns = append(arns, *l.Arn)
	}
	if err := s.setLayers(arns...); err != nil {
		t.Fatal(err)
	}
	must[*lambda.DeleteLayerVersionOutput](t)(s.DeleteLayerVersion(ctx, &lambda.DeleteLayerVersionInput{LayerName: layer, VersionNumber: &old}))
	same(t, "layers", []string{layerBase + "other:1", layerBase + "l:2"}, s.layersOf(nil))
}
