package lambdaapi

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

const destinationText = `$|kafka://([^.]([a-zA-Z0-9\-_.]{0,248}))|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:` +
	`((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)`

var destinationPattern = regexp.MustCompile(`^(?:` + destinationText + `)$`)

// eventInvoke is a request to set or change an event-invoke config. Nil members
// were not given.
type eventInvoke struct {
	maxAge, retries *int32
	destinations    *types.DestinationConfig
}

func (in *eventInvoke) check() error {
	var c constraints
	between(&c, "maximumRetryAttempts", in.retries, 0, 2)
	between(&c, "maximumEventAgeInSeconds", in.maxAge, 60, 21600)
	success, failure := in.targets()
	c.text("destinationConfig.onSuccess.destination", success, 0, 350, destinationPattern, destinationText)
	c.text("destinationConfig.onFailure.destination", failure, 0, 350, destinationPattern, destinationText)
	if err := c.err(); err != nil {
		return err
	}
	if in.maxAge == nil && in.retries == nil && in.destinations == nil {
		return invalidParameter("You must specify at least one of error handling or destination setting.")
	}
	return nil
}

// targets returns the destinations given.
func (in *eventInvoke) targets() (success, failure *string) {
	if in.destinations == nil {
		return nil, nil
	}
	if d := in.destinations.OnSuccess; d != nil {
		success = d.Destination
	}
	if d := in.destinations.OnFailure; d != nil {
		failure = d.Destination
	}
	return success, failure
}

// apply changes c as asked.
func (in *eventInvoke) apply(c *controlplane.EventInvokeConfig, now time.Time) {
	if in.maxAge != nil {
		c.MaxAgeS = new(int(*in.maxAge))
	}
	if in.retries != nil {
		c.MaxRetries = new(int(*in.retries))
	}
	if in.destinations != nil {
		success, failure := in.targets()
		c.OnSuccess, c.OnFailure = deref(success), deref(failure)
	}
	c.ModifiedAt = now
}

// checkDestinations checks what destinations are: something results can be sent
// to, and if it is a function, another one that is there.
func (s *Server) checkDestinations(r store.Reader, in *eventInvoke, f *controlplane.Function) error {
	success, failure := in.targets()
	for _, arn := range []string{deref(success), deref(failure)} {
		if err := s.checkDestination(r, arn, f); err != nil {
			return err
		}
	}
	if !sendable(deref(success)) || !sendable(deref(failure)) && !strings.HasPrefix(deref(failure), "arn:aws:s3:::") {
		return invalidParameter("The provided destination config DestinationConfig(onSuccess=%s, onFailure=%s) is invalid.",
			shown("OnSuccess", success), shown("OnFailure", failure))
	}
	return nil
}

// sendable reports whether results can be sent to an ARN; an empty one is none.
func sendable(arn string) bool {
	if arn == "" {
		return true
	}
	parts := strings.SplitN(arn, ":", 6)
	return len(parts) == 6 && slices.Contains([]string{"lambda", "sns", "sqs", "events"}, parts[2])
}

func shown(member string, arn *string) string {
	if deref(arn) == "" {
		return "null"
	}
	return fmt.Sprintf("%s(destination=%s)", member, *arn)
}

// checkDestination checks a destination that is a function.
func (s *Server) checkDestination(r store.Reader, arn string, f *controlplane.Function) error {
	if parts := strings.SplitN(arn, ":", 6); len(parts) < 6 || parts[2] != "lambda" {
		return nil
	}
	invalid := invalidParameter("The destination ARN %s is invalid.", arn)
	if !functionNamePattern.MatchString(arn) {
		return invalid
	}
	ref, account, region := parseFunction(arn)
	switch {
	case account != s.cfg.AccountID || region != s.cfg.Region:
		return invalid
	case ref.Name == f.Name:
		return invalidParameter("You can't specify the function as a destination for itself.")
	}
	if _, err := r.Function(ref.Name); errdefs.IsNotFound(err) {
		return invalid
	} else if err != nil {
		return err
	}
	return nil
}

func (s *Server) putFunctionEventInvokeConfig(ctx context.Context, in *lambda.PutFunctionEventInvokeConfigInput,
) (*types.FunctionEventInvokeConfig, error) {
	given := eventInvoke{in.MaximumEventAgeInSeconds, in.MaximumRetryAttempts, in.DestinationConfig}
	return s.setEventInvoke(ctx, in.FunctionName, in.Qualifier, &given,
		func(*holder) (controlplane.EventInvokeConfig, error) { return controlplane.EventInvokeConfig{}, nil })
}

func (s *Server) updateFunctionEventInvokeConfig(ctx context.Context, in *lambda.UpdateFunctionEventInvokeConfigInput,
) (*types.FunctionEventInvokeConfig, error) {
	given := eventInvoke{in.MaximumEventAgeInSeconds, in.MaximumRetryAttempts, in.DestinationConfig}
	return s.setEventInvoke(ctx, in.FunctionName, in.Qualifier, &given,
		func(h *holder) (controlplane.EventInvokeConfig, error) {
			c, ok := h.EventInvoke[h.key]
			if !ok {
				return c, noEventInvoke(h.arn())
			}
			return c, nil
		})
}

func noEventInvoke(arn string) error {
	return notFound("The function %s doesn't have an EventInvokeConfig", arn)
}

// setEventInvoke applies a request to the config that from returns.
func (s *Server) setEventInvoke(ctx context.Context, name, qualifier *string, given *eventInvoke,
	from func(*holder) (controlplane.EventInvokeConfig, error),
) (*types.FunctionEventInvokeConfig, error) {
	if err := given.check(); err != nil {
		return nil, err
	}
	ref, err := s.function(name, qualifier, 256)
	if err != nil {
		return nil, err
	}
	var out *types.FunctionEventInvokeConfig
	now := time.Now().UTC()
	err = s.update(ctx, func(w store.Writer) error {
		h, err := s.changeable(w, ref)
		if err != nil {
			return unlessMissing(err, "The function doesn't exist.")
		}
		c, err := from(h)
		if err != nil {
			return err
		}
		if err := s.checkDestinations(w, given, h.Function); err != nil {
			return err
		}
		given.apply(&c, now)
		put(&h.EventInvoke, h.key, c)
		out = describeEventInvoke(h.arn(), &c)
		return w.PutFunction(*h.Function)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// unlessMissing returns err, or the operation's own words for what is not there.
func unlessMissing(err error, format string, args ...any) error {
	if asException(err).status == 404 {
		return notFound(format, args...)
	}
	return err
}

func (s *Server) getFunctionEventInvokeConfig(ctx context.Context, in *lambda.GetFunctionEventInvokeConfigInput,
) (*types.FunctionEventInvokeConfig, error) {
	ref, err := s.function(in.FunctionName, in.Qualifier, 256)
	if err != nil {
		return nil, err
	}
	var out *types.FunctionEventInvokeConfig
	err = s.cfg.DB.View(ctx, func(r store.Reader) error {
		h, err := s.holder(r, ref)
		if err != nil {
			return unlessMissing(err, "The function %s doesn't have an EventInvokeConfig", s.qualifiedARN(ref))
		}
		c, ok := h.EventInvoke[h.key]
		if !ok {
			return noEventInvoke(h.arn())
		}
		out = describeEventInvoke(h.arn(), &c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// qualifiedARN is the ARN of what ref names, with $LATEST for the function itself.
func (s *Server) qualifiedARN(ref reference) string {
	if ref.Qualifier == "" {
		ref.Qualifier = controlplane.Latest
	}
	return s.functionARN(ref.Name, ref.Qualifier)
}

func (s *Server) deleteFunctionEventInvokeConfig(ctx context.Context, in *lambda.DeleteFunctionEventInvokeConfigInput) error {
	ref, err := s.function(in.FunctionName, in.Qualifier, 256)
	if err != nil {
		return err
	}
	return s.update(ctx, func(w store.Writer) error {
		h, err := s.changeable(w, ref)
		if err != nil {
			return unlessMissing(err, "The function %s doesn't have an EventInvokeConfig", s.qualifiedARN(ref))
		}
		if _, ok := h.EventInvoke[h.key]; !ok {
			return noEventInvoke(h.arn())
		}
		delete(h.EventInvoke, h.key)
		return w.PutFunction(*h.Function)
	})
}

func (s *Server) listFunctionEventInvokeConfigs(ctx context.Context, in *lambda.ListFunctionEventInvokeConfigsInput,
) (*lambda.ListFunctionEventInvokeConfigsOutput, error) {
	var c constraints
	between(&c, "maxItems", in.MaxItems, 1, 50)
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.function(in.FunctionName, nil, 256)
	if err != nil {
		return nil, err
	}
	var f *controlplane.Function
	err = s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		if f, err = s.readFunction(r, reference{Name: ref.Name}); err != nil {
			return unlessMissing(err, "The function doesn't exist.")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := slices.Sorted(maps.Keys(f.EventInvoke))
	some, next, err := page(all, func(q controlplane.Qualifier) string { return string(q) }, in.Marker, in.MaxItems, 50)
	if err != nil {
		return nil, err
	}
	out := &lambda.ListFunctionEventInvokeConfigsOutput{
		FunctionEventInvokeConfigs: []types.FunctionEventInvokeConfig{}, NextMarker: next,
	}
	for _, q := range some {
		kept := f.EventInvoke[q]
		out.FunctionEventInvokeConfigs = append(out.FunctionEventInvokeConfigs,
			*describeEventInvoke(s.functionARN(f.Name, q), &kept))
	}
	return out, nil
}

// describeEventInvoke always has both destinations, with nothing in them if
// there are none.
func describeEventInvoke(arn string, c *controlplane.EventInvokeConfig) *types.FunctionEventInvokeConfig {
	return &types.FunctionEventInvokeConfig{
		FunctionArn: &arn, LastModified: &c.ModifiedAt,
		MaximumEventAgeInSeconds: small(c.MaxAgeS), MaximumRetryAttempts: small(c.MaxRetries),
		DestinationConfig: &types.DestinationConfig{
			OnSuccess: &types.OnSuccess{Destination: optional(c.OnSuccess)},
			OnFailure: &types.OnFailure{Destination: optional(c.OnFailure)},
		},
	}
}

// small is a number as the SDK has it.
func small(n *int) *int32 {
	if n == nil {
		return nil
	}
	return new(int32(*n)) //nolint:gosec // bounded by the rules
}
