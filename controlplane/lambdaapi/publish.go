package lambdaapi

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"time"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// publication is a request to publish $LATEST, made outside the Update that
// does it, which may run more than once.
type publication struct {
	to          target
	description *string
	revision    controlplane.Revision
	now         time.Time
}

// target is what to publish to.
type target int

const (
	toNothing target = iota
	toNextNumber
	toLatestPublished
)

// publication reads Publish and PublishTo: the latter alone publishes too.
func (*Server) publication(publish bool, to types.FunctionVersionLatestPublished, description *string) publication {
	p := publication{description: description, revision: controlplane.Revision(uuid.NewString()), now: time.Now().UTC()}
	switch {
	case to == types.FunctionVersionLatestPublishedLatestPublished:
		p.to = toLatestPublished
	case publish:
		p.to = toNextNumber
	}
	return p
}

// publish writes the version asked for and returns it: $LATEST if none was.
// The caller writes f.
func (p publication) publish(w store.Writer, f *controlplane.Function) (*controlplane.Version, error) {
	switch p.to {
	case toNothing:
		return &f.Latest, nil
	case toLatestPublished:
		return p.replace(w, f)
	case toNextNumber:
	}
	versions, err := w.Versions(f.Name)
	if err != nil {
		return nil, err
	}
	for i := len(versions) - 1; i >= 0; i-- {
		if v := &versions[i]; v.Qualifier != controlplane.LatestPublished {
			if unchanged(v, &f.Latest) {
				return v, nil
			}
			break
		}
	}
	v := p.version(f, controlplane.Number(f.NextNumber))
	f.NextNumber++
	return v, w.PutVersion(*v)
}

// unchanged reports whether publishing latest would only repeat v. A version
// can be published with a description of its own, so that of $LATEST counts only
// when $LATEST was updated since.
func unchanged(v, latest *controlplane.Version) bool {
	a, b := v.Config, latest.Config
	if !latest.ModifiedAt.After(v.ModifiedAt) {
		a.Description, b.Description = "", ""
	}
	if maps.Equal(a.Variables, b.Variables) {
		a.Variables, b.Variables = nil, nil
	}
	return reflect.DeepEqual(a, b) && v.Code == latest.Code && v.Provider == latest.Provider &&
		v.State != controlplane.VersionFailed && v.State != controlplane.VersionDeleting
}

// version is a version that starts from nothing.
func (p publication) version(f *controlplane.Function, q controlplane.Qualifier) *controlplane.Version {
	v := f.Latest
	v.Config.Variables = maps.Clone(v.Config.Variables)
	if p.description != nil {
		v.Config.Description = *p.description
	}
	v.Qualifier, v.ARN, v.Revision, v.ModifiedAt = q, f.ARN+":"+string(q), p.revision, p.now
	begin(&v)
	return &v
}

// begin makes v a version that starts from nothing.
func begin(v *controlplane.Version) {
	v.State, v.ReasonCode, v.Reason = controlplane.VersionPending, string(types.StateReasonCodeCreating),
		"The function is being created."
	v.Update, v.UpdateReasonCode, v.UpdateReason = controlplane.UpdateSuccessful, "", ""
	v.Serving, v.Scaling, v.Applied = nil, nil, controlplane.DefaultScaling(&v.Config)
}

// replace publishes to $LATEST.PUBLISHED. What serves goes on until the new
// publication is ready; its scaling config is kept.
func (p publication) replace(w store.Writer, f *controlplane.Function) (*controlplane.Version, error) {
	if f.OnDemand() {
		return nil, noProviderConfig()
	}
	v := p.version(f, controlplane.LatestPublished)
	old, err := w.Version(f.Name, controlplane.LatestPublished)
	if errdefs.IsNotFound(err) {
		// Tools that publish wait for the end of the update, the first time too.
		updating(v)
		return v, w.PutVersion(*v)
	}
	if err != nil {
		return nil, err
	}
	if err := roll(v, &old); err != nil {
		return nil, err
	}
	return v, w.PutVersion(*v)
}

// roll makes v, which is to follow old under its qualifier, a version that
// starts while what serves goes on serving. The scaling config is kept.
func roll(v, old *controlplane.Version) error {
	begin(v)
	v.Scaling, v.Applied = old.Scaling, old.Applied
	switch old.State {
	case controlplane.VersionActive:
		if old.Update == controlplane.UpdateInProgress {
			return inProgress(old.ARN)
		}
		v.State, v.ReasonCode, v.Reason = old.State, old.ReasonCode, old.Reason
		updating(v)
		v.Serving = old.Serving
		if v.Serving == nil {
			serving := old.Publication()
			v.Serving = &serving
		}
	case controlplane.VersionDeactivated:
		v.State, v.ReasonCode, v.Reason = old.State, old.ReasonCode, old.Reason
	case controlplane.VersionFailed: // starts afresh, under the scaling config it had
		updating(v)
	case controlplane.VersionPending:
		return inProgress(old.ARN)
	case controlplane.VersionDeactivating, controlplane.VersionDeleting,
		controlplane.VersionActiveNonInvocable:
		return functionState(types.State(old.State))
	default:
		return fmt.Errorf("replacing %s in state %q: %w", old.ARN, old.State, errdefs.ErrInternal)
	}
	return nil
}

func updating(v *controlplane.Version) {
	v.Update, v.UpdateReasonCode, v.UpdateReason = controlplane.UpdateInProgress,
		string(types.StateReasonCodeCreating), "The function is being updated."
}

func inProgress(arn string) error {
	return conflict("The operation cannot be performed at this time. An update is in progress for resource: %s", arn)
}

func (s *Server) publishVersion(ctx context.Context, in *lambda.PublishVersionInput) (*types.FunctionConfiguration, error) {
	var c constraints
	c.text("description", in.Description, 0, 256, nil, "")
	enum(&c, "publishTo", in.PublishTo, in.PublishTo.Values())
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.unqualified(in.FunctionName)
	if err != nil {
		return nil, err
	}
	p := s.publication(true, in.PublishTo, in.Description)
	var f *controlplane.Function
	var v *controlplane.Version
	err = s.update(ctx, func(w store.Writer) (err error) {
		if f, err = s.editable(w, ref, in.RevisionId); err != nil {
			return err
		}
		if err := settled(f); err != nil {
			return err
		}
		if have := deref(codeDigest(&f.Latest.Code)); in.CodeSha256 != nil && *in.CodeSha256 != have {
			return invalidParameter("CodeSHA256 (%s) is different from current CodeSHA256 in $LATEST (%s). "+
				"Please try again with the CodeSHA256 in $LATEST.", *in.CodeSha256, have)
		}
		if err := s.attach(w, f); err != nil {
			return err
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

func (s *Server) listVersionsByFunction(ctx context.Context, in *lambda.ListVersionsByFunctionInput,
) (*lambda.ListVersionsByFunctionOutput, error) {
	var c constraints
	between(&c, "maxItems", in.MaxItems, 1, 10000)
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.function(in.FunctionName, nil, 256)
	if err != nil {
		return nil, err
	}
	var all []described
	err = s.cfg.DB.View(ctx, func(r store.Reader) error {
		f, err := s.readFunction(r, reference{Name: ref.Name})
		if err != nil {
			return err
		}
		versions, err := s.describeVersions(r, f)
		latest := described{key: string(f.Name) + "\x00", config: s.describe(f, &f.Latest, f.ARN+":"+string(controlplane.Latest))}
		all = append([]described{latest}, versions...)
		return err
	})
	if err != nil {
		return nil, err
	}
	some, next, err := page(all, described.order, in.Marker, in.MaxItems, 50)
	if err != nil {
		return nil, err
	}
	return &lambda.ListVersionsByFunctionOutput{Versions: listable(some), NextMarker: next}, nil
}

// described is a version on the wire and what it is ordered by.
type described struct {
	key    string
	config *types.FunctionConfiguration
}

func (d described) order() string { return d.key }

// describeVersions describes the versions of a function except $LATEST: numbers
// ascending, then $LATEST.PUBLISHED.
func (s *Server) describeVersions(r store.Reader, f *controlplane.Function) ([]described, error) {
	versions, err := r.Versions(f.Name)
	if err != nil {
		return nil, err
	}
	var all []described
	for i := range versions {
		v := &versions[i]
		key := fmt.Sprintf("%s\x00%09s", f.Name, v.Qualifier)
		if v.Qualifier == controlplane.LatestPublished {
			key = fmt.Sprintf("%s\x00~", f.Name)
		}
		all = append(all, described{key: key, config: s.describe(f, v, v.ARN)})
	}
	return all, nil
}

// listable returns the configurations alone.
func listable(some []described) []types.FunctionConfiguration {
	list := make([]types.FunctionConfiguration, 0, len(some))
	for _, d := range some {
		list = append(list, *d.config)
	}
	return list
}
