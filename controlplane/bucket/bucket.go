// Package bucket reads code archives from the buckets that users name: in S3 or
// what speaks its protocol, or in directories.
package bucket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/containerd/errdefs"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	_ "gocloud.dev/blob/s3blob"   // s3://
	"gocloud.dev/gcerrors"

	"github.com/hearth-compute/hearth/controlplane"
)

// Buckets opens buckets by name. It may be used from everywhere at once.
type Buckets struct {
	urls   map[string]string
	region string
}

// New returns Buckets. urls says where buckets are, by name; others are in S3,
// in the region, and read with what credentials AWS's SDK finds.
func New(urls map[string]string, region string) *Buckets {
	return &Buckets{urls: urls, region: region}
}

// Check reports what is wrong with the URL of a bucket. Errors:
// InvalidArgument.
func Check(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !blob.DefaultURLMux().ValidBucketScheme(u.Scheme) {
		return fmt.Errorf("%q is neither file:// nor s3://: %w", text, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Read returns an object whole, the version named or the latest. Errors:
// *controlplane.ObjectError when its store refuses it or has it not, or it is
// larger than limit; Unavailable for everything else.
func (b *Buckets) Read(ctx context.Context, o controlplane.Object, limit int64) (_ []byte, err error) {
	at := "s3://" + o.Bucket + "?region=" + url.QueryEscape(b.region)
	opened, err := blob.OpenBucket(ctx, cmp.Or(b.urls[o.Bucket], at))
	if err != nil {
		return nil, failed(o, err)
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	r, err := opened.NewReader(ctx, o.Key, &blob.ReaderOptions{BeforeRead: version(o.Version)})
	if err != nil {
		return nil, failed(o, err)
	}
	defer func() { _ = r.Close() }() // it was read, or is given up
	if r.Size() > limit {
		return nil, &controlplane.ObjectError{Object: o, Code: controlplane.ObjectTooLarge}
	}
	content := make([]byte, r.Size())
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, failed(o, err)
	}
	return content, nil
}

// version asks for a version; stores without versions have none.
func version(id string) func(as func(any) bool) error {
	return func(as func(any) bool) error {
		var in *s3.GetObjectInput
		switch {
		case id == "":
		case as(&in):
			in.VersionId = &id
		default:
			return &smithy.GenericAPIError{Code: "NoSuchVersion", Message: "The specified version does not exist."}
		}
		return nil
	}
}

// failed says in S3's words why an object could not be read.
func failed(o controlplane.Object, err error) error {
	out := &controlplane.ObjectError{Object: o}
	answer, fromStore := errors.AsType[smithy.APIError](err)
	response, answered := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err)
	switch {
	case fromStore && (!answered || response.HTTPStatusCode() < http.StatusInternalServerError):
		out.Code, out.Message = answer.ErrorCode(), answer.ErrorMessage()
	case errors.Is(err, os.ErrPermission):
		out.Code, out.Message = "AccessDenied", "Access Denied"
	case gcerrors.Code(err) == gcerrors.NotFound:
		out.Code, out.Message = "NoSuchKey", "The specified key does not exist."
	case errors.Is(err, os.ErrNotExist): // of a bucket that cannot be opened
		out.Code, out.Message = "NoSuchBucket", "The specified bucket does not exist"
	default:
		return fmt.Errorf("reading %s from bucket %s: %w: %w", o.Key, o.Bucket, err, errdefs.ErrUnavailable)
	}
	return out
}
