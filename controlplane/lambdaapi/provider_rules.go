package lambdaapi

import (
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// checkProvider checks a provider to be made against lmi-behaviour §1.2.
func checkProvider(in *lambda.CreateCapacityProviderInput) error {
	var c constraints
	c.required("capacityProviderName", in.CapacityProviderName != nil)
	c.text("capacityProviderName", in.CapacityProviderName, 1, 140, providerNamePattern, providerNameText)
	c.required("vpcConfig", in.VpcConfig != nil)
	c.required("permissionsConfig", in.PermissionsConfig != nil)
	return checkMembers(&c, in)
}

// checkMembers checks what of a provider can be changed, as far as it is given.
func checkMembers(c *constraints, in *lambda.CreateCapacityProviderInput) error {
	if v := in.VpcConfig; v != nil {
		c.required("vpcConfig.subnetIds", v.SubnetIds != nil)
		length(c, "vpcConfig.subnetIds", v.SubnetIds, 1, 16)
		c.required("vpcConfig.securityGroupIds", v.SecurityGroupIds != nil)
		length(c, "vpcConfig.securityGroupIds", v.SecurityGroupIds, 0, 5)
	}
	if p := in.PermissionsConfig; p != nil {
		at := "permissionsConfig.capacityProviderOperatorRoleArn"
		c.required(at, p.CapacityProviderOperatorRoleArn != nil)
		c.text(at, p.CapacityProviderOperatorRoleArn, 0, 0, rolePattern, roleText)
	}
	checkRequirements(c, in.InstanceRequirements)
	checkScaling(c, in.CapacityProviderScalingConfig)
	c.text("kmsKeyArn", in.KmsKeyArn, 0, 0, keyPattern, keyText)
	checkPropagation(c, in.PropagateTags)
	checkTelemetry(c, in.TelemetryConfig)
	if err := c.err(); err != nil {
		return err
	}
	if r := in.InstanceRequirements; r != nil && len(r.AllowedInstanceTypes) > 0 && len(r.ExcludedInstanceTypes) > 0 {
		return invalidParameter("Only one of AllowedInstanceTypes and ExcludedInstanceTypes can be set.")
	}
	return checkSubnets(in.VpcConfig)
}

func checkSubnets(in *types.CapacityProviderVpcConfig) error {
	if in == nil {
		return nil
	}
	seen := map[string]bool{}
	for _, subnet := range in.SubnetIds {
		if subnet == "" || seen[subnet] {
			return invalidParameter("SubnetIds must not be empty or repeated: '%s'", subnet)
		}
		seen[subnet] = true
	}
	return nil
}

func checkRequirements(c *constraints, in *types.InstanceRequirements) {
	if in == nil {
		return
	}
	length(c, "instanceRequirements.architectures", in.Architectures, 1, 1)
	for _, a := range in.Architectures {
		enum(c, "instanceRequirements.architectures", a, a.Values())
	}
	for at, list := range map[string][]string{
		"instanceRequirements.allowedInstanceTypes":  in.AllowedInstanceTypes,
		"instanceRequirements.excludedInstanceTypes": in.ExcludedInstanceTypes,
	} {
		length(c, at, list, 0, 400)
		c.elements(at, list, 1, 30, instanceTypePattern, instanceTypeText)
	}
}

func checkScaling(c *constraints, in *types.CapacityProviderScalingConfig) {
	if in == nil {
		return
	}
	at := "capacityProviderScalingConfig."
	between(c, at+"maxVCpuCount", in.MaxVCpuCount, 2, 15000)
	enum(c, at+"scalingMode", in.ScalingMode, in.ScalingMode.Values())
	if n := len(in.ScalingPolicies); in.ScalingPolicies != nil && (n < 1 || n > 10) {
		length(c, at+"scalingPolicies", make([]string, n), 1, 10)
	}
	for _, p := range in.ScalingPolicies {
		c.required(at+"scalingPolicies.member.predefinedMetricType", p.PredefinedMetricType != "")
		enum(c, at+"scalingPolicies.member.predefinedMetricType", p.PredefinedMetricType, p.PredefinedMetricType.Values())
		c.required(at+"scalingPolicies.member.targetValue", p.TargetValue != nil)
		between(c, at+"scalingPolicies.member.targetValue", p.TargetValue, 0.0, 100.0)
	}
}

func checkPropagation(c *constraints, in *types.PropagateTags) {
	if in == nil {
		return
	}
	c.required("propagateTags.mode", in.Mode != "")
	enum(c, "propagateTags.mode", in.Mode, in.Mode.Values())
	if n := len(in.ExplicitTags); n > 40 {
		length(c, "propagateTags.explicitTags", make([]string, n), 0, 40)
	}
}

func checkTelemetry(c *constraints, in *types.CapacityProviderTelemetryConfig) {
	if in == nil || in.LoggingConfig == nil {
		return
	}
	l := in.LoggingConfig
	enum(c, "telemetryConfig.loggingConfig.systemLogLevel", l.SystemLogLevel, l.SystemLogLevel.Values())
	c.text("telemetryConfig.loggingConfig.logGroup", l.LogGroup, 1, 512, logGroupPattern, logGroupText)
}
