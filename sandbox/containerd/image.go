package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/sandbox"
	"github.com/hearth-compute/hearth/sandbox/builtin"
)

const (
	archivePrefix = "oci-archive:"
	builtinPrefix = "builtin:"
	// originLabel says which bytes an imported image came from, so that a changed
	// archive is imported again.
	originLabel = labelPrefix + "origin"
)

// Pull implements sandbox.Runtime. Concurrent calls for one reference with the
// same credentials share the work. An image that is present is not asked for
// again: neither do its tags move nor are credentials checked.
func (d *Driver) Pull(ctx context.Context, image sandbox.Image) (sandbox.ImageConfig, error) {
	key := strings.Join([]string{image.Ref, image.Username, image.Password}, "\x00")
	// The one who does the work may leave while others wait for it.
	work := context.WithoutCancel(d.scope(ctx))
	done := d.pulls.DoChan(key, func() (any, error) { return d.pull(work, image) })
	select {
	case r := <-done:
		if r.Err != nil {
			return sandbox.ImageConfig{}, fmt.Errorf("pulling image %s: %w", image.Ref, d.blame(classifyPull(r.Err)))
		}
		config, _ := r.Val.(sandbox.ImageConfig)
		return config, nil
	case <-ctx.Done():
		return sandbox.ImageConfig{}, fmt.Errorf("pulling image %s: %w", image.Ref, context.Cause(ctx))
	}
}

// pullLimit bounds a pull nobody may be waiting for any more.
const pullLimit = 15 * time.Minute

var errPullTooSlow = errors.New("pulling took too long")

func (d *Driver) pull(ctx context.Context, image sandbox.Image) (sandbox.ImageConfig, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pullLimit, errPullTooSlow)
	defer cancel()
	name, err := imageName(image.Ref)
	if err != nil {
		return sandbox.ImageConfig{}, err
	}
	var img client.Image
	switch {
	case image.Ref == builtin.Static:
		img, err = d.importBuiltin(ctx, name)
	case strings.HasPrefix(image.Ref, archivePrefix):
		img, err = d.importArchive(ctx, name, strings.TrimPrefix(image.Ref, archivePrefix))
	default:
		img, err = d.fromRegistry(ctx, name, image)
	}
	if err != nil {
		return sandbox.ImageConfig{}, err
	}
	known, err := d.facts(ctx, img)
	if err != nil {
		return sandbox.ImageConfig{}, err
	}
	return known.config, d.ensureUnpacked(ctx, img, known.snapshot)
}

// imageFacts are what follows from the digest of an image.
type imageFacts struct {
	config   sandbox.ImageConfig
	snapshot string // of its topmost layer
}

// maxFacts bounds the images remembered.
const maxFacts = 256

// facts reads an image's content, once.
func (d *Driver) facts(ctx context.Context, img client.Image) (imageFacts, error) {
	key := img.Target().Digest.String()
	d.mu.Lock()
	known, ok := d.images[key]
	d.mu.Unlock()
	if ok {
		return known, nil
	}
	config, err := describe(ctx, img)
	if err != nil {
		return imageFacts{}, err
	}
	layers, err := img.RootFS(ctx)
	if err != nil {
		return imageFacts{}, err
	}
	known = imageFacts{config, identity.ChainID(layers).String()}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.images) >= maxFacts {
		clear(d.images)
	}
	d.images[key] = known
	return known, nil
}

// imageName is the name of an image in containerd.
func imageName(ref string) (string, error) {
	switch {
	case ref == builtin.Static:
		return ref, nil
	case strings.HasPrefix(ref, builtinPrefix):
		return "", fmt.Errorf("there is no such built-in image: %w", errdefs.ErrNotFound)
	case strings.HasPrefix(ref, archivePrefix):
		return ref, nil
	}
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	return named.String(), nil
}

// unpacked returns an image that was pulled before, or NotFound.
func (d *Driver) unpacked(ctx context.Context, ref string) (client.Image, error) {
	name, err := imageName(ref)
	if err != nil {
		return nil, err
	}
	img, err := d.client.GetImage(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return img, nil
}

func (d *Driver) fromRegistry(ctx context.Context, name string, image sandbox.Image) (client.Image, error) {
	img, err := d.client.GetImage(ctx, name)
	if err == nil || !errdefs.IsNotFound(err) {
		return img, err
	}
	httpClient := &http.Client{Transport: docker.DefaultHTTPTransport(nil)}
	defer httpClient.CloseIdleConnections()
	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(
			docker.WithPlainHTTP(docker.MatchLocalhost),
			docker.WithClient(httpClient),
			docker.WithAuthorizer(docker.NewDockerAuthorizer(
				docker.WithAuthClient(httpClient),
				docker.WithAuthCreds(func(string) (string, string, error) { return image.Username, image.Password, nil }),
			)),
		),
	})
	return d.client.Pull(ctx, name,
		client.WithResolver(resolver),
		client.WithPlatformMatcher(platforms.Default()),
		client.WithPullUnpack,
		client.WithPullSnapshotter(d.cfg.Snapshotter),
	)
}

func (d *Driver) importBuiltin(ctx context.Context, name string) (client.Image, error) {
	static, err := d.static()
	if err != nil {
		return nil, err
	}
	return d.load(ctx, name, static.digest, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(static.archive)), nil
	})
}

func (d *Driver) importArchive(ctx context.Context, name, file string) (client.Image, error) {
	info, err := os.Stat(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	origin := fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())
	return d.load(ctx, name, origin, func() (io.ReadCloser, error) { return os.Open(file) }) //nolint:gosec // G304: the caller's image
}

// load imports an archive with one image, unless it is there already.
func (d *Driver) load(ctx context.Context, name, origin string, open func() (io.ReadCloser, error)) (client.Image, error) {
	img, err := d.client.GetImage(ctx, name)
	if err == nil && img.Labels()[originLabel] == origin {
		return img, nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	r, err := open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	_, err = d.client.Import(ctx, r,
		client.WithIndexName(name),
		client.WithImageRefTranslator(func(string) string { return "" }),
		client.WithImageLabels(map[string]string{originLabel: origin}),
		client.WithAllPlatforms(true), // describe says what is wrong if ours is missing
	)
	if err != nil {
		return nil, fmt.Errorf("importing: %w", err)
	}
	return d.client.GetImage(ctx, name)
}

func (d *Driver) ensureUnpacked(ctx context.Context, img client.Image, snapshot string) error {
	_, err := d.client.SnapshotService(d.cfg.Snapshotter).Stat(ctx, snapshot)
	if err == nil || !errdefs.IsNotFound(err) {
		return err
	}
	return img.Unpack(ctx, d.cfg.Snapshotter)
}

// describe reads the image's configuration and checks that it is for this
// platform.
func describe(ctx context.Context, img client.Image) (sandbox.ImageConfig, error) {
	manifest, err := images.Manifest(ctx, img.ContentStore(), img.Target(), img.Platform())
	if err != nil {
		return sandbox.ImageConfig{}, noPlatform(err)
	}
	desc, err := manifestDigest(ctx, img)
	if err != nil {
		return sandbox.ImageConfig{}, noPlatform(err)
	}
	blob, err := content.ReadBlob(ctx, img.ContentStore(), manifest.Config)
	if err != nil {
		return sandbox.ImageConfig{}, err
	}
	var c ocispec.Image
	if err := json.Unmarshal(blob, &c); err != nil {
		return sandbox.ImageConfig{}, fmt.Errorf("image configuration: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if c.OS != "" && !img.Platform().Match(platforms.Normalize(c.Platform)) {
		return sandbox.ImageConfig{}, fmt.Errorf("image is for %s: %w", platforms.Format(c.Platform), errdefs.ErrFailedPrecondition)
	}
	return sandbox.ImageConfig{
		Digest: desc, Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Env: c.Config.Env,
		WorkingDir: c.Config.WorkingDir, User: c.Config.User,
	}, nil
}

// manifestDigest is the digest of the manifest for this platform, which is the
// image's target itself or in the index there.
func manifestDigest(ctx context.Context, img client.Image) (string, error) {
	target := img.Target()
	if images.IsManifestType(target.MediaType) {
		return target.Digest.String(), nil
	}
	blob, err := content.ReadBlob(ctx, img.ContentStore(), target)
	if err != nil {
		return "", err
	}
	var index ocispec.Index
	if err := json.Unmarshal(blob, &index); err != nil {
		return "", fmt.Errorf("image index: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return best(index.Manifests, img.Platform())
}

// best returns the digest of the manifest that fits a platform best.
func best(manifests []ocispec.Descriptor, platform platforms.MatchComparer) (string, error) {
	fitting := slices.DeleteFunc(slices.Clone(manifests), func(m ocispec.Descriptor) bool {
		return !images.IsManifestType(m.MediaType) || m.Platform != nil && !platform.Match(*m.Platform)
	})
	if len(fitting) == 0 {
		return "", errdefs.ErrNotFound
	}
	first := slices.MinFunc(fitting, func(a, b ocispec.Descriptor) int {
		if a.Platform != nil && b.Platform != nil && platform.Less(*a.Platform, *b.Platform) {
			return -1
		}
		return 0
	})
	return first.Digest.String(), nil
}

// noPlatform: what is there but has no manifest for us is of no use here.
func noPlatform(err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("image is not for %s: %w", platforms.DefaultString(), errdefs.ErrFailedPrecondition)
	}
	return err
}

// classifyPull gives registry errors their class.
func classifyPull(err error) error {
	var unexpected remoteerrors.ErrUnexpectedStatus
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization), errors.As(err, &unexpected) && unexpected.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", errdefs.ErrUnauthenticated, err)
	case errors.As(err, &unexpected) && unexpected.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: %w", errdefs.ErrPermissionDenied, err)
	case errors.As(err, &unexpected) && unexpected.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	case strings.Contains(err.Error(), "no match for platform"): // containerd has no class for it
		return fmt.Errorf("%w: %v", errdefs.ErrFailedPrecondition, err) //nolint:errorlint // it is NotFound, which would win
	}
	return classify(classifyContent(err))
}

// classifyContent tells images that are broken, which trying again does not help,
// from hosts that are in trouble: containerd has no class for either and tells
// what the kernel said in words only.
func classifyContent(err error) error {
	if errdefs.IsUnavailable(err) || status.Code(err) == codes.Unavailable {
		return err
	}
	text := err.Error()
	says := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
	}
	switch {
	case says("no space left on device", "disk quota exceeded"):
		return fmt.Errorf("%v: %w", err, errdefs.ErrResourceExhausted) //nolint:errorlint // it has another class, or none
	case says("input/output error", "read-only file system", "too many open files", "cannot allocate memory", "connection"):
	case says("failed to extract layer", "wrong diff id", "invalid desc"),
		says("error mounting") && says("too many levels of symbolic links", "not a directory"):
		return fmt.Errorf("%v: %w", err, errdefs.ErrFailedPrecondition) //nolint:errorlint // it has another class, or none
	}
	return err
}
