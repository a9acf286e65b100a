package lambdaapi_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// object puts an object into the bucket "code".
func (s *system) object(key string, content []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.objects, key), content, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func TestCodeComesFromABucket(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil).withProvider(), t.Context()
	s.object("one.zip", zipOf(t, "one"))
	s.object("two.zip", zipOf(t, "two"))
	in := functionInput(t, "f")
	in.Code = &types.FunctionCode{S3Bucket: aws.String("code"), S3Key: aws.String("one.zip")}
	made := must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, in))
	sent := must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(ctx, functionInput(t, "sent")))
	if *made.CodeSha256 != *sent.CodeSha256 || made.CodeSize != sent.CodeSize {
		t.Errorf("code %s of %d bytes, want %s of %d", *made.CodeSha256, made.CodeSize, *sent.CodeSha256, sent.CodeSize)
	}
	for _, dry := range []bool{true, false} {
		updated := must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{
			FunctionName: aws.String("f"), S3Bucket: aws.String("code"), S3Key: aws.String("two.zip"), DryRun: dry,
		}))
		if *updated.CodeSha256 == *made.CodeSha256 {
			t.Errorf("dry run %t: the code is the old one", dry)
		}
	}
}

func TestCodeInBucketsIsRefusedAsAWSDoes(t *testing.T) {
	t.Parallel()
	s, ctx := newSystem(t, nil).withFunction(), context.WithoutCancel(t.Context())
	s.object("text", []byte("no zip"))
	s.object("large", nil)
	if err := os.Truncate(filepath.Join(s.objects, "large"), 250<<20+1); err != nil {
		t.Fatal(err)
	}
	const invalid, getObject = "InvalidParameterValueException", "Error occurred while GetObject. S3 Error Code: "
	for name, c := range map[string]struct {
		bucket, key, version string
		zip                  []byte
		code, message        string
	}{
		"no such key":     {"code", "none", "", nil, invalid, getObject + "NoSuchKey. S3 Error Message: The specified key does not exist."},
		"no such bucket":  {"none", "none", "", nil, invalid, getObject + "NoSuchBucket. S3 Error Message: The specified bucket does not exist"},
		"no such version": {"code", "text", "7", nil, invalid, getObject + "NoSuchVersion. S3 Error Message: The specified version does not exist."},
		"not a zip":       {"code", "text", "", nil, invalid, "Could not unzip uploaded file. Please check your file, then try to upload again."},
		"too large":       {"code", "large", "", nil, invalid, "Unzipped size must be smaller than 262144000 bytes"},
		"no key":          {"code", "", "", nil, invalid, "Please provide a source for function code."},
		"a zip too":       {"code", "text", "", zipOf(t, "x"), invalid, "Please do not provide other FunctionCode parameters when providing a ZipFile."},
		"an odd name": {
			"x?region=y", "text", "", nil, "ValidationException", valid("s3Bucket", "'x?region=y'",
				`Member must satisfy regular expression pattern: [0-9A-Za-z\.\-_]*(?<!\.)`),
		},
		"a long key": {
			"code", strings.Repeat("x", 1025), "", nil, "ValidationException", valid("s3Key", "'"+strings.Repeat("x", 1025)+"'",
				"Member must have length less than or equal to 1024"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), S3Bucket: &c.bucket, ZipFile: c.zip}
			if c.key != "" {
				in.S3Key = &c.key
			}
			if c.version != "" {
				in.S3ObjectVersion = &c.version
			}
			_, err := s.UpdateFunctionCode(ctx, in)
			refused(t, err, c.code, 400, c.message)
		})
	}
}
