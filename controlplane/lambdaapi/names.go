package lambdaapi

import (
	"regexp"
	"strings"

	"github.com/hearth-compute/hearth/controlplane"
)

// The patterns of AWS's service model, whole: messages quote them.
const (
	functionNameText = `(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?` +
		`(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?`
	qualifierText    = `\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+`
	publishedText    = `(\$LATEST\.PUBLISHED|[0-9]+)`
	providerARNText  = `arn:aws[a-zA-Z-]*:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:capacity-provider:[a-zA-Z0-9-_]+`
	providerNameText = `(` + providerARNText + `)|[a-zA-Z0-9-_]+`
	roleText         = `arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+`
	handlerText      = `[^\s]+`
	logGroupText     = `[\.\-_/#A-Za-z0-9]+`
	instanceTypeText = `[a-zA-Z0-9\.\-]+`
	variableText     = `[a-zA-Z]([a-zA-Z0-9_])+`
	keyText          = `(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()`
)

var (
	functionNamePattern = regexp.MustCompile(`^(?:` + functionNameText + `)$`)
	qualifierPattern    = regexp.MustCompile(`^(?:` + qualifierText + `)$`)
	publishedPattern    = regexp.MustCompile(`^(?:` + publishedText + `)$`)
	providerARNPattern  = regexp.MustCompile(`^(?:` + providerARNText + `)$`)
	providerNamePattern = regexp.MustCompile(`^(?:` + providerNameText + `)$`)
	rolePattern         = regexp.MustCompile(`^(?:` + roleText + `)$`)
	handlerPattern      = regexp.MustCompile(`^(?:` + handlerText + `)$`)
	logGroupPattern     = regexp.MustCompile(`^(?:` + logGroupText + `)$`)
	instanceTypePattern = regexp.MustCompile(`^(?:` + instanceTypeText + `)$`)
	variablePattern     = regexp.MustCompile(`^(?:` + variableText + `)$`)
	keyPattern          = regexp.MustCompile(`^(?:` + keyText + `)$`)
	regionPattern       = regexp.MustCompile(`^(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d$`)
	numberPattern       = regexp.MustCompile(`^[1-9][0-9]{0,8}$`)
)

// reference is a function as a caller names it.
type reference struct {
	Name controlplane.FunctionName
	// Qualifier is empty when none was given, in the name or beside it.
	Qualifier controlplane.Qualifier
}

// function reads a function's name or ARN, whole or in part, and the qualifier
// beside it, if any. maxName is the longest name the operation takes.
func (s *Server) function(name *string, qualifier *string, maxName int) (reference, error) {
	if name != nil && qualifier == nil && plain(*name) { // nearly every invoke
		return reference{Name: controlplane.FunctionName(*name)}, nil
	}
	var c constraints
	c.required("functionName", name != nil)
	c.text("functionName", name, 1, maxName, functionNamePattern, functionNameText)
	c.text("qualifier", qualifier, 1, 128, qualifierPattern, qualifierText)
	if err := c.err(); err != nil {
		return reference{}, err
	}
	ref, account, region := parseFunction(*name)
	if account != "" && account != s.cfg.AccountID {
		return reference{}, notFound("Function not found: %s", *name)
	}
	if region != "" && region != s.cfg.Region {
		return reference{}, notFound("Functions from '%s' are not reachable in this region ('%s')", region, s.cfg.Region)
	}
	if qualifier != nil {
		if ref.Qualifier != "" && string(ref.Qualifier) != *qualifier {
			return reference{}, invalidParameter(
				"The derived qualifier from the function name does not match the specified qualifier.")
		}
		ref.Qualifier = controlplane.Qualifier(*qualifier)
	}
	return ref, nil
}

// plain reports whether name is nothing but a function's name.
func plain(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return name != "" && len(name) <= maxFunctionName
}

// maxFunctionName is the longest name of a function.
const maxFunctionName = 64

// parseFunction takes a name apart that fits functionNamePattern.
func parseFunction(name string) (ref reference, account, region string) {
	m := functionNamePattern.FindStringSubmatch(name)
	index := func(group int) string { return strings.TrimSuffix(m[group], ":") }
	return reference{controlplane.FunctionName(m[groupName]), controlplane.Qualifier(m[groupQualifier])},
		index(groupAccount), index(groupRegion)
}

// The groups of functionNameText.
const (
	groupRegion    = 3
	groupAccount   = 9
	groupName      = 11
	groupQualifier = 13
)

// functionARN is the ARN of a function, qualified when q is not empty.
func (s *Server) functionARN(name controlplane.FunctionName, q controlplane.Qualifier) string {
	arn := s.arn("function", string(name))
	if q != "" {
		arn += ":" + string(q)
	}
	return arn
}

func (s *Server) arn(kind, name string) string {
	partition := "aws"
	switch {
	case strings.HasPrefix(s.cfg.Region, "cn-"):
		partition = "aws-cn"
	case strings.Contains(s.cfg.Region, "-gov-"):
		partition = "aws-us-gov"
	case strings.HasPrefix(s.cfg.Region, "eusc-"):
		partition = "aws-eusc"
	}
	return "arn:" + partition + ":lambda:" + s.cfg.Region + ":" + s.cfg.AccountID + ":" + kind + ":" + name
}

// provider reads a capacity provider's name or ARN.
func (s *Server) provider(name *string) (controlplane.ProviderName, error) {
	var c constraints
	c.required("capacityProviderName", name != nil)
	c.text("capacityProviderName", name, 1, 140, providerNamePattern, providerNameText)
	if err := c.err(); err != nil {
		return "", err
	}
	return s.providerOf(*name)
}

// providerOf returns the name in a name or ARN that fits providerNamePattern.
func (s *Server) providerOf(name string) (controlplane.ProviderName, error) {
	last := name[strings.LastIndex(name, ":")+1:]
	if last != name && name != s.arn("capacity-provider", last) {
		return "", notFound("Capacity provider not found: %s", name)
	}
	return controlplane.ProviderName(last), nil
}
