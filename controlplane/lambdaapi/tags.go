package lambdaapi

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// Bounds of tags, AWS's. Lengths are in characters.
const (
	maxTags     = 50
	maxTagKey   = 128
	maxTagValue = 256
)

// taggableText is the pattern of AWS's service model, whole: messages quote it.
const taggableText = `arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:` +
	`(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|` +
	`event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|` +
	`capacity-provider:[a-zA-Z0-9-_]+)`

var taggablePattern = regexp.MustCompile(`^(?:` + taggableText + `)$`)

// checkTags checks the tags a resource would have.
func checkTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return invalidParameter("Number of tags exceeds resource tag limit.")
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		switch n := utf8.RuneCountInString(key); {
		case n == 0:
			return invalidParameter("Tag keys must not be empty.")
		case n > maxTagKey:
			return invalidParameter("Tag keys must have at most %d characters: '%s' has %d.", maxTagKey, key, n)
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			return invalidParameter("Tag keys must not start with the reserved prefix aws: '%s'", key)
		}
		if n := utf8.RuneCountInString(tags[key]); n > maxTagValue {
			return invalidParameter("Tag values must have at most %d characters: that of '%s' has %d.", maxTagValue, key, n)
		}
	}
	return nil
}

// tagged is a resource that has tags: a function or a capacity provider.
type tagged struct {
	function controlplane.FunctionName
	provider controlplane.ProviderName
}

// tagged reads the ARN of a resource with tags.
func (s *Server) tagged(arn *string) (tagged, error) {
	var c constraints
	c.required("resource", arn != nil)
	c.text("resource", arn, 1, 256, taggablePattern, taggableText)
	if err := c.err(); err != nil {
		return tagged{}, err
	}
	kind := strings.SplitN(*arn, ":", 7)[5]
	switch kind {
	case "function":
		ref, err := s.function(arn, nil, 256)
		if err == nil && ref.Qualifier != "" {
			err = invalidParameter("Tags on function aliases and versions are not supported. Please specify a function ARN.")
		}
		return tagged{function: ref.Name}, err
	case "capacity-provider":
		name, err := s.providerOf(*arn)
		return tagged{provider: name}, err
	case "code-signing-config":
		return tagged{}, notFound("The Lambda code signing configuration %s can not be found.", *arn)
	}
	return tagged{}, notFound("The resource you requested does not exist.")
}

// read returns the tags of the resource.
func (t tagged) read(s *Server, r store.Reader) (map[string]string, error) {
	if t.function != "" {
		f, err := s.readFunction(r, reference{Name: t.function})
		if err != nil {
			return nil, err
		}
		return f.Tags, nil
	}
	p, err := s.readProvider(r, t.provider)
	return p.Tags, err
}

// change applies fn to the tags of the resource, which must not be going.
func (t tagged) change(s *Server, w store.Writer, fn func(map[string]string)) error {
	if t.function != "" {
		f, err := s.editable(w, reference{Name: t.function}, nil)
		if err != nil {
			return err
		}
		if f.Tags, err = changedTags(f.Tags, fn); err != nil {
			return err
		}
		return w.PutFunction(*f)
	}
	p, err := s.readProvider(w, t.provider)
	if err != nil {
		return err
	}
	if p.State == controlplane.ProviderDeleting {
		return providerState(&p)
	}
	if p.Tags, err = changedTags(p.Tags, fn); err != nil {
		return err
	}
	return w.PutProvider(p)
}

func changedTags(tags map[string]string, fn func(map[string]string)) (map[string]string, error) {
	out := maps.Clone(tags)
	if out == nil {
		out = map[string]string{}
	}
	fn(out)
	return out, checkTags(out)
}

func (s *Server) tagResource(ctx context.Context, in *lambda.TagResourceInput) error {
	var c constraints
	c.required("tags", in.Tags != nil)
	if err := c.err(); err != nil {
		return err
	}
	t, err := s.tagged(in.Resource)
	if err != nil {
		return err
	}
	if len(in.Tags) == 0 {
		return invalidParameter("An error occurred and the request cannot be processed.")
	}
	return s.update(ctx, func(w store.Writer) error {
		return t.change(s, w, func(tags map[string]string) { maps.Copy(tags, in.Tags) })
	})
}

func (s *Server) untagResource(ctx context.Context, in *lambda.UntagResourceInput) error {
	var c constraints
	c.required("tagKeys", len(in.TagKeys) > 0)
	if err := c.err(); err != nil {
		return err
	}
	t, err := s.tagged(in.Resource)
	if err != nil {
		return err
	}
	return s.update(ctx, func(w store.Writer) error {
		return t.change(s, w, func(tags map[string]string) {
			for _, key := range in.TagKeys {
				delete(tags, key)
			}
		})
	})
}

func (s *Server) listTags(ctx context.Context, in *lambda.ListTagsInput) (*lambda.ListTagsOutput, error) {
	t, err := s.tagged(in.Resource)
	if err != nil {
		return nil, err
	}
	out := &lambda.ListTagsOutput{}
	err = s.cfg.DB.View(ctx, func(r store.Reader) (err error) {
		out.Tags, err = t.read(s, r)
		return err
	})
	if out.Tags == nil {
		out.Tags = map[string]string{}
	}
	return out, err
}
