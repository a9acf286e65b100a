package lambdaapi

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"
	imageref "github.com/distribution/reference"

	"github.com/hearth-compute/hearth/controlplane"
)

// Bounds of an ImageConfig, AWS's.
const (
	maxImageArguments  = 1500
	maxWorkingDirBytes = 1000
)

// resolveLimit bounds how long a registry may keep a request waiting.
const resolveLimit = 5 * time.Second

var errRegistryTooSlow = errors.New("the registry takes too long")

// resolve checks an image reference and finds out what it names. What cannot be
// found out now is left to the agents, who have credentials of their own.
func (s *Server) resolve(ctx context.Context, image string) (controlplane.Code, error) {
	code := controlplane.Code{Image: image}
	if !pullable(image) {
		return code, invalidParameter("Source image %s is not valid. Provide a valid source image.", image)
	}
	if s.cfg.Images == nil {
		return code, nil
	}
	limit, cancel := context.WithTimeoutCause(ctx, resolveLimit, errRegistryTooSlow)
	defer cancel()
	resolved, err := s.cfg.Images.Resolve(limit, image)
	switch {
	case errdefs.IsNotFound(err):
		return code, invalidParameter("Source image %s does not exist. Provide a valid source image.", image)
	case err != nil:
		s.cfg.Logger.WarnContext(ctx, "image not resolved, agents will pull its tag", "image", image, "err", err)
	}
	code.Resolved = resolved
	return code, nil
}

// pullable reports whether image names an image in a registry: not one that is
// built into agents, and nothing on their disks.
func pullable(image string) bool {
	if strings.HasPrefix(image, "builtin:") || strings.HasPrefix(image, "oci-archive:") {
		return false
	}
	_, err := imageref.ParseDockerRef(image)
	return err == nil
}

// checkPackage refuses what a function of the package type cannot have.
func (in *settings) checkPackage(kind types.PackageType) error {
	switch {
	case kind == types.PackageTypeImage && (in.runtime != "" || in.handler != nil || len(in.layers) > 0):
		return invalidParameter("Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image.")
	case kind == types.PackageTypeZip && imageConfig(in.image) != nil:
		return invalidParameter("Please don't provide ImageConfig when the intended function PackageType is Zip.")
	}
	return nil
}

func checkImageConfig(c *constraints, in *types.ImageConfig) {
	if in == nil {
		return
	}
	length(c, "imageConfig.entryPoint", in.EntryPoint, 0, maxImageArguments)
	length(c, "imageConfig.command", in.Command, 0, maxImageArguments)
	c.text("imageConfig.workingDirectory", in.WorkingDirectory, 0, maxWorkingDirBytes, nil, "")
}

// applyImageConfig replaces the overrides as a whole; an empty ImageConfig
// removes them.
func applyImageConfig(c *controlplane.Config, in *types.ImageConfig) {
	if in != nil {
		c.Image = imageConfig(in)
	}
}

// imageConfig is nil when nothing is overridden.
func imageConfig(in *types.ImageConfig) *controlplane.ImageConfig {
	if in == nil || len(in.EntryPoint)+len(in.Command) == 0 && deref(in.WorkingDirectory) == "" {
		return nil
	}
	return &controlplane.ImageConfig{
		EntryPoint: slices.Clone(in.EntryPoint), Command: slices.Clone(in.Command), WorkingDirectory: deref(in.WorkingDirectory),
	}
}

func describeImageConfig(c *controlplane.ImageConfig) *types.ImageConfigResponse {
	if c == nil {
		return nil
	}
	return &types.ImageConfigResponse{ImageConfig: &types.ImageConfig{
		EntryPoint: c.EntryPoint, Command: c.Command, WorkingDirectory: optional(c.WorkingDirectory),
	}}
}
