package lambdaapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
)

// Defaults of a function's configuration.
const (
	defaultMemoryMB     = 2048
	onDemandMemoryMB    = 128
	maxOnDemandMemoryMB = 10240
	defaultTimeoutS     = 3
	defaultEphemeralMB  = 512
	maxTimeoutS         = 5400
	maxOnDemandTimeoutS = 900
	maxVariableBytes    = 4096
	concurrencyPerVCPU  = 64
)

// settings is what CreateFunction and UpdateFunctionConfiguration have in
// common. Nil and empty members were not given.
type settings struct {
	role, handler, description, kmsKey *string
	memoryMB, timeoutS                 *int32
	runtime                            types.Runtime
	environment                        *types.Environment
	ephemeral                          *types.EphemeralStorage
	logging                            *types.LoggingConfig
	tracing                            *types.TracingConfig
	deadLetter                         *types.DeadLetterConfig
	provider                           *types.CapacityProviderConfig
	image                              *types.ImageConfig
	layers                             []string
	refused                            []refusal
}

// refusal is a feature that a request used and there is none of here.
type refusal struct {
	used   bool
	member string
}

func createSettings(in *lambda.CreateFunctionInput) settings {
	return settings{
		role: in.Role, handler: in.Handler, description: in.Description, kmsKey: in.KMSKeyArn,
		memoryMB: in.MemorySize, timeoutS: in.Timeout, runtime: in.Runtime, environment: in.Environment,
		ephemeral: in.EphemeralStorage, logging: in.LoggingConfig, tracing: in.TracingConfig,
		deadLetter: in.DeadLetterConfig, provider: in.CapacityProviderConfig, image: in.ImageConfig, layers: in.Layers,
		refused: append(refusals(in.VpcConfig, in.SnapStart, in.FileSystemConfigs, in.DurableConfig),
			refusal{in.TenancyConfig != nil, "TenancyConfig"},
			refusal{deref(in.CodeSigningConfigArn) != "", "CodeSigningConfigArn"},
			refusal{in.Code != nil && deref(in.Code.SourceKMSKeyArn) != "", "SourceKMSKeyArn"}),
	}
}

func updateSettings(in *lambda.UpdateFunctionConfigurationInput) settings {
	return settings{
		role: in.Role, handler: in.Handler, description: in.Description, kmsKey: in.KMSKeyArn,
		memoryMB: in.MemorySize, timeoutS: in.Timeout, runtime: in.Runtime, environment: in.Environment,
		ephemeral: in.EphemeralStorage, logging: in.LoggingConfig, tracing: in.TracingConfig,
		deadLetter: in.DeadLetterConfig, provider: in.CapacityProviderConfig, image: in.ImageConfig, layers: in.Layers,
		refused: refusals(in.VpcConfig, in.SnapStart, in.FileSystemConfigs, in.DurableConfig),
	}
}

// refusals lists the features a managed-instances function cannot have, and
// those that are not available here.
func refusals(vpc *types.VpcConfig, snap *types.SnapStart, files []types.FileSystemConfig,
	durable *types.DurableConfig,
) []refusal {
	return []refusal{
		{vpc != nil && len(vpc.SubnetIds)+len(vpc.SecurityGroupIds) > 0, "VpcConfig"},
		{snap != nil && snap.ApplyOn != "" && snap.ApplyOn != types.SnapStartApplyOnNone, "SnapStart"},
		{len(files) > 0, "FileSystemConfigs"},
		{durable != nil, "DurableConfig"},
	}
}

// check checks the members one by one, in AWS's words.
func (in *settings) check() error {
	var c constraints
	c.text("role", in.role, 0, 0, rolePattern, roleText)
	c.text("handler", in.handler, 0, 128, handlerPattern, handlerText)
	c.text("description", in.description, 0, 256, nil, "")
	c.text("kMSKeyArn", in.kmsKey, 0, 0, keyPattern, keyText)
	if d := in.deadLetter; d != nil {
		c.text("deadLetterConfig.targetArn", d.TargetArn, 0, 0, keyPattern, keyText)
	}
	between(&c, "memorySize", in.memoryMB, 128, 32768)
	between(&c, "timeout", in.timeoutS, 1, maxTimeoutS)
	if in.ephemeral != nil {
		c.required("ephemeralStorage.size", in.ephemeral.Size != nil)
		between(&c, "ephemeralStorage.size", in.ephemeral.Size, 512, 10240)
	}
	if in.environment != nil {
		checkVariableNames(&c, in.environment.Variables)
	}
	if l := in.logging; l != nil {
		enum(&c, "loggingConfig.logFormat", l.LogFormat, l.LogFormat.Values())
		enum(&c, "loggingConfig.applicationLogLevel", l.ApplicationLogLevel, l.ApplicationLogLevel.Values())
		enum(&c, "loggingConfig.systemLogLevel", l.SystemLogLevel, l.SystemLogLevel.Values())
		c.text("loggingConfig.logGroup", l.LogGroup, 1, 512, logGroupPattern, logGroupText)
	}
	if t := in.tracing; t != nil {
		enum(&c, "tracingConfig.mode", t.Mode, t.Mode.Values())
	}
	checkImageConfig(&c, in.image)
	checkLayers(&c, in.layers)
	in.checkCapacityProvider(&c)
	if err := c.err(); err != nil {
		return err
	}
	return in.checkVariables()
}

// checkVariableNames never shows what is in the map: AWS takes it for a secret.
func checkVariableNames(c *constraints, variables map[string]string) {
	for name := range variables {
		if !variablePattern.MatchString(name) {
			c.broken = append(c.broken, "Value at 'environment.variables' failed to satisfy constraint: Map keys must satisfy "+
				"constraint: [Member must satisfy regular expression pattern: "+variableText+"]")
			return
		}
	}
}

func (in *settings) checkCapacityProvider(c *constraints) {
	if in.provider == nil {
		return
	}
	at := "capacityProviderConfig.lambdaManagedInstancesCapacityProviderConfig"
	p := in.provider.LambdaManagedInstancesCapacityProviderConfig
	c.required(at, p != nil)
	if p == nil {
		return
	}
	c.required(at+".capacityProviderArn", p.CapacityProviderArn != nil)
	c.text(at+".capacityProviderArn", p.CapacityProviderArn, 1, 140, providerARNPattern, providerARNText)
	between(c, at+".perExecutionEnvironmentMaxConcurrency", p.PerExecutionEnvironmentMaxConcurrency, 1, 1600)
	between(c, at+".executionEnvironmentMemoryGiBPerVCpu", p.ExecutionEnvironmentMemoryGiBPerVCpu, 2.0, 8.0)
}

// reservedVariables are set by the platform and cannot be changed (lmi-behaviour §8.5).
func reservedVariables() []string {
	return []string{
		"_HANDLER", "AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION",
		"AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME",
		"AWS_LAMBDA_MAX_CONCURRENCY", "AWS_LAMBDA_RUNTIME_API", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY",
		"AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN", "LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT",
	}
}

func (in *settings) checkVariables() error {
	if in.environment == nil {
		return nil
	}
	var used []string
	for _, name := range reservedVariables() {
		if _, ok := in.environment.Variables[name]; ok {
			used = append(used, name)
		}
	}
	if len(used) > 0 {
		return invalidParameter("Lambda was unable to configure your environment variables because the environment variables "+
			"you have provided contains reserved keys that are currently not supported for modification. "+
			"Reserved keys used in this request: %s", strings.Join(used, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(in.environment.Variables)) {
		if strings.ContainsRune(in.environment.Variables[name], 0) {
			return invalidParameter("Lambda was unable to configure your environment variables because the value of %s "+
				"contains a null character.", name)
		}
	}
	text, err := json.Marshal(in.environment.Variables)
	if err != nil {
		return fmt.Errorf("measuring environment variables: %w", err)
	}
	if len(in.environment.Variables) > 0 && len(text) > maxVariableBytes {
		return invalidParameter("Lambda was unable to configure your environment variables because the environment variables " +
			"you have provided exceeded the 4KB limit.")
	}
	return nil
}

// defaults is the configuration of a function nobody said anything about. On
// demand it leaves the architecture to the provider.
func defaults(name controlplane.FunctionName, onDemand bool) controlplane.Config {
	c := controlplane.Config{
		PackageType: string(types.PackageTypeZip), MemoryMB: defaultMemoryMB, TimeoutS: defaultTimeoutS,
		EphemeralMB: defaultEphemeralMB, Architecture: string(types.ArchitectureX8664),
		TracingMode: string(types.TracingModePassThrough), LogFormat: string(types.LogFormatJson),
		AppLogLevel: string(types.ApplicationLogLevelInfo), SysLogLevel: string(types.SystemLogLevelInfo),
		LogGroup: "/aws/lambda/" + string(name),
	}
	if onDemand {
		c.OnDemand, c.MemoryMB, c.Architecture = true, onDemandMemoryMB, ""
		c.LogFormat, c.AppLogLevel, c.SysLogLevel = string(types.LogFormatText), "", ""
	}
	return c
}

// apply changes c as asked, or says what a function of its kind cannot have.
func (in *settings) apply(c *controlplane.Config) error {
	if err := in.refuse(c); err != nil {
		return err
	}
	set(&c.RoleARN, in.role)
	set(&c.KMSKeyARN, in.kmsKey)
	set(&c.Handler, in.handler)
	set(&c.Description, in.description)
	setNumber(&c.MemoryMB, in.memoryMB)
	setNumber(&c.TimeoutS, in.timeoutS)
	setEnum(&c.Runtime, in.runtime)
	if in.environment != nil {
		c.Variables = maps.Clone(in.environment.Variables)
	}
	if in.ephemeral != nil {
		setNumber(&c.EphemeralMB, in.ephemeral.Size)
	}
	if in.tracing != nil {
		setEnum(&c.TracingMode, in.tracing.Mode)
	}
	if in.deadLetter != nil {
		c.DeadLetterARN = deref(in.deadLetter.TargetArn)
	}
	applyImageConfig(c, in.image)
	if in.logging != nil {
		applyLogging(c, in.logging)
	}
	if in.provider != nil {
		p := in.provider.LambdaManagedInstancesCapacityProviderConfig
		c.MaxConcurrency = int(deref(p.PerExecutionEnvironmentMaxConcurrency))
		c.GiBPerVCPU = deref(p.ExecutionEnvironmentMemoryGiBPerVCpu)
	}
	return nil
}

// refuse says what of the request a function of its kind cannot have.
func (in *settings) refuse(c *controlplane.Config) error {
	if err := in.checkPackage(types.PackageType(c.PackageType)); err != nil {
		return err
	}
	for _, r := range in.refused {
		switch {
		case r.used && c.OnDemand:
			return invalidParameter("%s is not available in this service.", r.member)
		case r.used:
			return invalidParameter("%s is not supported for functions configured with capacity provider", r.member)
		}
	}
	if in.provider != nil && c.OnDemand {
		return invalidParameter("CapacityProviderConfig isn't supported for Lambda Default functions.")
	}
	return nil
}

// applyLogging changes the format first: with it levels come and go.
func applyLogging(c *controlplane.Config, in *types.LoggingConfig) {
	setEnum(&c.LogFormat, in.LogFormat)
	if c.LogFormat == string(types.LogFormatText) {
		c.AppLogLevel, c.SysLogLevel = "", ""
	} else {
		c.AppLogLevel = cmp.Or(c.AppLogLevel, string(types.ApplicationLogLevelInfo))
		c.SysLogLevel = cmp.Or(c.SysLogLevel, string(types.SystemLogLevelInfo))
	}
	setEnum(&c.AppLogLevel, in.ApplicationLogLevel)
	setEnum(&c.SysLogLevel, in.SystemLogLevel)
	set(&c.LogGroup, in.LogGroup)
}

func set(to *string, value *string) {
	if value != nil {
		*to = *value
	}
}

func setEnum[E ~string](to *string, value E) {
	if value != "" {
		*to = string(value)
	}
}

func setNumber(to *int, value *int32) {
	if value != nil {
		*to = int(*value)
	}
}

// checkConfig checks a whole configuration: what members allow one by one and
// not together.
func (s *Server) checkConfig(c *controlplane.Config) error {
	if c.PackageType == string(types.PackageTypeZip) {
		if c.Runtime == "" || c.Handler == "" {
			return invalidParameter("Runtime and Handler are mandatory parameters for functions created with deployment packages.")
		}
		if err := s.checkRuntime(c.Runtime, c.OnDemand); err != nil {
			return err
		}
	}
	if c.LogFormat == string(types.LogFormatText) && (!c.OnDemand || c.AppLogLevel+c.SysLogLevel != "") {
		return invalidParameter(`LogLevel is not supported when LogFormat is set to "Text". Remove LogLevel from your request ` +
			`or change the LogFormat to "JSON" and try again.`)
	}
	if c.OnDemand {
		return checkOnDemand(c)
	}
	return s.checkSize(c)
}

// checkSize checks memory, vCPU and concurrency (lmi-behaviour §2.2, §2.3).
func (s *Server) checkSize(c *controlplane.Config) error {
	perVCPU := ratio(c)
	vcpu := float64(c.MemoryMB) / 1024 / perVCPU
	if s.cfg.Strict {
		switch {
		case c.MemoryMB < 2048:
			return invalidParameter("'MemorySize' value failed to satisfy constraint: Member must have value greater than or equal to 2048")
		case perVCPU != 2 && perVCPU != 4 && perVCPU != 8:
			return invalidParameter("'ExecutionEnvironmentMemoryGiBPerVCpu' value failed to satisfy constraint: " +
				"Member must satisfy enum value set: [2.0, 4.0, 8.0]")
		case vcpu < 1 || vcpu != math.Trunc(vcpu):
			return invalidParameter("MemorySize %d with ExecutionEnvironmentMemoryGiBPerVCpu %v makes %v vCPUs. "+
				"It must make a whole number of vCPUs, at least 1.", c.MemoryMB, perVCPU, vcpu)
		}
	}
	if most := concurrencyPerVCPU * max(1, vcpu); float64(c.MaxConcurrency) > most {
		return invalidParameter("PerExecutionEnvironmentMaxConcurrency %d is more than %d for each vCPU: at most %d with %v vCPUs.",
			c.MaxConcurrency, concurrencyPerVCPU, int(most), vcpu)
	}
	return nil
}

// checkRuntime wants a runtime that has an image and, when strict, one that AWS
// runs on managed instances (lmi-behaviour §2.3).
func (s *Server) checkRuntime(name string, onDemand bool) error {
	if !s.cfg.Runtimes(name) {
		var names []string
		for _, r := range types.Runtime("").Values() {
			if s.cfg.Runtimes(string(r)) {
				names = append(names, string(r))
			}
		}
		return invalidParameter("Value %s at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "+
			"[%s] or be a valid ARN", name, strings.Join(names, ", "))
	}
	modern := []string{
		"nodejs22.x", "nodejs24.x", "java21", "java25", "dotnet8", "dotnet10", "python3.13", "python3.14", "provided.al2023",
	}
	if s.cfg.Strict && !onDemand && !slices.Contains(modern, name) {
		return invalidParameter("Runtime Enum %s does not support specified feature: Lambda Managed Instances", name)
	}
	return nil
}
