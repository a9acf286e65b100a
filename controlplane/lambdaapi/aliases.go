package lambdaapi

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// The patterns of AWS's service model for aliases. Go has no lookahead: that an
// alias is no number is checked apart.
const (
	aliasText             = `(?!^[0-9]+$)([a-zA-Z0-9-_]+)`
	aliasVersionText      = `(\$LATEST(\.PUBLISHED)?|[0-9]+)`
	additionalVersionText = `[0-9]+`
)

var (
	wordPattern         = regexp.MustCompile(`^[a-zA-Z0-9-_]+$`)
	digitsPattern       = regexp.MustCompile(`^[0-9]+$`)
	aliasVersionPattern = regexp.MustCompile(`^(?:` + aliasVersionText + `)$`)
)

// isAlias reports whether q can only be the name of an alias.
func isAlias(q string) bool { return wordPattern.MatchString(q) && !digitsPattern.MatchString(q) }

// aliasName checks the name of an alias, if there is one.
func (c *constraints) aliasName(name *string) {
	c.required("name", name != nil)
	if name == nil {
		return
	}
	c.text("name", name, 1, 128, nil, "")
	if !isAlias(*name) {
		c.breaks("'"+*name+"'", "name", "Member must satisfy regular expression pattern: "+aliasText)
	}
}

// weights checks the keys and values of a routing config.
func (c *constraints) weights(in *types.AliasRoutingConfiguration) {
	if in == nil {
		return
	}
	for _, version := range slices.Sorted(maps.Keys(in.AdditionalVersionWeights)) {
		weight := in.AdditionalVersionWeights[version]
		value, at := fmt.Sprintf("'{%s=%s}'", version, double(weight)), "routingConfig.additionalVersionWeights"
		if len(version) > 1024 || !digitsPattern.MatchString(version) {
			c.breaks(value, at, "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, "+
				"Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: "+
				additionalVersionText+"]")
		}
		if !(weight >= 0 && weight <= 1) { // NaN too
			c.breaks(value, at, "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, "+
				"Member must have value greater than or equal to 0.0, Member must not be null]")
		}
	}
}

// double writes a number as AWS's messages do: 2.0, not 2.
func double(f float64) string {
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.ContainsAny(text, ".N") {
		text += ".0"
	}
	return text
}

func (s *Server) createAlias(ctx context.Context, in *lambda.CreateAliasInput) (*types.AliasConfiguration, error) {
	var c constraints
	c.aliasName(in.Name)
	c.required("functionVersion", in.FunctionVersion != nil)
	c.text("functionVersion", in.FunctionVersion, 1, 1024, aliasVersionPattern, aliasVersionText)
	c.text("description", in.Description, 0, 256, nil, "")
	c.weights(in.RoutingConfig)
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.function(in.FunctionName, nil, 140)
	if err != nil {
		return nil, err
	}
	name := controlplane.Qualifier(*in.Name)
	a := controlplane.Alias{
		Function: ref.Name, Name: name, ARN: s.functionARN(ref.Name, name), Version: controlplane.Qualifier(*in.FunctionVersion),
		Description: deref(in.Description), Revision: controlplane.Revision(uuid.NewString()),
	}
	err = s.update(ctx, func(w store.Writer) error {
		if err := s.target(w, &a); err != nil {
			return err
		}
		switch old, err := w.Alias(a.Function, a.Name); {
		case err == nil:
			return conflict("Alias already exists: %s", old.ARN)
		case !errdefs.IsNotFound(err):
			return err
		}
		if err := s.share(w, &a, in.RoutingConfig); err != nil {
			return err
		}
		return w.PutAlias(a)
	})
	if err != nil {
		return nil, err
	}
	return describeAlias(&a), nil
}

// target checks the version an alias is to name: of a function that is not being
// deleted, there, and not $LATEST.PUBLISHED.
func (s *Server) target(r store.Reader, a *controlplane.Alias) error {
	if a.Version == controlplane.LatestPublished {
		return invalidParameter("An alias can't name $LATEST.PUBLISHED. Specify $LATEST or the number of a version.")
	}
	return s.aliasable(r, reference{a.Function, a.Version})
}

// aliasable checks that a version is there and stays.
func (s *Server) aliasable(r store.Reader, ref reference) error {
	f, v, err := s.readVersion(r, ref)
	switch {
	case err != nil:
		return err
	case f.Deleting, v.State == controlplane.VersionDeleting:
		return functionState(types.StateDeleting)
	}
	return nil
}

// share makes the alias share invokes as a routing config says; nil says
// nothing, and an empty one that it does not.
func (s *Server) share(r store.Reader, a *controlplane.Alias, in *types.AliasRoutingConfiguration) error {
	if in != nil {
		if len(in.AdditionalVersionWeights) > 1 {
			return invalidParameter("Number of items in AdditionalVersionWeights cannot be greater than 1")
		}
		a.Additional, a.Weight = "", 0
		for version, weight := range in.AdditionalVersionWeights {
			a.Additional, a.Weight = controlplane.Qualifier(version), weight
		}
	}
	switch {
	case a.Additional == "":
		return nil
	case a.Additional == a.Version:
		return invalidParameter("Invalid function version %s. Function version %s is already included in routing configuration.",
			a.Version, a.Version)
	case a.Version == controlplane.Latest:
		return invalidParameter("$LATEST is not supported for an alias pointing to more than 1 version")
	}
	return s.aliasable(r, reference{a.Function, a.Additional})
}

func (s *Server) updateAlias(ctx context.Context, in *lambda.UpdateAliasInput) (*types.AliasConfiguration, error) {
	var c constraints
	c.aliasName(in.Name)
	c.text("functionVersion", in.FunctionVersion, 1, 1024, aliasVersionPattern, aliasVersionText)
	c.text("description", in.Description, 0, 256, nil, "")
	c.weights(in.RoutingConfig)
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.function(in.FunctionName, nil, 140)
	if err != nil {
		return nil, err
	}
	var a controlplane.Alias
	revision := controlplane.Revision(uuid.NewString())
	err = s.update(ctx, func(w store.Writer) error {
		if _, err := s.editable(w, reference{Name: ref.Name}, nil); err != nil {
			return err
		}
		var err error
		a, err = w.Alias(ref.Name, controlplane.Qualifier(*in.Name))
		switch {
		case errdefs.IsNotFound(err):
			return notFound("Alias not found: %s", s.functionARN(ref.Name, controlplane.Qualifier(*in.Name)))
		case err != nil:
			return err
		case in.RevisionId != nil && *in.RevisionId != string(a.Revision):
			return otherRevision("GetFunction/GetAlias")
		}
		if in.FunctionVersion != nil {
			a.Version = controlplane.Qualifier(*in.FunctionVersion)
		}
		if err := s.target(w, &a); err != nil {
			return err
		}
		if err := s.share(w, &a, in.RoutingConfig); err != nil {
			return err
		}
		set(&a.Description, in.Description)
		a.Revision = revision
		return w.PutAlias(a)
	})
	if err != nil {
		return nil, err
	}
	return describeAlias(&a), nil
}

func (s *Server) getAlias(ctx context.Context, in *lambda.GetAliasInput) (*types.AliasConfiguration, error) {
	ref, err := s.aliasOf(in.FunctionName, in.Name)
	if err != nil {
		return nil, err
	}
	var a controlplane.Alias
	err = s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		if _, err = s.readFunction(r, reference{Name: ref.Name}); err != nil {
			return err
		}
		if a, err = r.Alias(ref.Name, ref.Qualifier); errdefs.IsNotFound(err) {
			return s.noAlias(ref)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return describeAlias(&a), nil
}

// noAlias is the error for an alias that is not there.
func (s *Server) noAlias(ref reference) error {
	return notFound("Cannot find alias arn: %s", s.functionARN(ref.Name, ref.Qualifier))
}

// deleteAlias deletes an alias with its settings. One that is not there is
// deleted already.
func (s *Server) deleteAlias(ctx context.Context, in *lambda.DeleteAliasInput) error {
	ref, err := s.aliasOf(in.FunctionName, in.Name)
	if err != nil {
		return err
	}
	return s.update(ctx, func(w store.Writer) error {
		f, err := s.editable(w, reference{Name: ref.Name}, nil)
		if err != nil {
			return err
		}
		if forget(f, ref.Qualifier) {
			if err := w.PutFunction(*f); err != nil {
				return err
			}
		}
		return w.DeleteAlias(ref.Name, ref.Qualifier)
	})
}

// aliasOf reads the function and the name of an alias.
func (s *Server) aliasOf(function, name *string) (reference, error) {
	var c constraints
	c.aliasName(name)
	if err := c.err(); err != nil {
		return reference{}, err
	}
	ref, err := s.function(function, nil, 140)
	if err != nil {
		return reference{}, err
	}
	return reference{ref.Name, controlplane.Qualifier(*name)}, nil
}

func (s *Server) listAliases(ctx context.Context, in *lambda.ListAliasesInput) (*lambda.ListAliasesOutput, error) {
	var c constraints
	c.text("functionVersion", in.FunctionVersion, 1, 1024, aliasVersionPattern, aliasVersionText)
	between(&c, "maxItems", in.MaxItems, 1, 10000)
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.function(in.FunctionName, nil, 140)
	if err != nil {
		return nil, err
	}
	var all []controlplane.Alias
	err = s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		if _, err = s.readFunction(r, reference{Name: ref.Name}); err != nil {
			return err
		}
		all, err = r.Aliases(ref.Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(a controlplane.Alias) bool {
		return in.FunctionVersion != nil && *in.FunctionVersion != string(a.Version)
	})
	some, next, err := page(all, func(a controlplane.Alias) string { return string(a.Name) }, in.Marker, in.MaxItems, 50)
	if err != nil {
		return nil, err
	}
	out := &lambda.ListAliasesOutput{Aliases: []types.AliasConfiguration{}, NextMarker: next}
	for i := range some {
		out.Aliases = append(out.Aliases, *describeAlias(&some[i]))
	}
	return out, nil
}

// unaliased checks that no alias names the version, alone or beside another.
func unaliased(r store.Reader, ref reference) error {
	aliases, err := r.Aliases(ref.Name)
	if err != nil {
		return err
	}
	var names []string
	for _, a := range aliases {
		if a.Version == ref.Qualifier || a.Additional == ref.Qualifier {
			names = append(names, string(a.Name))
		}
	}
	if len(names) > 0 {
		return conflict("Unable to delete version because the following aliases reference it: [%s]", strings.Join(names, ", "))
	}
	return nil
}

func describeAlias(a *controlplane.Alias) *types.AliasConfiguration {
	out := &types.AliasConfiguration{
		AliasArn: &a.ARN, Name: new(string(a.Name)), FunctionVersion: new(string(a.Version)), Description: &a.Description,
		RevisionId: new(string(a.Revision)),
	}
	if a.Additional != "" {
		out.RoutingConfig = &types.AliasRoutingConfiguration{
			AdditionalVersionWeights: map[string]float64{string(a.Additional): a.Weight},
		}
	}
	return out
}
