package lambdaapi_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
)

// images knows the digests of some references; "unreachable" are those whose
// registry does not answer.
type images map[string]string

func (i images) Resolve(_ context.Context, ref string) (string, error) {
	if strings.Contains(ref, "unreachable") {
		return "", fmt.Errorf("%s: %w", ref, errdefs.ErrUnavailable)
	}
	resolved, ok := i[ref]
	if !ok {
		return "", fmt.Errorf("%s: %w", ref, errdefs.ErrNotFound)
	}
	return resolved, nil
}

const (
	repository = "123456789012.dkr.ecr.us-east-1.amazonaws.com/team"
	digestOne  = "1111111111111111111111111111111111111111111111111111111111111111"
	digestTwo  = "2222222222222222222222222222222222222222222222222222222222222222"
)

func withImages(c *lambdaapi.Config) {
	c.Images = images{
		repository + ":one": repository + "@sha256:" + digestOne, repository + ":two": repository + "@sha256:" + digestTwo,
	}
}

func imageInput(t testing.TB, name, image string) *lambda.CreateFunctionInput {
	in := functionInput(t, name)
	in.PackageType, in.Runtime, in.Handler, in.Code = "Image", "", nil, &types.FunctionCode{ImageUri: &image}
	return in
}

func TestAFunctionIsMadeOfAnImage(t *testing.T) {
	t.Parallel()
	s, ctx, f := newSystem(t, withImages).withProvider(), t.Context(), aws.String("f")
	in := imageInput(t, "f", repository+":one")
	in.ImageConfig = &types.ImageConfig{
		EntryPoint: []string{"/init"}, Command: []string{"serve", "--now"}, WorkingDirectory: aws.String("/srv"),
	}
	must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, in))
	get := func() *lambda.GetFunctionOutput {
		t.Helper()
		return must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f}))
	}
	got := get()
	same(t, "code", &types.FunctionCodeLocation{
		RepositoryType: aws.String("ECR"), ImageUri: aws.String(repository + ":one"),
		ResolvedImageUri: aws.String(repository + "@sha256:" + digestOne),
	}, got.Code)
	c := got.Configuration
	if c.PackageType != "Image" || c.Runtime != "" || c.Handler != nil || c.CodeSize != 0 || *c.CodeSha256 != digestOne {
		t.Errorf("described as %s %q %v %d %s", c.PackageType, c.Runtime, c.Handler, c.CodeSize, *c.CodeSha256)
	}
	same(t, "overrides", &types.ImageConfigResponse{ImageConfig: in.ImageConfig}, c.ImageConfigResponse)

	must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ImageUri: aws.String(repository + ":two")}))
	if got := get(); *got.Configuration.CodeSha256 != digestTwo || *got.Code.ImageUri != repository+":two" {
		t.Errorf("updated to %s, %s", *got.Code.ImageUri, *got.Configuration.CodeSha256)
	}
	config := func(image *types.ImageConfig) *types.ImageConfigResponse {
		t.Helper()
		return must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(ctx,
			&lambda.UpdateFunctionConfigurationInput{FunctionName: f, ImageConfig: image})).ImageConfigResponse
	}
	same(t, "left alone", &types.ImageConfigResponse{ImageConfig: in.ImageConfig}, config(nil))
	other := &types.ImageConfig{Command: []string{"other"}}
	same(t, "replaced as a whole", &types.ImageConfigResponse{ImageConfig: other}, config(other))
	if got := config(&types.ImageConfig{}); got != nil {
		t.Errorf("emptied: %+v", got)
	}
}

func TestAnImageThatCannotBeResolvedNowIsLeftToAgents(t *testing.T) {
	t.Parallel()
	s := newSystem(t, withImages).withProvider()
	made := must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(t.Context(), imageInput(t, "f", "unreachable.example:5000/team:one")))
	if made.CodeSha256 != nil {
		t.Errorf("digest %s", *made.CodeSha256)
	}
	code := must[*lambda.GetFunctionOutput](t)(s.GetFunction(t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String("f")})).Code
	if *code.ImageUri != "unreachable.example:5000/team:one" || code.ResolvedImageUri != nil {
		t.Errorf("code %+v", code)
	}
	if v := s.publish("", nil); *v.Version != "1" || v.PackageType != "Image" {
		t.Errorf("published %s of %s", *v.Version, v.PackageType)
	}
}

func TestImagesAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, withImages).withFunction(), context.WithoutCancel(t.Context())
	must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, imageInput(t, "image", repository+":one")))
	const invalid = "InvalidParameterValueException"
	const zipOnly = "Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image."
	create := func(change func(*lambda.CreateFunctionInput)) error {
		in := imageInput(t, "g", repository+":one")
		change(in)
		return second(s.CreateFunction(ctx, in))
	}
	for name, c := range map[string]struct {
		err           error
		code, message string
	}{
		"not there": {
			create(func(in *lambda.CreateFunctionInput) { in.Code.ImageUri = aws.String(repository + ":none") }),
			invalid, "Source image " + repository + ":none does not exist. Provide a valid source image.",
		},
		"no reference": {
			create(func(in *lambda.CreateFunctionInput) { in.Code.ImageUri = aws.String("http://x/y") }),
			invalid, "Source image http://x/y is not valid. Provide a valid source image.",
		},
		"a path": {
			create(func(in *lambda.CreateFunctionInput) { in.Code.ImageUri = aws.String("/etc/passwd") }),
			invalid, "Source image /etc/passwd is not valid. Provide a valid source image.",
		},
		"built into agents": {
			create(func(in *lambda.CreateFunctionInput) { in.Code.ImageUri = aws.String("builtin:static") }),
			invalid, "Source image builtin:static is not valid. Provide a valid source image.",
		},
		"an archive of the host": {
			create(func(in *lambda.CreateFunctionInput) { in.Code.ImageUri = aws.String("oci-archive:/x.tar") }),
			invalid, "Source image oci-archive:/x.tar is not valid. Provide a valid source image.",
		},
		"no image": {
			create(func(in *lambda.CreateFunctionInput) { in.Code = &types.FunctionCode{ZipFile: zipOf(t, "x")} }),
			invalid, "Please provide ImageUri when creating a function with packageType Image.",
		},
		"an image and a zip": {
			create(func(in *lambda.CreateFunctionInput) { in.Code.ZipFile = zipOf(t, "x") }),
			invalid, "Please do not provide other FunctionCode parameters when providing an ImageUri.",
		},
		"a handler": {create(func(in *lambda.CreateFunctionInput) { in.Handler = aws.String("x") }), invalid, zipOnly},
		"a runtime": {create(func(in *lambda.CreateFunctionInput) { in.Runtime = "java21" }), invalid, zipOnly},
		"a layer":   {create(func(in *lambda.CreateFunctionInput) { in.Layers = []string{layerBase + "l:1"} }), invalid, zipOnly},
		"a long working directory": {
			create(func(in *lambda.CreateFunctionInput) {
				in.ImageConfig = &types.ImageConfig{WorkingDirectory: aws.String(strings.Repeat("x", 1001))}
			}),
			"ValidationException", valid("imageConfig.workingDirectory", "'"+strings.Repeat("x", 1001)+"'", "Member must have length less than or equal to 1000"),
		},
		"an image for a zip": {
			create(func(in *lambda.CreateFunctionInput) {
				in.PackageType, in.Runtime, in.Handler = "Zip", "java21", aws.String("x")
			}),
			invalid, "Please don't provide ImageUri when creating a function with packageType Zip.",
		},
		"overrides for a zip": {
			second(s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{
				FunctionName: aws.String("f"), ImageConfig: &types.ImageConfig{Command: []string{"x"}},
			})),
			invalid, "Please don't provide ImageConfig when the intended function PackageType is Zip.",
		},
		"a runtime for an image later": {
			second(s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("image"), Runtime: "java21"})),
			invalid, zipOnly,
		},
		"an image for a zip later": {
			second(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ImageUri: aws.String(repository + ":one")})),
			invalid, "Please don't provide ImageUri when updating a function with packageType Zip.",
		},
		"a zip for an image later": {
			second(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("image"), ZipFile: zipOf(t, "x")})),
			invalid, "Please provide ImageUri when updating a function with packageType Image.",
		},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.err, c.code, 400, c.message) })
	}
}
