package lambdaapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// source is where a request says the code is.
type source struct {
	zip                  []byte
	bucket, key, version string
	image                string
	mode                 types.S3ObjectStorageMode
}

func createSource(in *types.FunctionCode) source {
	return source{
		zip: in.ZipFile, bucket: deref(in.S3Bucket), key: deref(in.S3Key), version: deref(in.S3ObjectVersion),
		image: deref(in.ImageUri), mode: in.S3ObjectStorageMode,
	}
}

func updateSource(in *lambda.UpdateFunctionCodeInput) source {
	return source{
		zip: in.ZipFile, bucket: deref(in.S3Bucket), key: deref(in.S3Key), version: deref(in.S3ObjectVersion),
		image: deref(in.ImageUri), mode: in.S3ObjectStorageMode,
	}
}

// check wants exactly one source, of the package type. doing is "creating" or
// "updating".
func (from *source) check(kind, doing string) error {
	switch {
	case kind == string(types.PackageTypeImage) && from.image == "":
		return invalidParameter("Please provide ImageUri when %s a function with packageType Image.", doing)
	case kind == string(types.PackageTypeZip) && from.image != "":
		return invalidParameter("Please don't provide ImageUri when %s a function with packageType Zip.", doing)
	case from.mode == types.S3ObjectStorageModeReference:
		return invalidParameter("S3ObjectStorageMode REFERENCE is not available in this service. Use COPY.")
	case from.image != "" && (from.object() || len(from.zip) > 0):
		return invalidParameter("Please do not provide other FunctionCode parameters when providing an ImageUri.")
	case from.image != "":
		return nil
	}
	return from.checkArchive()
}

func (from *source) checkArchive() error {
	switch {
	case len(from.zip) > 0 && from.object():
		return invalidParameter("Please do not provide other FunctionCode parameters when providing a ZipFile.")
	case len(from.zip) == 0 && (from.bucket == "" || from.key == ""):
		return invalidParameter("Please provide a source for function code.")
	}
	return nil
}

// object reports whether the source is, or was meant to be, in a bucket.
func (from *source) object() bool { return from.bucket != "" || from.key != "" || from.version != "" }

// keepCode checks the code and keeps it.
func (s *Server) keepCode(ctx context.Context, from source, kind, doing string) (controlplane.Code, error) {
	done, err := s.turn(ctx, from)
	if err != nil {
		return controlplane.Code{}, err
	}
	defer done()
	code, archive, err := s.readCode(ctx, from, kind, doing)
	if err != nil || archive == nil {
		return code, err
	}
	sha, size, err := s.cfg.Artifacts.Put(ctx, archive)
	if err != nil {
		return code, err
	}
	code.SHA256, code.Size = sha, controlplane.Bytes(size)
	return code, nil
}

// turnLimit is how long a request waits for those that read from buckets.
const turnLimit = 10 * time.Second

// turn makes requests with code in S3 wait for each other: the archive of each
// is kept in memory, and not counted as a body. A bucket that hangs makes the
// others come again later.
func (s *Server) turn(ctx context.Context, from source) (done func(), err error) {
	if !from.object() {
		return func() {}, nil
	}
	late := time.NewTimer(turnLimit)
	defer late.Stop()
	select {
	case s.fetching <- struct{}{}:
		return func() { <-s.fetching }, nil
	case <-late.C:
		return nil, &exception{
			name: "TooManyRequestsException", status: http.StatusTooManyRequests, retryAfter: turnLimit,
			reason:  string(types.ThrottleReasonCallerRateLimitExceeded),
			message: "Rate Exceeded: the service is still fetching code from S3 for other requests.",
		}
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting to fetch code: %w", context.Cause(ctx))
	}
}

// readCode checks the code. It returns that of an image, or the archive, whose
// name is not worked out before it is kept.
func (s *Server) readCode(ctx context.Context, from source, kind, doing string) (code controlplane.Code, archive []byte, err error) {
	if err := from.check(kind, doing); err != nil {
		return code, nil, err
	}
	if from.image != "" {
		code, err = s.resolve(ctx, from.image)
		return code, nil, err
	}
	archive, err = s.fetch(ctx, from)
	if err != nil {
		return code, nil, err
	}
	unpacked, err := checkArchive(archive)
	if err != nil {
		return code, nil, err
	}
	return controlplane.Code{Unpacked: controlplane.Bytes(unpacked)}, archive, nil
}

// fetchLimit bounds how long one may read from a bucket, which nobody else does
// meanwhile.
const fetchLimit = time.Minute

var errBucketTooSlow = errors.New("the bucket takes too long")

// fetch returns the archive, as it was sent or from the bucket where it is.
func (s *Server) fetch(ctx context.Context, from source) ([]byte, error) {
	if len(from.zip) > maxZip {
		return nil, invalidParameter("Zipped size must be smaller than %d bytes", maxZip)
	}
	if len(from.zip) > 0 {
		return from.zip, nil
	}
	if s.cfg.Buckets == nil {
		return nil, invalidParameter("Code in S3 is not available in this service. Send it in ZipFile.")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, fetchLimit, errBucketTooSlow)
	defer cancel()
	archive, err := s.cfg.Buckets.Read(ctx, controlplane.Object{Bucket: from.bucket, Key: from.key, Version: from.version}, maxUnzipped)
	if e, ok := errors.AsType[*controlplane.ObjectError](err); ok {
		return nil, objectException(e)
	}
	return archive, err
}

func objectException(e *controlplane.ObjectError) error {
	switch e.Code {
	case controlplane.ObjectTooLarge:
		return invalidParameter("Unzipped size must be smaller than %d bytes", maxUnzipped)
	case "AccessDenied":
		return &exception{name: "AccessDeniedException", status: http.StatusForbidden, message: fmt.Sprintf(
			"Your access has been denied by S3, please make sure your request credentials have permission to GetObject for %s/%s. "+
				"S3 Error Code: %s. S3 Error Message: %s", e.Object.Bucket, e.Object.Key, e.Code, e.Message)}
	}
	return invalidParameter("Error occurred while GetObject. S3 Error Code: %s. S3 Error Message: %s", e.Code, e.Message)
}

// checkObject checks where code in S3 is said to be.
func checkObject(c *constraints, at string, bucket, key, version *string) {
	c.text(at+"s3Bucket", bucket, 3, 63, bucketPattern, bucketText)
	c.text(at+"s3Key", key, 1, 1024, nil, "")
	c.text(at+"s3ObjectVersion", version, 1, 1024, nil, "")
}

// AWS's pattern of bucket names, and what of it RE2 can say: the rest is that
// the last character is no dot.
const bucketText = `[0-9A-Za-z\.\-_]*(?<!\.)`

var bucketPattern = regexp.MustCompile(`^[0-9A-Za-z.\-_]*[0-9A-Za-z\-_]$`)

func (s *Server) updateFunctionCode(ctx context.Context, in *lambda.UpdateFunctionCodeInput,
) (*types.FunctionConfiguration, error) {
	ref, err := s.checkCodeUpdate(in)
	if err != nil {
		return nil, err
	}
	f, err := s.readForCode(ctx, ref, in)
	if err != nil {
		return nil, err
	}
	if in.DryRun {
		return s.dryUpdateCode(ctx, in, f)
	}
	code, err := s.keepCode(ctx, updateSource(in), f.Latest.Config.PackageType, "updating")
	if err != nil {
		return nil, err
	}
	p := s.publication(in.Publish, in.PublishTo, nil)
	change := newChange()
	var v *controlplane.Version
	err = s.update(ctx, func(w store.Writer) (err error) {
		if f, err = s.editable(w, ref, in.RevisionId); err != nil {
			return err
		}
		next := recoded(f, in, code)
		if err := change.apply(f, next); err != nil {
			return err
		}
		if p.to != toNothing || len(in.Architectures) > 0 {
			if err := s.attach(w, f); err != nil {
				return err
			}
		}
		if v, err = p.publish(w, f); err != nil {
			return err
		}
		return w.PutFunction(*f)
	})
	if err != nil {
		return nil, err
	}
	return s.describe(f, v, v.ARN), nil
}

// readForCode reads the function whose code is to change: what would be refused
// in the end is refused before the code is read.
func (s *Server) readForCode(ctx context.Context, ref reference, in *lambda.UpdateFunctionCodeInput) (f *controlplane.Function, err error) {
	err = s.cfg.DB.View(ctx, func(r store.Reader) error {
		if f, err = s.editable(r, ref, in.RevisionId); err != nil || in.DryRun {
			return err
		}
		return settled(f)
	})
	return f, err
}

// recoded is $LATEST of f with the code and architecture asked for.
func recoded(f *controlplane.Function, in *lambda.UpdateFunctionCodeInput, code controlplane.Code) controlplane.Version {
	next := f.Latest
	next.Code = code
	if len(in.Architectures) > 0 {
		next.Config.Architecture = string(in.Architectures[0])
	}
	return next
}

func (s *Server) checkCodeUpdate(in *lambda.UpdateFunctionCodeInput) (reference, error) {
	var c constraints
	enum(&c, "publishTo", in.PublishTo, in.PublishTo.Values())
	checkObject(&c, "", in.S3Bucket, in.S3Key, in.S3ObjectVersion)
	enum(&c, "s3ObjectStorageMode", in.S3ObjectStorageMode, in.S3ObjectStorageMode.Values())
	length(&c, "architectures", in.Architectures, 1, 1)
	for _, a := range in.Architectures {
		enum(&c, "architectures", a, a.Values())
	}
	if err := c.err(); err != nil {
		return reference{}, err
	}
	if deref(in.SourceKMSKeyArn) != "" {
		return reference{}, invalidParameter("SourceKMSKeyArn is not available in this service.")
	}
	return s.unqualified(in.FunctionName)
}

// dryUpdateCode says what an update would make and keeps nothing.
func (s *Server) dryUpdateCode(ctx context.Context, in *lambda.UpdateFunctionCodeInput, f *controlplane.Function,
) (*types.FunctionConfiguration, error) {
	from := updateSource(in)
	done, err := s.turn(ctx, from)
	if err != nil {
		return nil, err
	}
	defer done()
	code, archive, err := s.readCode(ctx, from, f.Latest.Config.PackageType, "updating")
	if err != nil {
		return nil, err
	}
	if archive != nil {
		sum := sha256.Sum256(archive)
		code.SHA256, code.Size = hex.EncodeToString(sum[:]), controlplane.Bytes(len(archive))
	}
	f.Latest = recoded(f, in, code)
	if err := fits(&f.Latest); err != nil {
		return nil, err
	}
	if s.publication(in.Publish, in.PublishTo, nil).to != toNothing || len(in.Architectures) > 0 {
		err = s.cfg.DB.View(ctx, func(r store.Reader) error { return s.attach(r, f) })
		if err != nil {
			return nil, err
		}
	}
	return s.describe(f, &f.Latest, f.ARN), nil
}
