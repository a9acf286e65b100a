package lambdaapi

import (
	"context"
	"net/http"
	"regexp"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

const (
	unqualifiedText = `(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?` +
		`(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)`
	runtimeVersionText = `arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}::runtime:.+`
)

var (
	unqualifiedPattern    = regexp.MustCompile(`^(?:` + unqualifiedText + `)$`)
	runtimeVersionPattern = regexp.MustCompile(`^(?:` + runtimeVersionText + `)$`)
)

// holder is what has settings of its own: a function, one of its versions or an
// alias.
type holder struct {
	*controlplane.Function

	// key is what the settings are kept under; those of the function itself are
	// kept under $LATEST.
	key controlplane.Qualifier
	// named is the ARN as the caller named it.
	named string
	// revision is the RevisionId of the version or alias.
	revision controlplane.Revision
	// going is set while the function or the version is being deleted.
	going bool
}

// arn is the qualified ARN, with $LATEST for the function itself.
func (h *holder) arn() string { return h.ARN + ":" + string(h.key) }

// holder reads what ref names; the function itself if it has no qualifier.
func (s *Server) holder(r store.Reader, ref reference) (*holder, error) {
	f, err := s.readFunction(r, reference{Name: ref.Name})
	if err != nil {
		return nil, err
	}
	h := &holder{Function: f, key: ref.Qualifier, named: s.functionARN(ref.Name, ref.Qualifier), going: f.Deleting}
	switch {
	case h.key == "" || h.key == controlplane.Latest:
		h.key, h.revision = controlplane.Latest, f.Latest.Revision
	case isAlias(string(h.key)):
		a, err := r.Alias(f.Name, h.key)
		if errdefs.IsNotFound(err) {
			return nil, s.noAlias(ref)
		}
		h.revision = a.Revision
		return h, err
	default:
		v, err := r.Version(f.Name, h.key)
		if errdefs.IsNotFound(err) {
			return nil, notFound("Function not found: %s", h.named)
		}
		h.revision, h.going = v.Revision, h.going || v.State == controlplane.VersionDeleting
		return h, err
	}
	return h, nil
}

// changeable is holder for a change: not of what is being deleted.
func (s *Server) changeable(r store.Reader, ref reference) (*holder, error) {
	h, err := s.holder(r, ref)
	if err == nil && h.going {
		return nil, functionState(types.StateDeleting)
	}
	return h, err
}

// forget removes the settings of a version or alias that goes, and reports
// whether it had any.
func forget(f *controlplane.Function, q controlplane.Qualifier) bool {
	before := len(f.EventInvoke) + len(f.RuntimeManagement) + len(f.Policies)
	delete(f.EventInvoke, q)
	delete(f.RuntimeManagement, q)
	delete(f.Policies, q)
	return before > len(f.EventInvoke)+len(f.RuntimeManagement)+len(f.Policies)
}

// put sets one setting of a function, whose map may be nil.
func put[T any](of *map[controlplane.Qualifier]T, q controlplane.Qualifier, setting T) {
	if *of == nil {
		*of = map[controlplane.Qualifier]T{}
	}
	(*of)[q] = setting
}

// otherRevision is the error for a RevisionId that is not the latest; call is
// where to get that.
func otherRevision(call string) error {
	return &exception{
		name: "PreconditionFailedException", status: http.StatusPreconditionFailed,
		message: "The Revision Id provided does not match the latest Revision Id. Call the " + call + " API to " +
			"retrieve the latest Revision Id",
	}
}

func (s *Server) putFunctionRecursionConfig(ctx context.Context, in *lambda.PutFunctionRecursionConfigInput,
) (*lambda.PutFunctionRecursionConfigOutput, error) {
	var c constraints
	c.required("recursiveLoop", in.RecursiveLoop != "")
	enum(&c, "recursiveLoop", in.RecursiveLoop, []types.RecursiveLoop{types.RecursiveLoopTerminate, types.RecursiveLoopAllow})
	ref, err := s.functionOnly(&c, in.FunctionName)
	if err != nil {
		return nil, err
	}
	err = s.update(ctx, func(w store.Writer) error {
		f, err := s.editable(w, ref, nil)
		if err != nil {
			return err
		}
		f.RecursiveLoop = string(in.RecursiveLoop)
		return w.PutFunction(*f)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.PutFunctionRecursionConfigOutput{RecursiveLoop: in.RecursiveLoop}, nil
}

func (s *Server) getFunctionRecursionConfig(ctx context.Context, in *lambda.GetFunctionRecursionConfigInput,
) (*lambda.GetFunctionRecursionConfigOutput, error) {
	ref, err := s.functionOnly(&constraints{}, in.FunctionName)
	if err != nil {
		return nil, err
	}
	out := &lambda.GetFunctionRecursionConfigOutput{RecursiveLoop: types.RecursiveLoopTerminate}
	err = s.cfg.DB.View(ctx, func(r store.Reader) error {
		f, err := s.readFunction(r, ref)
		if err == nil && f.RecursiveLoop != "" {
			out.RecursiveLoop = types.RecursiveLoop(f.RecursiveLoop)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// functionOnly reads the name of a function that must have no qualifier, and
// says what else is broken with it.
func (s *Server) functionOnly(c *constraints, name *string) (reference, error) {
	c.required("functionName", name != nil)
	c.text("functionName", name, 1, 140, unqualifiedPattern, unqualifiedText)
	if err := c.err(); err != nil {
		return reference{}, err
	}
	return s.function(name, nil, 140)
}

func (s *Server) putRuntimeManagementConfig(ctx context.Context, in *lambda.PutRuntimeManagementConfigInput,
) (*lambda.PutRuntimeManagementConfigOutput, error) {
	var c constraints
	c.required("updateRuntimeOn", in.UpdateRuntimeOn != "")
	enum(&c, "updateRuntimeOn", in.UpdateRuntimeOn, in.UpdateRuntimeOn.Values())
	c.text("runtimeVersionArn", in.RuntimeVersionArn, 26, 2048, runtimeVersionPattern, runtimeVersionText)
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.function(in.FunctionName, in.Qualifier, 256)
	if err != nil {
		return nil, err
	}
	switch manual := in.UpdateRuntimeOn == types.UpdateRuntimeOnManual; {
	case manual && in.RuntimeVersionArn == nil:
		return nil, invalidParameter("RuntimeVersionArn must be specified when UpdateRuntimeOn is Manual.")
	case !manual && in.RuntimeVersionArn != nil:
		return nil, invalidParameter("RuntimeVersionArn can only be specified when UpdateRuntimeOn is Manual.")
	}
	var h *holder
	err = s.update(ctx, func(w store.Writer) (err error) {
		if h, err = s.changeable(w, ref); err != nil {
			return err
		}
		if h.Latest.Config.PackageType == string(types.PackageTypeImage) {
			return invalidParameter("Runtime management is not supported for functions packaged as container images.")
		}
		put(&h.RuntimeManagement, h.key, controlplane.RuntimeManagement{
			UpdateOn: string(in.UpdateRuntimeOn), VersionARN: deref(in.RuntimeVersionArn),
		})
		return w.PutFunction(*h.Function)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.PutRuntimeManagementConfigOutput{
		FunctionArn: new(h.arn()), UpdateRuntimeOn: in.UpdateRuntimeOn, RuntimeVersionArn: in.RuntimeVersionArn,
	}, nil
}

func (s *Server) getRuntimeManagementConfig(ctx context.Context, in *lambda.GetRuntimeManagementConfigInput,
) (*lambda.GetRuntimeManagementConfigOutput, error) {
	ref, err := s.function(in.FunctionName, in.Qualifier, 256)
	if err != nil {
		return nil, err
	}
	var h *holder
	err = s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		h, err = s.holder(r, ref)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &lambda.GetRuntimeManagementConfigOutput{FunctionArn: new(h.arn()), UpdateRuntimeOn: types.UpdateRuntimeOnAuto}
	if kept, ok := h.RuntimeManagement[h.key]; ok {
		out.UpdateRuntimeOn = types.UpdateRuntimeOn(kept.UpdateOn)
		out.RuntimeVersionArn = optional(kept.VersionARN)
	}
	return out, nil
}

// getFunctionCodeSigningConfig answers that there is none, as AWS does: tools
// ask for every function.
func (s *Server) getFunctionCodeSigningConfig(ctx context.Context, in *lambda.GetFunctionCodeSigningConfigInput,
) (*lambda.GetFunctionCodeSigningConfigOutput, error) {
	ref, err := s.function(in.FunctionName, nil, 256)
	if err != nil {
		return nil, err
	}
	err = s.cfg.DB.View(ctx, func(r store.Reader) error {
		_, err := s.readFunction(r, reference{Name: ref.Name})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &lambda.GetFunctionCodeSigningConfigOutput{}, nil
}
