package lambdaapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// putProvider updates the provider "pool" without an SDK.
func (s *system) putProvider(body string) (answer, string) {
	s.t.Helper()
	return s.send("PUT", providersPath+"/pool", strings.NewReader(body))
}

func (s *system) pool() (p controlplane.CapacityProvider) {
	s.t.Helper()
	s.store(func(w store.Writer) (err error) {
		p, err = w.Provider("pool")
		return err
	})
	return p
}

func TestAProviderIsUpdatedBeyondAWS(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withProvider()
	const role2, key = "arn:aws:iam::123456789012:role/other", "arn:aws:kms:us-east-1:123456789012:key/k"
	for _, step := range []struct {
		body string
		// rolls is set when instances made before are to be replaced for it. Those
		// in a zone that was given up are too, whatever they were made from.
		rolls  bool
		change func(*types.CapacityProvider)
	}{
		{`{"VpcConfig":{"SubnetIds":["a","d"],"SecurityGroupIds":[]}}`, false, func(p *types.CapacityProvider) {
			p.VpcConfig.SubnetIds = []string{"a", "d"}
		}},
		{`{"VpcConfig":{"SubnetIds":["a","d"],"SecurityGroupIds":["sg-1"]}}`, true, func(p *types.CapacityProvider) {
			p.VpcConfig.SecurityGroupIds = []string{"sg-1"}
		}},
		{`{"PermissionsConfig":{"CapacityProviderOperatorRoleArn":"` + role2 + `"}}`, true, func(p *types.CapacityProvider) {
			p.PermissionsConfig.CapacityProviderOperatorRoleArn = aws.String(role2)
		}},
		{`{"InstanceRequirements":{"AllowedInstanceTypes":["m7i.large"],"Architectures":["x86_64"]}}`, true, func(p *types.CapacityProvider) {
			p.InstanceRequirements.AllowedInstanceTypes = []string{"m7i.large"}
		}},
		{`{"InstanceRequirements":{"ExcludedInstanceTypes":["c7i.large"]}}`, true, func(p *types.CapacityProvider) {
			p.InstanceRequirements.AllowedInstanceTypes, p.InstanceRequirements.ExcludedInstanceTypes = nil, []string{"c7i.large"}
		}},
		{`{"InstanceRequirements":{"ExcludedInstanceTypes":["c7i.large","c6i.large"]}}`, true, func(p *types.CapacityProvider) {
			p.InstanceRequirements.ExcludedInstanceTypes = []string{"c7i.large", "c6i.large"}
		}},
		{`{"InstanceRequirements":{"Architectures":["arm64"],"ExcludedInstanceTypes":["c7i.large","c6i.large"]}}`, true, func(p *types.CapacityProvider) {
			p.InstanceRequirements.Architectures = []types.Architecture{"arm64"}
		}},
		{`{"KmsKeyArn":"` + key + `"}`, true, func(p *types.CapacityProvider) { p.KmsKeyArn = aws.String(key) }},
		{`{"CapacityProviderScalingConfig":{"MaxVCpuCount":64}}`, false, func(p *types.CapacityProvider) {
			p.CapacityProviderScalingConfig.MaxVCpuCount = aws.Int32(64)
		}},
		{`{"PropagateTags":{"Mode":"Explicit","ExplicitTags":{"a":"b"}}}`, false, func(p *types.CapacityProvider) {
			p.PropagateTags = &types.PropagateTags{Mode: "Explicit", ExplicitTags: map[string]string{"a": "b"}}
		}},
	} {
		old := s.pool()
		get := func() *types.CapacityProvider {
			return must[*lambda.GetCapacityProviderOutput](t)(s.GetCapacityProvider(t.Context(),
				&lambda.GetCapacityProviderInput{CapacityProviderName: aws.String("pool")})).CapacityProvider
		}
		want := get()
		step.change(want)
		w, body := s.putProvider(step.body)
		got := get()
		want.LastModified = got.LastModified
		same(t, step.body, want, got)
		if w.StatusCode != 202 || !json.Valid([]byte(body)) {
			t.Errorf("%s: answered %d %s", step.body, w.StatusCode, body)
		}
		if p := s.pool(); (p.Template() != old.Template()) != step.rolls {
			t.Errorf("%s: the template was %s and is %s: instances replaced %t, want %t", step.body, old.Template(), p.Template(), !step.rolls, step.rolls)
		}
	}
}

func TestAProviderIsUpdatedByTheRulesOfItsCreation(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	before := s.pool()
	for body, want := range map[string]struct {
		status        int
		code, message string
	}{
		`{"VpcConfig":{"SubnetIds":[],"SecurityGroupIds":[]}}`: {
			400, "ValidationException", valid("vpcConfig.subnetIds", "'[]'", "Member must have length greater than or equal to 1"),
		},
		`{"VpcConfig":{"SubnetIds":["a"]}}`: {
			400, "ValidationException", valid("vpcConfig.securityGroupIds", "null", "Member must not be null"),
		},
		`{"VpcConfig":{"SubnetIds":["a","a"],"SecurityGroupIds":[]}}`: {
			400, "InvalidParameterValueException", "SubnetIds must not be empty or repeated: 'a'",
		},
		`{"PermissionsConfig":{}}`: {
			400, "ValidationException", valid("permissionsConfig.capacityProviderOperatorRoleArn", "null", "Member must not be null"),
		},
		`{"InstanceRequirements":{"AllowedInstanceTypes":["a"],"ExcludedInstanceTypes":["b"]}}`: {
			400, "InvalidParameterValueException", "Only one of AllowedInstanceTypes and ExcludedInstanceTypes can be set.",
		},
		`{"InstanceRequirements":{"Architectures":["arm64"]}}`: {
			409, "ResourceConflictException", "The architecture of the capacity provider " + providerBase + "pool cannot be changed because " +
				"it has 1 function versions attached, for example " + functionBase + "f:$LATEST. Delete them first.",
		},
		`{"Tags":{"a":"b"}}`: {
			400, "InvalidParameterValueException", "Tags cannot be updated here. Use TagResource and UntagResource.",
		},
		`{"VpcConfig":7}`: {400, "SerializationException", "Start of structure or map not found where expected."},
	} {
		w, text := s.putProvider(body)
		var got map[string]string
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		if message := got["message"] + got["Message"]; w.StatusCode != want.status || w.Header.Get("X-Amzn-Errortype") != want.code || message != want.message {
			t.Errorf("%s: answered %d %s\n%q, want\n%q", body, w.StatusCode, w.Header.Get("X-Amzn-Errortype"), message, want.message)
		}
	}
	same(t, "the provider", before, s.pool())
}
