package lambdaapi

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// Bounds of an archive, AWS's.
const (
	maxZip      = 50 << 20
	maxUnzipped = 250 << 20
)

// archive is where a request says the code is.
type archive struct {
	zip    []byte
	bucket *string
	image  *string
	kind   types.PackageType
}

// keepCode checks the code and keeps it.
func (s *Server) keepCode(ctx context.Context, a archive) (controlplane.Code, error) {
	if err := a.check(); err != nil {
		return controlplane.Code{}, err
	}
	sha, size, err := s.cfg.Artifacts.Put(ctx, a.zip)
	if err != nil {
		return controlplane.Code{}, err
	}
	return controlplane.Code{SHA256: sha, Size: controlplane.Bytes(size)}, nil
}

func (a archive) check() error {
	switch {
	case a.kind == types.PackageTypeImage || a.image != nil:
		return invalidParameter("Functions packaged as container images are not available in this service yet. " +
			"Use the package type Zip.")
	case a.bucket != nil:
		return invalidParameter("Code in S3 is not available in this service yet. Send it in ZipFile.")
	case len(a.zip) == 0:
		return invalidParameter("Please provide a source for function code.")
	case len(a.zip) > maxZip:
		return invalidParameter("Zipped size must be smaller than %d bytes", maxZip)
	}
	r, err := zip.NewReader(bytes.NewReader(a.zip), int64(len(a.zip)))
	if err != nil {
		return invalidParameter("Could not unzip uploaded file. Please check your file, then try to upload again.")
	}
	var size uint64
	for _, f := range r.File {
		if f.UncompressedSize64 > math.MaxUint64-size {
			size = math.MaxUint64
			break
		}
		size += f.UncompressedSize64
	}
	if size > maxUnzipped {
		return invalidParameter("Unzipped size must be smaller than %d bytes", maxUnzipped)
	}
	return nil
}

func (s *Server) updateFunctionCode(ctx context.Context, in *lambda.UpdateFunctionCodeInput,
) (*types.FunctionConfiguration, error) {
	ref, err := s.checkCodeUpdate(in)
	if err != nil {
		return nil, err
	}
	a := archive{zip: in.ZipFile, bucket: in.S3Bucket, image: in.ImageUri, kind: types.PackageTypeZip}
	if in.DryRun {
		return s.dryUpdateCode(ctx, in, ref, a)
	}
	code, err := s.keepCode(ctx, a)
	if err != nil {
		return nil, err
	}
	p := s.publication(in.Publish, in.PublishTo, nil)
	change := newChange()
	var f *controlplane.Function
	var v *controlplane.Version
	err = s.update(ctx, func(w store.Writer) (err error) {
		if f, err = s.editable(w, ref, in.RevisionId); err != nil {
			return err
		}
		next := f.Latest
		next.Code = code
		if len(in.Architectures) > 0 {
			next.Config.Architecture = string(in.Architectures[0])
		}
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

func (s *Server) checkCodeUpdate(in *lambda.UpdateFunctionCodeInput) (reference, error) {
	var c constraints
	enum(&c, "publishTo", in.PublishTo, in.PublishTo.Values())
	length(&c, "architectures", in.Architectures, 1, 1)
	for _, a := range in.Architectures {
		enum(&c, "architectures", a, a.Values())
	}
	if err := c.err(); err != nil {
		return reference{}, err
	}
	return s.unqualified(in.FunctionName)
}

// dryUpdateCode says what an update would make and keeps nothing.
func (s *Server) dryUpdateCode(ctx context.Context, in *lambda.UpdateFunctionCodeInput, ref reference, a archive,
) (*types.FunctionConfiguration, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	var f *controlplane.Function
	err := s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		f, err = s.editable(r, ref, in.RevisionId)
		return err
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(a.zip)
	f.Latest.Code = controlplane.Code{SHA256: hex.EncodeToString(sum[:]), Size: controlplane.Bytes(len(a.zip))}
	return s.describe(f, &f.Latest, f.ARN), nil
}
