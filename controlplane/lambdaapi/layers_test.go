package lambdaapi_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/controlplane/store"
)

const (
	layerBase = "arn:aws:lambda:us-east-1:123456789012:layer:"
	zipSize   = 143 // of zipOf with five bytes in it
)

// withLayer publishes version 1 of the layer "l".
func (s *system) withLayer() *system {
	s.t.Helper()
	s.publishLayer("l", zipOf(s.t, "layer"))
	return s
}

func (s *system) publishLayer(name string, archive []byte) *lambda.PublishLayerVersionOutput {
	s.t.Helper()
	return must[*lambda.PublishLayerVersionOutput](s.t)(s.PublishLayerVersion(s.t.Context(), &lambda.PublishLayerVersionInput{
		LayerName: &name, Content: &types.LayerVersionContentInput{ZipFile: archive},
	}))
}

// layersOf are the layers of a function as the client sees them.
func (s *system) layersOf(qualifier *string) (arns []string) {
	s.t.Helper()
	out := must[*lambda.GetFunctionOutput](s.t)(s.GetFunction(s.t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String("f"), Qualifier: qualifier}))
	for _, l := range out.Configuration.Layers {
		arns = append(arns, *l.Arn)
	}
	return arns
}

func (s *system) setLayers(arns ...string) error {
	s.t.Helper()
	return second(s.UpdateFunctionConfiguration(s.t.Context(), &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("f"), Layers: arns}))
}

func TestLayersArePublishedListedAndDeleted(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil), t.Context()
	archive := zipOf(t, "layer")
	made := must[*lambda.PublishLayerVersionOutput](t)(s.PublishLayerVersion(ctx, &lambda.PublishLayerVersionInput{
		LayerName: aws.String("l"), Content: &types.LayerVersionContentInput{ZipFile: archive}, CompatibleRuntimes: []types.Runtime{"java21"},
	}))
	same(t, "what was published", &lambda.PublishLayerVersionOutput{
		Version: 1, LayerArn: aws.String(layerBase + "l"), LayerVersionArn: aws.String(layerBase + "l:1"), Description: aws.String(""),
		CompatibleRuntimes: []types.Runtime{"java21"}, CreatedDate: made.CreatedDate,
		Content: &types.LayerVersionContentOutput{CodeSha256: digest(archive), CodeSize: int64(len(archive)), Location: made.Content.Location},
	}, made)
	w, body := s.send(http.MethodGet, strings.TrimPrefix(*made.Content.Location, s.url), http.NoBody)
	if w.StatusCode != http.StatusOK || body != string(archive) {
		t.Errorf("the location answers %d with %d bytes", w.StatusCode, len(body))
	}
	s.publishLayer(layerBase+"l", zipOf(t, "two"))
	s.publishLayer("a", archive)
	for _, get := range []func() (any, error){
		func() (any, error) {
			return s.GetLayerVersion(ctx, &lambda.GetLayerVersionInput{LayerName: aws.String(layerBase + "l"), VersionNumber: aws.Int64(1)})
		},
		func() (any, error) {
			return s.GetLayerVersionByArn(ctx, &lambda.GetLayerVersionByArnInput{Arn: made.LayerVersionArn})
		},
	} {
		got, err := get()
		if err != nil || !strings.Contains(text(t, got), `"CodeSha256":"`+*digest(archive)) || !strings.Contains(text(t, got), *made.CreatedDate) {
			t.Errorf("got %s, %v", text(t, got), err)
		}
	}
	same(t, "layers", []string{"a:1", "l:2"}, s.listLayers(""))
	same(t, "layers for java21", []string{"l:1"}, s.listLayers("java21"))
	same(t, "versions", []int64{2, 1}, s.listLayerVersions("l", ""))
	same(t, "versions for java21", []int64{1}, s.listLayerVersions(layerBase+"l", "java21"))
	same(t, "versions of none", []int64(nil), s.listLayerVersions("none", ""))
}

// listLayers asks for one layer at a time.
func (s *system) listLayers(runtime types.Runtime) (names []string) {
	s.t.Helper()
	for p := lambda.NewListLayersPaginator(s, &lambda.ListLayersInput{CompatibleRuntime: runtime, MaxItems: aws.Int32(1)}); p.HasMorePages(); {
		for _, l := range must[*lambda.ListLayersOutput](s.t)(p.NextPage(s.t.Context())).Layers {
			if *l.LayerArn+fmt.Sprintf(":%d", l.LatestMatchingVersion.Version) != *l.LatestMatchingVersion.LayerVersionArn {
				s.t.Errorf("layer %s", text(s.t, l))
			}
			names = append(names, fmt.Sprintf("%s:%d", *l.LayerName, l.LatestMatchingVersion.Version))
		}
	}
	return names
}

func (s *system) listLayerVersions(name string, runtime types.Runtime) (numbers []int64) {
	s.t.Helper()
	in := &lambda.ListLayerVersionsInput{LayerName: &name, CompatibleRuntime: runtime, MaxItems: aws.Int32(1)}
	for p := lambda.NewListLayerVersionsPaginator(s, in); p.HasMorePages(); {
		for _, v := range must[*lambda.ListLayerVersionsOutput](s.t)(p.NextPage(s.t.Context())).LayerVersions {
			numbers = append(numbers, v.Version)
		}
	}
	return numbers
}

func TestALayerComesFromABucket(t *testing.T) {
	t.Parallel()
	objects := &versioned{archive: zipOf(t, "one")}
	s := newSystem(t, func(c *lambdaapi.Config) { c.Buckets = objects })
	out := must[*lambda.PublishLayerVersionOutput](t)(s.PublishLayerVersion(t.Context(), &lambda.PublishLayerVersionInput{
		LayerName: aws.String("l"),
		Content:   &types.LayerVersionContentInput{S3Bucket: aws.String("code"), S3Key: aws.String("k"), S3ObjectVersion: aws.String("v1")},
	}))
	same(t, "objects read", []controlplane.Object{{Bucket: "code", Key: "k", Version: "v1"}}, objects.asked)
	same(t, "digest", digest(objects.archive), out.Content.CodeSha256)
}

func TestNumbersOfLayerVersionsAreNeverGivenTwice(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	for want := int64(1); want <= 3; want++ {
		if got := s.publishLayer("l", zipOf(t, "same")).Version; got != want {
			t.Errorf("version %d, want %d", got, want)
		}
		for range 2 { // the second finds nothing, and is no error
			_, err := s.DeleteLayerVersion(t.Context(), &lambda.DeleteLayerVersionInput{LayerName: aws.String("l"), VersionNumber: &want})
			if err != nil {
				t.Error(err)
			}
		}
		same(t, "layers left", []string(nil), s.listLayers(""))
	}
}

func TestADeletedLayerStaysWithThoseThatUseIt(t *testing.T) {
	t.Parallel()
	s, ctx, f := newSystem(t, nil).withFunction().withLayer(), t.Context(), aws.String("f")
	if err := s.setLayers(layerBase + "l:1"); err != nil {
		t.Fatal(err)
	}
	s.publish("", nil)
	must[*lambda.DeleteLayerVersionOutput](t)(s.DeleteLayerVersion(ctx, &lambda.DeleteLayerVersionInput{LayerName: aws.String("l"), VersionNumber: aws.Int64(1)}))
	refused(t, second(s.GetLayerVersion(ctx, &lambda.GetLayerVersionInput{LayerName: aws.String("l"), VersionNumber: aws.Int64(1)})),
		missing, 404, "The resource you requested does not exist.")
	must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: zipOf(t, "new")}))
	must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: f, Timeout: aws.Int32(9)}))
	s.publish("", nil)
	for _, q := range []*string{nil, aws.String("1"), aws.String("2")} {
		same(t, "layers", []string{layerBase + "l:1"}, s.layersOf(q))
	}
	refused(t, s.setLayers(layerBase+"l:1"), invalidValue, 400, "Layer version "+layerBase+"l:1 does not exist.")
	if err := s.setLayers(); err != nil { // nothing said about layers
		t.Fatal(err)
	}
	same(t, "layers", []string{layerBase + "l:1"}, s.layersOf(nil))
	if err := s.setLayers([]string{}...); err != nil { // none
		t.Fatal(err)
	}
	same(t, "layers", []string(nil), s.layersOf(nil))
	same(t, "layers of version 2", []string{layerBase + "l:1"}, s.layersOf(aws.String("2")))
}

func TestLayersAreKeptInTheirOrder(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withProvider()
	var arns []string
	for _, name := range []string{"e", "b", "d", "a", "c"} {
		arns = append(arns, *s.publishLayer(name, zipOf(t, name)).LayerVersionArn)
	}
	in := functionInput(t, "f")
	in.Layers, in.Publish = arns, true
	made := must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(t.Context(), in))
	if *made.Version != "1" || len(made.Layers) != 5 || made.Layers[0].CodeSize != int64(len(zipOf(t, "e"))) {
		t.Errorf("made %s", text(t, made))
	}
	same(t, "layers", arns, s.layersOf(aws.String("1")))
	slices.Reverse(arns)
	if err := s.setLayers(arns...); err != nil {
		t.Fatal(err)
	}
	s.publish("", nil)
	same(t, "layers of version 2", arns, s.layersOf(aws.String("2")))
	var kept []string
	s.store(func(w store.Writer) error {
		v, err := w.Version("f", "2")
		for _, l := range v.Config.Layers {
			kept = append(kept, l.ARN)
			if l.Code.SHA256 == "" || l.Code.Size == 0 || l.Code.Unpacked != 1 {
				t.Errorf("layer %+v", l)
			}
		}
		return err
	})
	same(t, "layers that run", arns, kept)
}

func TestLayersThatCannotBeUsedAreRefused(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction().withLayer()
	s.publishLayer("l", zipOf(t, "two"))
	var six []string
	for i := range 6 {
		six = append(six, fmt.Sprintf("%sl:%d", layerBase, i))
	}
	const denied = "AccessDeniedException"
	const foreign = "arn:aws:lambda:us-east-1:210987654321:layer:l:1"
	for name, c := range map[string]struct {
		layers        []string
		code, message string
		status        int
	}{
		"no such version":      {[]string{layerBase + "l:9"}, invalidValue, "Layer version " + layerBase + "l:9 does not exist.", 400},
		"a vast version":       {[]string{layerBase + "l:99999999999999999999"}, invalidValue, "Layer version " + layerBase + "l:99999999999999999999 does not exist.", 400},
		"no such layer":        {[]string{layerBase + "x:1"}, invalidValue, "Layer version " + layerBase + "x:1 does not exist.", 400},
		"six":                  {six, invalidValue, "Cannot reference more than 5 layers.", 400},
		"two of one":           {[]string{layerBase + "l:1", layerBase + "l:2"}, invalidValue, "Two different versions of the same layer are not allowed to be referenced in the same function. " + layerBase + "l:1 and " + layerBase + "l:2 are versions of the same layer.", 400},
		"no version":           {[]string{layerBase + "l"}, validation, valid("layers", "'["+layerBase+"l]'", `Member must satisfy constraint: [Member must satisfy regular expression pattern: arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+]`), 400},
		"of another region":    {[]string{strings.Replace(layerBase, "us-east-1", "eu-west-1", 1) + "l:1"}, invalidValue, "Layers are not in the same region as the function. Layers are expected to be in region us-east-1.", 400},
		"of another account":   {[]string{foreign}, denied, "You are not authorized to perform: lambda:GetLayerVersion on resource: " + foreign + ". Layers of other accounts are not available in this service: publish the archive as a layer of account 123456789012.", 403},
		"of another partition": {[]string{strings.Replace(layerBase, "arn:aws:", "arn:aws-cn:", 1) + "l:1"}, denied, "You are not authorized to perform: lambda:GetLayerVersion on resource: arn:aws-cn:lambda:us-east-1:123456789012:layer:l:1. Layers of other accounts are not available in this service: publish the archive as a layer of account 123456789012.", 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused(t, s.setLayers(c.layers...), c.code, c.status, c.message)
			in := functionInput(t, "g")
			in.Layers = c.layers
			refused(t, second(s.CreateFunction(t.Context(), in)), c.code, c.status, c.message)
		})
	}
}

// sized is an archive that unpacks to n bytes. Compressing them all takes the race
// detector minutes: a compressed mebibyte is repeated.
func sized(t *testing.T, n int64) []byte {
	t.Helper()
	zeros := make([]byte, 1<<20)
	var packed bytes.Buffer
	deflate := must[*flate.Writer](t)(flate.NewWriter(&packed, flate.BestSpeed))
	must[int](t)(deflate.Write(zeros))
	if err := deflate.Flush(); err != nil {
		t.Fatal(err)
	}
	whole, sum := bytes.Repeat(packed.Bytes(), int(n>>20)), uint32(0)
	for rest := n; rest > 0; rest -= int64(len(zeros)) {
		sum = crc32.Update(sum, crc32.IEEETable, zeros[:min(rest, int64(len(zeros)))])
	}
	packed.Reset()
	deflate.Reset(&packed)
	must[int](t)(deflate.Write(zeros[:n&(1<<20-1)]))
	if err := deflate.Close(); err != nil {
		t.Fatal(err)
	}
	whole = append(whole, packed.Bytes()...)
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f := must[io.Writer](t)(w.CreateRaw(&zip.FileHeader{
		Name: "zeros", Method: zip.Deflate, CRC32: sum, UncompressedSize64: uint64(n), CompressedSize64: uint64(len(whole)),
	}))
	must[int](t)(f.Write(whole))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCodeAndLayersHaveALimitTogether(t *testing.T) {
	t.Parallel()
	const limit = 262144000
	s, ctx := newSystem(t, nil).withFunction(), t.Context() // 3 bytes
	message := func(n int) string {
		return fmt.Sprintf("Function code combined with layers exceeds the maximum allowed size of 262144000 bytes. The actual size is %d bytes.", n)
	}
	half := sized(t, limit/2)
	one, two := *s.publishLayer("one", half).LayerVersionArn, *s.publishLayer("two", half).LayerVersionArn
	refused(t, s.setLayers(one, two), invalidValue, 400, message(limit+3))
	if err := s.setLayers(one); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		update := func(n int64) error {
			return second(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: sized(t, n), DryRun: dry}))
		}
		refused(t, update(limit/2+1), invalidValue, 400, message(limit+1))
		if err := update(limit / 2); err != nil {
			t.Errorf("exactly the limit: %v", err)
		}
	}
	in := functionInput(t, "g")
	in.Layers = []string{one, two}
	refused(t, second(s.CreateFunction(ctx, in)), invalidValue, 400, message(limit+3))
}

func TestLayersAreRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil), t.Context()
	many := make([]types.Runtime, 16)
	for i := range many {
		many[i] = "java21"
	}
	for name, c := range map[string]struct {
		change        func(*lambda.PublishLayerVersionInput)
		code, message string
	}{
		"a strange name": {
			func(in *lambda.PublishLayerVersionInput) { in.LayerName = aws.String("a.b") }, validation,
			valid("layerName", "'a.b'", `Member must satisfy regular expression pattern: (arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+`),
		},
		"a long description": {
			func(in *lambda.PublishLayerVersionInput) { in.Description = aws.String(strings.Repeat("x", 257)) }, validation,
			valid("description", "'"+strings.Repeat("x", 257)+"'", "Member must have length less than or equal to 256"),
		},
		"a long license": {
			func(in *lambda.PublishLayerVersionInput) { in.LicenseInfo = aws.String(strings.Repeat("x", 513)) }, validation,
			valid("licenseInfo", "'"+strings.Repeat("x", 513)+"'", "Member must have length less than or equal to 512"),
		},
		"16 runtimes": {
			func(in *lambda.PublishLayerVersionInput) { in.CompatibleRuntimes = many }, validation,
			valid("compatibleRuntimes", "'[java21"+strings.Repeat(", java21", 15)+"]'", "Member must have length less than or equal to 15"),
		},
		"an unknown architecture": {
			func(in *lambda.PublishLayerVersionInput) { in.CompatibleArchitectures = []types.Architecture{"z80"} }, validation,
			valid("compatibleArchitectures", "'[z80]'", "Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64]]"),
		},
		"by reference": {
			func(in *lambda.PublishLayerVersionInput) { in.Content.S3ObjectStorageMode = "REFERENCE" }, invalidValue,
			"S3ObjectStorageMode REFERENCE is not available in this service. Use COPY.",
		},
		"nothing": {
			func(in *lambda.PublishLayerVersionInput) { in.Content = &types.LayerVersionContentInput{} }, invalidValue,
			"Please provide a source for function code.",
		},
		"no zip": {
			func(in *lambda.PublishLayerVersionInput) { in.Content.ZipFile = []byte("x") }, invalidValue,
			"Could not unzip uploaded file. Please check your file, then try to upload again.",
		},
	} {
		in := &lambda.PublishLayerVersionInput{LayerName: aws.String("l"), Content: &types.LayerVersionContentInput{ZipFile: zipOf(t, "x")}}
		c.change(in)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused(t, second(s.PublishLayerVersion(ctx, in)), c.code, 400, c.message)
		})
	}
	for _, n := range []int64{0, -1} {
		refused(t, second(s.GetLayerVersion(ctx, &lambda.GetLayerVersionInput{LayerName: aws.String("l"), VersionNumber: &n})), invalidValue, 400, "Layer Version Cannot be less than 1")
		refused(t, second(s.DeleteLayerVersion(ctx, &lambda.DeleteLayerVersionInput{LayerName: aws.String("l"), VersionNumber: &n})), invalidValue, 400, "Layer Version Cannot be less than 1")
	}
}

func TestALayerPolicyGrowsAndShrinks(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil).withLayer(), t.Context()
	permit := func(id, principal string, revision, organization *string) (*lambda.AddLayerVersionPermissionOutput, error) {
		return s.AddLayerVersionPermission(ctx, &lambda.AddLayerVersionPermissionInput{
			LayerName: aws.String(layerBase + "l"), VersionNumber: aws.Int64(1), StatementId: &id, Action: aws.String("lambda:GetLayerVersion"),
			Principal: &principal, RevisionId: revision, OrganizationId: organization,
		})
	}
	get := func() (*lambda.GetLayerVersionPolicyOutput, error) {
		return s.GetLayerVersionPolicy(ctx, &lambda.GetLayerVersionPolicyInput{LayerName: aws.String("l"), VersionNumber: aws.Int64(1)})
	}
	remove := func(id string, revision *string) error {
		return second(s.RemoveLayerVersionPermission(ctx, &lambda.RemoveLayerVersionPermissionInput{
			LayerName: aws.String("l"), VersionNumber: aws.Int64(1), StatementId: &id, RevisionId: revision,
		}))
	}
	refused(t, second(get()), missing, 404, "No policy is associated with the given resource.")
	refused(t, remove("one", nil), missing, 404, "No policy is associated with the given resource.")
	one := must[*lambda.AddLayerVersionPermissionOutput](t)(permit("one", "210987654321", nil, nil))
	same(t, "statement", `{"Sid":"one","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::210987654321:root"},"Action":"lambda:GetLayerVersion","Resource":"`+layerBase+`l:1"}`, *one.Statement)
	two := must[*lambda.AddLayerVersionPermissionOutput](t)(permit("two", "*", one.RevisionId, aws.String("o-0123456789")))
	want := `{"Version":"2012-10-17","Id":"default","Statement":[` + *one.Statement + `,{"Sid":"two","Effect":"Allow","Principal":"*",` +
		`"Action":"lambda:GetLayerVersion","Resource":"` + layerBase + `l:1","Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-0123456789"}}}]}`
	policy := must[*lambda.GetLayerVersionPolicyOutput](t)(get())
	same(t, "policy", want, *policy.Policy)
	same(t, "revision", two.RevisionId, policy.RevisionId)
	const other = "The Revision Id provided does not match the latest Revision Id. Call the GetLayerPolicy API to retrieve the latest Revision Id"
	refused(t, second(permit("three", "*", one.RevisionId, nil)), precondition, 412, other)
	refused(t, second(permit("two", "*", nil, nil)), conflicting, 409, "The statement id (two) provided already exists. Please provide a new statement id, or remove the existing statement.")
	refused(t, second(permit("three", "me", nil, nil)), validation, 400, valid("principal", "'me'", `Member must satisfy regular expression pattern: \d{12}|\*|arn:(aws[a-zA-Z-]*):iam::\d{12}:root`))
	refused(t, remove("two", one.RevisionId), precondition, 412, other)
	refused(t, remove("three", nil), missing, 404, "Statement three is not found in resource policy.")
	for _, id := range []string{"one", "two"} {
		if err := remove(id, nil); err != nil {
			t.Error(err)
		}
	}
	refused(t, second(get()), missing, 404, "No policy is associated with the given resource.")
	_, err := s.GetLayerVersionPolicy(ctx, &lambda.GetLayerVersionPolicyInput{LayerName: aws.String("l"), VersionNumber: aws.Int64(2)})
	refused(t, err, missing, 404, "Layer version "+layerBase+"l:2 does not exist.")
}
