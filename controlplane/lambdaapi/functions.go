package lambdaapi

import (
	"context"
	"maps"
	"net/http"
	"time"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

func (s *Server) createFunction(ctx context.Context, in *lambda.CreateFunctionInput) (*types.FunctionConfiguration, error) {
	given := createSettings(in)
	f, err := s.newFunction(in, &given)
	if err != nil {
		return nil, err
	}
	code, err := s.keepCode(ctx, createSource(in.Code), f.Latest.Config.PackageType, "creating")
	if err != nil {
		return nil, err
	}
	f.Latest.Code = code
	if err := s.awaitGone(ctx, f.Name); err != nil {
		return nil, err
	}
	p := s.publication(in.Publish, in.PublishTo, nil)
	var version *controlplane.Version
	err = s.update(ctx, func(w store.Writer) error {
		f := *f // fn may run again
		if err := vacant(w, f.Name); err != nil {
			return err
		}
		if err := s.attach(w, &f); err != nil {
			return err
		}
		if err := s.attachLayers(w, &f.Latest.Config, given.layers); err != nil {
			return err
		}
		if err := fits(&f.Latest); err != nil {
			return err
		}
		var err error
		if version, err = p.publish(w, &f); err != nil {
			return err
		}
		return w.PutFunction(f)
	})
	if err != nil {
		return nil, err
	}
	return s.describe(f, version, f.ARN), nil
}

// vacant wants that there is no function of that name.
func vacant(r store.Reader, name controlplane.FunctionName) error {
	switch old, err := r.Function(name); {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case old.Deleting:
		return functionState(types.StateDeleting)
	}
	return conflict("Function already exist: %s", name)
}

// newFunction is the function asked for, checked as far as it can be without
// the store.
func (s *Server) newFunction(in *lambda.CreateFunctionInput, given *settings) (*controlplane.Function, error) {
	var c constraints
	c.required("role", in.Role != nil)
	c.required("code", in.Code != nil)
	enum(&c, "packageType", in.PackageType, in.PackageType.Values())
	enum(&c, "publishTo", in.PublishTo, in.PublishTo.Values())
	if in.Code != nil {
		checkObject(&c, "code.", in.Code.S3Bucket, in.Code.S3Key, in.Code.S3ObjectVersion)
		enum(&c, "code.s3ObjectStorageMode", in.Code.S3ObjectStorageMode, in.Code.S3ObjectStorageMode.Values())
	}
	length(&c, "architectures", in.Architectures, 1, 1)
	for _, a := range in.Architectures {
		enum(&c, "architectures", a, a.Values())
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.newName(in.FunctionName)
	if err != nil {
		return nil, err
	}
	if err := given.check(); err != nil {
		return nil, err
	}
	if err := checkTags(in.Tags); err != nil {
		return nil, err
	}
	provider, onDemand, err := s.home(given.provider)
	if err != nil {
		return nil, err
	}
	config := defaults(ref.Name, onDemand)
	setEnum(&config.PackageType, in.PackageType)
	if len(in.Architectures) > 0 {
		config.Architecture = string(in.Architectures[0])
	}
	if err := given.apply(&config); err != nil {
		return nil, err
	}
	if err := s.checkConfig(&config); err != nil {
		return nil, err
	}
	now, arn := time.Now().UTC(), s.functionARN(ref.Name, "")
	f := &controlplane.Function{
		Name: ref.Name, ARN: arn, Provider: provider, NextNumber: 1, Tags: maps.Clone(in.Tags), CreatedAt: now,
		Latest: controlplane.Version{
			Function: ref.Name, Provider: provider, Qualifier: controlplane.Latest, ARN: arn, Config: config,
			Revision: controlplane.Revision(uuid.NewString()), State: controlplane.VersionActiveNonInvocable,
			Update: controlplane.UpdateSuccessful, ModifiedAt: now,
		},
	}
	if onDemand {
		begin(&f.Latest)
	}
	return f, nil
}

// newName reads the name of a function to be made.
func (s *Server) newName(name *string) (reference, error) {
	ref, err := s.function(name, nil, 140)
	if err == nil && (ref.Qualifier != "" || len(ref.Name) > maxFunctionName) {
		var c constraints
		c.breaks("'"+*name+"'", "functionName", "Member must have length less than or equal to 64 and no qualifier")
		err = c.err()
	}
	return ref, err
}

// home is where a new function goes, and whether it is on demand: it is when no
// provider is named and there is a default one.
func (s *Server) home(given *types.CapacityProviderConfig) (name controlplane.ProviderName, onDemand bool, err error) {
	if given != nil {
		name, err = s.providerOf(*given.LambdaManagedInstancesCapacityProviderConfig.CapacityProviderArn)
		return name, false, err
	}
	if s.cfg.DefaultProvider == "" {
		return "", false, invalidParameter("CapacityProviderConfig must be set: this service runs functions on capacity providers only.")
	}
	return s.cfg.DefaultProvider, true, nil
}

// attach checks that the function's provider takes it. What runs on demand has
// the provider's architecture unless it asked for one.
func (s *Server) attach(r store.Reader, f *controlplane.Function) error {
	p, err := s.readProvider(r, f.Provider)
	if err != nil && f.OnDemand() {
		return unlessMissing(err, "Capacity provider not found: %s. Functions without a CapacityProviderConfig run on the "+
			"provider that --default-capacity-provider names: create it, or name another one.", s.arn("capacity-provider", string(f.Provider)))
	}
	if err != nil {
		return err
	}
	if p.State != controlplane.ProviderActive {
		return providerState(&p)
	}
	if f.Latest.Config.Architecture == "" {
		f.Latest.Config.Architecture = p.Architecture
	}
	if want := f.Latest.Config.Architecture; p.Architecture != want {
		return invalidParameter("The architecture of the function, %s, is not that of its capacity provider, %s.",
			want, p.Architecture)
	}
	return nil
}

func (s *Server) getFunction(ctx context.Context, in *lambda.GetFunctionInput) (*lambda.GetFunctionOutput, error) {
	f, v, arn, err := s.find(ctx, in.FunctionName, in.Qualifier)
	if err != nil {
		return nil, err
	}
	out := &lambda.GetFunctionOutput{Configuration: s.describe(f, v, arn), Tags: f.Tags}
	if f.ReservedConcurrency != nil {
		out.Concurrency = &types.Concurrency{ReservedConcurrentExecutions: small(f.ReservedConcurrency)}
	}
	if v.Code.Image != "" {
		out.Code = &types.FunctionCodeLocation{
			RepositoryType: new("ECR"), ImageUri: &v.Code.Image, ResolvedImageUri: optional(v.Code.Resolved),
		}
	} else {
		out.Code = &types.FunctionCodeLocation{RepositoryType: new("S3"), Location: s.location(ctx, v.Code.SHA256)}
	}
	return out, nil
}

func (s *Server) getFunctionConfiguration(ctx context.Context, in *lambda.GetFunctionConfigurationInput,
) (*types.FunctionConfiguration, error) {
	f, v, arn, err := s.find(ctx, in.FunctionName, in.Qualifier)
	if err != nil {
		return nil, err
	}
	return s.describe(f, v, arn), nil
}

// find reads the version a caller named, $LATEST if it named none, and the ARN
// to describe it under.
func (s *Server) find(ctx context.Context, name, qualifier *string) (f *controlplane.Function, v *controlplane.Version,
	arn string, err error,
) {
	ref, err := s.function(name, qualifier, 256)
	if err != nil {
		return nil, nil, "", err
	}
	err = s.cfg.DB.View(ctx, func(r store.Reader) error {
		f, v, err = s.readVersion(r, ref)
		return err
	})
	return f, v, s.functionARN(ref.Name, ref.Qualifier), err
}

// readVersion reads the version ref names, itself or by an alias; $LATEST if it
// has no qualifier.
func (s *Server) readVersion(r store.Reader, ref reference) (*controlplane.Function, *controlplane.Version, error) {
	f, err := s.readFunction(r, ref)
	if err != nil {
		return nil, nil, err
	}
	if ref.Qualifier == "" || ref.Qualifier == controlplane.Latest {
		return f, &f.Latest, nil
	}
	q := ref.Qualifier
	if isAlias(string(q)) {
		a, err := r.Alias(ref.Name, q)
		if errdefs.IsNotFound(err) {
			return nil, nil, notFound("Function not found: %s", s.functionARN(ref.Name, q))
		}
		if err != nil {
			return nil, nil, err
		}
		q = a.Version
	}
	if q == controlplane.Latest {
		return f, &f.Latest, nil
	}
	v, err := r.Version(ref.Name, q)
	if errdefs.IsNotFound(err) {
		return nil, nil, notFound("Function not found: %s", s.functionARN(ref.Name, ref.Qualifier))
	}
	return f, &v, err
}

func (s *Server) readFunction(r store.Reader, ref reference) (*controlplane.Function, error) {
	f, err := r.Function(ref.Name)
	if errdefs.IsNotFound(err) || err == nil && gone(&f) {
		return nil, notFound("Function not found: %s", s.functionARN(ref.Name, ref.Qualifier))
	}
	return &f, err
}

// gone tells whether a function is deleted as far as callers can tell: on
// demand, as on default Lambda, from the moment the delete is answered.
func gone(f *controlplane.Function) bool { return f.Deleting && f.OnDemand() }

// editable is readFunction for a change: not of a function being deleted.
func (s *Server) editable(r store.Reader, ref reference, revision *string) (*controlplane.Function, error) {
	f, err := s.readFunction(r, ref)
	if err != nil {
		return nil, err
	}
	if f.Deleting {
		return nil, functionState(types.StateDeleting)
	}
	if revision != nil && *revision != string(f.Latest.Revision) {
		return nil, otherRevision("GetFunction/GetAlias")
	}
	return f, nil
}

func functionState(state types.State) error {
	return conflict("The operation cannot be performed at this time. The function is currently in the following state: '%s'", state)
}

func (s *Server) listFunctions(ctx context.Context, in *lambda.ListFunctionsInput) (*lambda.ListFunctionsOutput, error) {
	var c constraints
	between(&c, "maxItems", in.MaxItems, 1, 10000)
	enum(&c, "functionVersion", in.FunctionVersion, in.FunctionVersion.Values())
	c.text("masterRegion", in.MasterRegion, 0, 0, masterRegionPattern, masterRegionText)
	if err := c.err(); err != nil {
		return nil, err
	}
	if in.MasterRegion != nil {
		return listReplicas(in)
	}
	var all []described
	err := s.cfg.DB.View(ctx, func(r store.Reader) error {
		functions, err := r.Functions()
		if err != nil {
			return err
		}
		all = nil
		for i := range functions {
			f := &functions[i]
			if gone(f) {
				continue
			}
			all = append(all, described{key: string(f.Name) + "\x00", config: s.describe(f, &f.Latest, f.ARN)})
			if in.FunctionVersion != types.FunctionVersionAll {
				continue
			}
			all[len(all)-1].config = s.describe(f, &f.Latest, f.ARN+":"+string(controlplane.Latest))
			versions, err := s.describeVersions(r, f)
			if err != nil {
				return err
			}
			all = append(all, versions...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	some, next, err := page(all, described.order, in.Marker, in.MaxItems, 50)
	if err != nil {
		return nil, err
	}
	return &lambda.ListFunctionsOutput{Functions: listable(some), NextMarker: next}, nil
}

func (s *Server) deleteFunction(ctx context.Context, in *lambda.DeleteFunctionInput) (*lambda.DeleteFunctionOutput, error) {
	ref, err := s.function(in.FunctionName, in.Qualifier, 256)
	if err != nil {
		return nil, err
	}
	status := int32(http.StatusAccepted)
	err = s.update(ctx, func(w store.Writer) error {
		f, err := s.readFunction(w, ref)
		if err != nil {
			return err
		}
		if f.OnDemand() {
			status = http.StatusNoContent
		}
		if ref.Qualifier != "" {
			return s.deleteVersion(w, ref)
		}
		versions, err := w.Versions(f.Name)
		if err != nil {
			return err
		}
		for _, v := range versions {
			if err := markDeleting(w, v); err != nil {
				return err
			}
		}
		f.Deleting = true
		return w.PutFunction(*f)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.DeleteFunctionOutput{StatusCode: status}, nil
}

func (s *Server) deleteVersion(w store.Writer, ref reference) error {
	switch q := ref.Qualifier; {
	case q == controlplane.Latest:
		return invalidParameter("$LATEST version cannot be deleted without deleting the function.")
	case q != controlplane.LatestPublished && !numberPattern.MatchString(string(q)):
		return invalidParameter("Deletion of functions using an alias is not currently supported.")
	}
	f, v, err := s.readVersion(w, ref)
	if err != nil {
		return err
	}
	if err := unaliased(w, ref); err != nil {
		return err
	}
	if forget(f, ref.Qualifier) {
		if err := w.PutFunction(*f); err != nil {
			return err
		}
	}
	return markDeleting(w, *v)
}

// markDeleting leaves the version to the reconcile loop, which removes it once
// its environments are gone.
func markDeleting(w store.Writer, v controlplane.Version) error {
	v.State, v.ReasonCode, v.Reason = controlplane.VersionDeleting, "", ""
	return w.PutVersion(v)
}
