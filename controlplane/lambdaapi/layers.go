package lambdaapi

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// The patterns of AWS's service model for layers.
const (
	layerNameText    = `(arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+`
	layerVersionText = `arn:[a-zA-Z0-9-]+:lambda:[a-zA-Z0-9-]+:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+`
)

var (
	layerNamePattern    = regexp.MustCompile(`^(?:` + layerNameText + `)$`)
	layerVersionPattern = regexp.MustCompile(`^(?:` + layerVersionText + `)$`)
)

// maxLayerARN is how long the service lets ARNs of layers be; its model says 140.
const maxLayerARN = 2048

// layer reads a layer's name or ARN.
func (s *Server) layer(name *string) (controlplane.LayerName, error) {
	var c constraints
	c.required("layerName", name != nil)
	c.text("layerName", name, 1, 140, layerNamePattern, layerNameText)
	if err := c.err(); err != nil {
		return "", err
	}
	if !strings.Contains(*name, ":") {
		return controlplane.LayerName(*name), nil
	}
	at := strings.LastIndex(*name, ":") + 1
	if *name != s.layerARN(controlplane.LayerName((*name)[at:])) {
		return "", s.foreignLayer(*name)
	}
	return controlplane.LayerName((*name)[at:]), nil
}

// layerVersion reads a layer's name or ARN and the number of a version.
func (s *Server) layerVersion(name *string, number *int64) (layerRef, error) {
	layer, err := s.layer(name)
	if err != nil {
		return layerRef{}, err
	}
	if number == nil || *number < 1 {
		return layerRef{}, invalidParameter("Layer Version Cannot be less than 1")
	}
	return layerRef{layer, *number}, nil
}

// layerRef is a layer version as a caller names it.
type layerRef struct {
	layer  controlplane.LayerName
	number int64
}

// layerRefOf reads the ARN of a layer version, which fits layerVersionPattern.
func (s *Server) layerRefOf(arn string) (layerRef, error) {
	at := strings.LastIndex(arn, ":")
	layerARN := arn[:at]
	name := controlplane.LayerName(layerARN[strings.LastIndex(layerARN, ":")+1:])
	number, err := strconv.ParseInt(arn[at+1:], 10, 64)
	switch {
	case layerARN != s.layerARN(name):
		return layerRef{}, s.foreignLayer(arn)
	case err != nil:
		number = math.MaxInt64 // no layer has as many versions
	}
	return layerRef{name, number}, nil
}

// foreignLayer is the error about a layer of another account or region: its
// archive is not here, and nobody could fetch it without AWS.
func (s *Server) foreignLayer(arn string) error {
	part := strings.Split(arn, ":")
	if part[4] == s.cfg.AccountID && part[3] != s.cfg.Region {
		return invalidParameter("Layers are not in the same region as the function. Layers are expected to be in region %s.", s.cfg.Region)
	}
	return &exception{name: "AccessDeniedException", status: http.StatusForbidden, message: fmt.Sprintf(
		"You are not authorized to perform: lambda:GetLayerVersion on resource: %s. Layers of other accounts are not available "+
			"in this service: publish the archive as a layer of account %s.", arn, s.cfg.AccountID)}
}

func (s *Server) layerARN(name controlplane.LayerName) string { return s.arn("layer", string(name)) }

func (s *Server) layerVersionARN(ref layerRef) string {
	return s.layerARN(ref.layer) + ":" + strconv.FormatInt(ref.number, 10)
}

func checkLayerVersion(in *lambda.PublishLayerVersionInput) error {
	var c constraints
	c.required("content", in.Content != nil)
	c.text("description", in.Description, 0, 256, nil, "")
	c.text("licenseInfo", in.LicenseInfo, 0, 512, nil, "")
	length(&c, "compatibleRuntimes", in.CompatibleRuntimes, 0, 15)
	enums(&c, "compatibleRuntimes", in.CompatibleRuntimes, types.Runtime("").Values())
	length(&c, "compatibleArchitectures", in.CompatibleArchitectures, 0, 2)
	enums(&c, "compatibleArchitectures", in.CompatibleArchitectures, types.Architecture("").Values())
	if in.Content != nil {
		checkObject(&c, "content.", in.Content.S3Bucket, in.Content.S3Key, in.Content.S3ObjectVersion)
		enum(&c, "content.s3ObjectStorageMode", in.Content.S3ObjectStorageMode, in.Content.S3ObjectStorageMode.Values())
	}
	return c.err()
}

func layerSource(in *types.LayerVersionContentInput) source {
	return source{
		zip: in.ZipFile, bucket: deref(in.S3Bucket), key: deref(in.S3Key), version: deref(in.S3ObjectVersion), mode: in.S3ObjectStorageMode,
	}
}

func (s *Server) publishLayerVersion(ctx context.Context, in *lambda.PublishLayerVersionInput) (*lambda.PublishLayerVersionOutput, error) {
	name, err := s.layer(in.LayerName)
	if err != nil {
		return nil, err
	}
	if err := checkLayerVersion(in); err != nil {
		return nil, err
	}
	code, err := s.keepCode(ctx, layerSource(in.Content), string(types.PackageTypeZip), "publishing")
	if err != nil {
		return nil, err
	}
	v := controlplane.LayerVersion{
		Layer: name, Code: code, Description: deref(in.Description), LicenseInfo: deref(in.LicenseInfo),
		Runtimes: texts(in.CompatibleRuntimes), Architectures: texts(in.CompatibleArchitectures), CreatedAt: time.Now().UTC(),
	}
	err = s.update(ctx, func(w store.Writer) error {
		l, err := w.Layer(name)
		if errdefs.IsNotFound(err) {
			l, err = controlplane.Layer{Name: name, NextNumber: 1}, nil
		}
		if err != nil {
			return err
		}
		v.Number = l.NextNumber
		v.ARN = s.layerVersionARN(layerRef{name, v.Number})
		l.NextNumber++
		if err := w.PutLayer(l); err != nil {
			return err
		}
		return w.PutLayerVersion(v)
	})
	if err != nil {
		return nil, err
	}
	return new(lambda.PublishLayerVersionOutput(*s.describeLayerVersion(ctx, &v))), nil
}

// describeLayerVersion is a version on the wire.
func (s *Server) describeLayerVersion(ctx context.Context, v *controlplane.LayerVersion) *lambda.GetLayerVersionOutput {
	return &lambda.GetLayerVersionOutput{
		Content: &types.LayerVersionContentOutput{
			CodeSha256: codeDigest(&v.Code), CodeSize: int64(v.Code.Size), Location: s.location(ctx, v.Code.SHA256),
		},
		LayerArn: new(s.layerARN(v.Layer)), LayerVersionArn: &v.ARN, Version: v.Number, CreatedDate: stamp(v.CreatedAt),
		Description: &v.Description, LicenseInfo: optional(v.LicenseInfo),
		CompatibleRuntimes: as[types.Runtime](v.Runtimes), CompatibleArchitectures: as[types.Architecture](v.Architectures),
	}
}

func listedLayerVersion(v *controlplane.LayerVersion) *types.LayerVersionsListItem {
	return &types.LayerVersionsListItem{
		LayerVersionArn: &v.ARN, Version: v.Number, CreatedDate: stamp(v.CreatedAt), Description: &v.Description, LicenseInfo: optional(v.LicenseInfo),
		CompatibleRuntimes: as[types.Runtime](v.Runtimes), CompatibleArchitectures: as[types.Architecture](v.Architectures),
	}
}

func (s *Server) getLayerVersion(ctx context.Context, in *lambda.GetLayerVersionInput) (*lambda.GetLayerVersionOutput, error) {
	ref, err := s.layerVersion(in.LayerName, in.VersionNumber)
	if err != nil {
		return nil, err
	}
	return s.findLayerVersion(ctx, ref)
}

func (s *Server) getLayerVersionByARN(ctx context.Context, in *lambda.GetLayerVersionByArnInput) (*lambda.GetLayerVersionByArnOutput, error) {
	var c constraints
	c.required("arn", in.Arn != nil)
	c.text("arn", in.Arn, 1, maxLayerARN, layerVersionPattern, layerVersionText)
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.layerRefOf(*in.Arn)
	if err != nil {
		return nil, err
	}
	out, err := s.findLayerVersion(ctx, ref)
	if err != nil {
		return nil, err
	}
	return new(lambda.GetLayerVersionByArnOutput(*out)), nil
}

func (s *Server) findLayerVersion(ctx context.Context, ref layerRef) (*lambda.GetLayerVersionOutput, error) {
	var v controlplane.LayerVersion
	err := s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		v, err = r.LayerVersion(ref.layer, ref.number)
		return err
	})
	if err != nil {
		return nil, unlessMissing(err, "The resource you requested does not exist.")
	}
	return s.describeLayerVersion(ctx, &v), nil
}

// deleteLayerVersion also accepts versions that are not there. Functions that
// use one keep it.
func (s *Server) deleteLayerVersion(ctx context.Context, in *lambda.DeleteLayerVersionInput) error {
	ref, err := s.layerVersion(in.LayerName, in.VersionNumber)
	if err != nil {
		return err
	}
	return s.update(ctx, func(w store.Writer) error { return w.DeleteLayerVersion(ref.layer, ref.number) })
}

// layerFilter is what a listed version must say it is for.
type layerFilter struct {
	runtime      types.Runtime
	architecture types.Architecture
}

func (f layerFilter) check(c *constraints, maxItems *int32) {
	between(c, "maxItems", maxItems, 1, 50)
	enum(c, "compatibleRuntime", f.runtime, f.runtime.Values())
	enum(c, "compatibleArchitecture", f.architecture, f.architecture.Values())
}

func (f layerFilter) matches(v *controlplane.LayerVersion) bool {
	return (f.runtime == "" || slices.Contains(v.Runtimes, string(f.runtime))) &&
		(f.architecture == "" || slices.Contains(v.Architectures, string(f.architecture)))
}

func (s *Server) listLayers(ctx context.Context, in *lambda.ListLayersInput) (*lambda.ListLayersOutput, error) {
	filter := layerFilter{in.CompatibleRuntime, in.CompatibleArchitecture}
	var c constraints
	filter.check(&c, in.MaxItems)
	if err := c.err(); err != nil {
		return nil, err
	}
	versions, err := s.readLayerVersions(ctx, "", filter)
	if err != nil {
		return nil, err
	}
	var all []types.LayersListItem
	for i := range versions {
		v := &versions[i]
		item := types.LayersListItem{
			LayerName: new(string(v.Layer)), LayerArn: new(s.layerARN(v.Layer)), LatestMatchingVersion: listedLayerVersion(v),
		}
		if n := len(all); n > 0 && *all[n-1].LayerName == *item.LayerName {
			all[n-1] = item // numbers ascend
			continue
		}
		all = append(all, item)
	}
	some, next, err := page(all, func(l types.LayersListItem) string { return *l.LayerName }, in.Marker, in.MaxItems, 50)
	if err != nil {
		return nil, err
	}
	return &lambda.ListLayersOutput{Layers: orNone(some), NextMarker: next}, nil
}

// listLayerVersions lists the newest first. A layer that is not there has none.
func (s *Server) listLayerVersions(ctx context.Context, in *lambda.ListLayerVersionsInput) (*lambda.ListLayerVersionsOutput, error) {
	name, err := s.layer(in.LayerName)
	if err != nil {
		return nil, err
	}
	filter := layerFilter{in.CompatibleRuntime, in.CompatibleArchitecture}
	var c constraints
	filter.check(&c, in.MaxItems)
	if err := c.err(); err != nil {
		return nil, err
	}
	versions, err := s.readLayerVersions(ctx, name, filter)
	if err != nil {
		return nil, err
	}
	slices.Reverse(versions)
	key := func(v controlplane.LayerVersion) string { return fmt.Sprintf("%019d", math.MaxInt64-v.Number) }
	some, next, err := page(versions, key, in.Marker, in.MaxItems, 50)
	if err != nil {
		return nil, err
	}
	out := &lambda.ListLayerVersionsOutput{LayerVersions: make([]types.LayerVersionsListItem, 0, len(some)), NextMarker: next}
	for i := range some {
		out.LayerVersions = append(out.LayerVersions, *listedLayerVersion(&some[i]))
	}
	return out, nil
}

// readLayerVersions reads the versions of a layer, or of all, that match.
func (s *Server) readLayerVersions(ctx context.Context, name controlplane.LayerName, f layerFilter) (versions []controlplane.LayerVersion, err error) {
	err = s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		versions, err = r.LayerVersions(name)
		return err
	})
	return slices.DeleteFunc(versions, func(v controlplane.LayerVersion) bool { return !f.matches(&v) }), err
}

// texts and as are lists of enums as strings, and back.
func texts[E ~string](list []E) (out []string) {
	for _, e := range list {
		out = append(out, string(e))
	}
	return out
}

func as[E ~string](list []string) (out []E) {
	for _, e := range list {
		out = append(out, E(e))
	}
	return out
}

func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
