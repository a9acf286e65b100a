package lambdaapi

import (
	"context"
	"time"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/google/uuid"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// change is a change of $LATEST, made outside the Update that does it.
type change struct {
	revision controlplane.Revision
	now      time.Time
}

func newChange() change {
	return change{revision: controlplane.Revision(uuid.NewString()), now: time.Now().UTC()}
}

// apply makes next the $LATEST of f. On demand it starts while the one before
// serves. The caller writes f.
func (c change) apply(f *controlplane.Function, next controlplane.Version) error {
	if err := settled(f); err != nil {
		return err
	}
	if err := fits(&next); err != nil {
		return err
	}
	if f.OnDemand() {
		if err := roll(&next, &f.Latest); err != nil {
			return err
		}
	}
	next.Revision, next.ModifiedAt = c.revision, c.now
	f.Latest = next
	return nil
}

// settled wants that $LATEST does not start just now: on demand only one can
// start at a time.
func settled(f *controlplane.Function) error {
	v := &f.Latest
	if f.OnDemand() && (v.State == controlplane.VersionPending || v.Update == controlplane.UpdateInProgress) {
		return inProgress(f.ARN)
	}
	return nil
}

func (s *Server) updateFunctionConfiguration(ctx context.Context, in *lambda.UpdateFunctionConfigurationInput,
) (*types.FunctionConfiguration, error) {
	ref, err := s.unqualified(in.FunctionName)
	if err != nil {
		return nil, err
	}
	given := updateSettings(in)
	if err := given.check(); err != nil {
		return nil, err
	}
	change := newChange()
	var f *controlplane.Function
	err = s.update(ctx, func(w store.Writer) (err error) {
		if f, err = s.editable(w, ref, in.RevisionId); err != nil {
			return err
		}
		next := f.Latest
		if err := given.apply(&next.Config); err != nil {
			return err
		}
		if err := s.checkConfig(&next.Config); err != nil {
			return err
		}
		if err := s.attachLayers(w, &next.Config, given.layers); err != nil {
			return err
		}
		if err := change.apply(f, next); err != nil {
			return err
		}
		if given.provider != nil {
			if err := s.move(w, f, given.provider); err != nil {
				return err
			}
		}
		return w.PutFunction(*f)
	})
	if err != nil {
		return nil, err
	}
	return s.describe(f, &f.Latest, f.ARN), nil
}

// move binds $LATEST to another provider; what was published stays where it is.
func (s *Server) move(w store.Writer, f *controlplane.Function, to *types.CapacityProviderConfig) (err error) {
	f.Provider, err = s.providerOf(*to.LambdaManagedInstancesCapacityProviderConfig.CapacityProviderArn)
	if err != nil {
		return err
	}
	f.Latest.Provider = f.Provider
	return s.attach(w, f)
}

// unqualified reads a function's name for an operation on $LATEST.
func (s *Server) unqualified(name *string) (reference, error) {
	ref, err := s.function(name, nil, 140)
	if err != nil {
		return ref, err
	}
	if ref.Qualifier != "" && ref.Qualifier != controlplane.Latest {
		return ref, invalidParameter("This operation is permitted on the $LATEST version of a function only.")
	}
	return reference{Name: ref.Name}, nil
}
