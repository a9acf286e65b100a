package lambdaapi

import (
	"context"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/service/lambda/schemas"
	"github.com/aws/smithy-go"
)

// State is what becomes of an operation of the Lambda API here.
type State string

// The states.
const (
	// Works as at AWS, but for what is noted.
	Works State = "works"
	// StoredOnly: what it sets is kept and returned, and nothing acts on it.
	StoredOnly State = "stored only"
	// Refused with the operation's name: what it is for is not in the scope.
	Refused State = "refused"
	// Absent: refused in the same way, but in the scope and not there yet.
	Absent State = "absent"
)

// Operation describes an operation of the Lambda API to readers.
type Operation struct {
	Name, Method, Path string
	State              State
	// Note says in a few words what differs from AWS; it may be empty.
	Note string
}

// Operations describes every operation, in the order of the table the server
// uses.
func Operations() []Operation {
	var list []Operation
	for _, op := range new(Server).operations() {
		method, pattern, query := op.http()
		if query != "" {
			pattern += "?" + query
		}
		list = append(list, Operation{op.name(), method, pattern, op.state, op.note})
	}
	return list
}

// noted is the operation with a note on what differs from AWS.
func (o operation) noted(note string) operation {
	o.note = note
	return o
}

// storedOnly is the operation on what is kept and returned only.
func (o operation) storedOnly(note string) operation {
	o.state, o.note = StoredOnly, note
	return o
}

func refused(schema *smithy.Schema, note string) operation {
	return operation{schema: schema, state: Refused, note: note}
}

func absent(schema *smithy.Schema, note string) operation {
	return operation{schema: schema, state: Absent, note: note}
}

// unserved is the error of an operation without a function. No SDK retries it.
func (o *operation) unserved() error {
	message := "The operation " + o.name() + " is not supported by this service."
	if o.state == Absent {
		message = "The operation " + o.name() + " is not available in this service yet."
	}
	return &exception{name: "NotImplementedException", status: http.StatusNotImplemented, message: message}
}

// serveEmpty is a row for an operation that reads an I and answers nothing.
func serveEmpty[I any](op, input *smithy.Schema, fn func(context.Context, *I) error) operation {
	return serve(op, input, nil, func(ctx context.Context, in *I) (*struct{}, error) { return nil, fn(ctx, in) })
}

// operations is the table of every operation of the Lambda API. Method, path
// and query of each are in its schema.
func (s *Server) operations() []operation {
	return append(s.served(), []operation{
		refused(schemas.PutProvisionedConcurrencyConfig, "provisioned concurrency: environments are always running"),
		refused(schemas.DeleteProvisionedConcurrencyConfig, "provisioned concurrency: environments are always running"),
		refused(schemas.CreateCodeSigningConfig, "code signing"),
		refused(schemas.GetCodeSigningConfig, "code signing"),
		refused(schemas.UpdateCodeSigningConfig, "code signing"),
		refused(schemas.DeleteCodeSigningConfig, "code signing"),
		refused(schemas.ListFunctionsByCodeSigningConfig, "code signing"),
		refused(schemas.PutFunctionCodeSigningConfig, "code signing"),
		refused(schemas.DeleteFunctionCodeSigningConfig, "code signing"),
		refused(schemas.CreateEventSourceMapping, "event source mappings"),
		refused(schemas.GetEventSourceMapping, "event source mappings"),
		refused(schemas.UpdateEventSourceMapping, "event source mappings"),
		refused(schemas.DeleteEventSourceMapping, "event source mappings"),
		refused(schemas.CreateFunctionUrlConfig, "function URLs"),
		refused(schemas.UpdateFunctionUrlConfig, "function URLs"),
		refused(schemas.DeleteFunctionUrlConfig, "function URLs"),
		refused(schemas.CheckpointDurableExecution, "durable executions"),
		refused(schemas.GetDurableExecution, "durable executions"),
		refused(schemas.GetDurableExecutionHistory, "durable executions"),
		refused(schemas.GetDurableExecutionState, "durable executions"),
		refused(schemas.ListDurableExecutionsByFunction, "durable executions"),
		refused(schemas.SendDurableExecutionCallbackFailure, "durable executions"),
		refused(schemas.SendDurableExecutionCallbackHeartbeat, "durable executions"),
		refused(schemas.SendDurableExecutionCallbackSuccess, "durable executions"),
		refused(schemas.StopDurableExecution, "durable executions"),
		refused(schemas.InvokeAsync, "replaced by Invoke, at AWS too"),
		absent(schemas.PutResourcePolicy, "whole policies; AddPermission, RemovePermission and GetPolicy are there"),
		absent(schemas.GetResourcePolicy, "whole policies; AddPermission, RemovePermission and GetPolicy are there"),
		absent(schemas.DeleteResourcePolicy, "whole policies; AddPermission, RemovePermission and GetPolicy are there"),
	}...)
}

// served is what this service does.
func (s *Server) served() []operation {
	return []operation{
		{schema: schemas.Invoke, handle: s.invoke, state: Works, note: "synchronous and dry run; Event is refused; LogType Tail for every function; a caller waits 15 minutes at most, whatever the Timeout"},
		{schema: schemas.InvokeWithResponseStream, handle: s.invokeStream, state: Works, note: "as Invoke; at full speed, unless agents are told otherwise; an answer that its function does not stream comes in pieces too"},
		// Functions.
		s.upload(serve(schemas.CreateFunction, schemas.CreateFunctionRequest, schemas.FunctionConfiguration, s.createFunction)).
			noted("refuses what is not in the scope, and layers of other accounts; KMSKeyArn and DeadLetterConfig are kept and returned only; Role is assumed with `--assume-roles` only; nothing is sent to the log group; a Timeout above 900 is for asynchronous invokes, which are not there yet"),
		located(serve(schemas.GetFunction, schemas.GetFunctionRequest, schemas.GetFunctionResponse, s.getFunction)),
		serve(schemas.GetFunctionConfiguration, schemas.GetFunctionConfigurationRequest, schemas.FunctionConfiguration, s.getFunctionConfiguration),
		s.upload(serve(schemas.UpdateFunctionCode, schemas.UpdateFunctionCodeRequest, schemas.FunctionConfiguration, s.updateFunctionCode)),
		serve(schemas.UpdateFunctionConfiguration, schemas.UpdateFunctionConfigurationRequest, schemas.FunctionConfiguration, s.updateFunctionConfiguration).noted("as CreateFunction"),
		serve(schemas.DeleteFunction, schemas.DeleteFunctionRequest, schemas.DeleteFunctionResponse, s.deleteFunction).noted("the function is described with State Deleting until its environments are gone"),
		serve(schemas.ListFunctions, schemas.ListFunctionsRequest, schemas.ListFunctionsResponse, s.listFunctions).noted("no function is a replica of a MasterRegion"),
		serve(schemas.PublishVersion, schemas.PublishVersionRequest, schemas.FunctionConfiguration, s.publishVersion),
		serve(schemas.ListVersionsByFunction, schemas.ListVersionsByFunctionRequest, schemas.ListVersionsByFunctionResponse, s.listVersionsByFunction),
		// Scaling and concurrency.
		serve(schemas.PutFunctionScalingConfig, schemas.PutFunctionScalingConfigRequest, schemas.PutFunctionScalingConfigResponse, s.putFunctionScalingConfig).noted("a minimum of 0 with a maximum above 0 is allowed unless `--strict`; until there is scaling with load the minimum is what runs, and the maximum does nothing"),
		serve(schemas.GetFunctionScalingConfig, schemas.GetFunctionScalingConfigRequest, schemas.GetFunctionScalingConfigResponse, s.getFunctionScalingConfig),
		serve(schemas.PutFunctionConcurrency, schemas.PutFunctionConcurrencyRequest, schemas.Concurrency, s.putFunctionConcurrency).noted("nothing else limits the account: almost all of an Integer can be reserved"),
		serve(schemas.GetFunctionConcurrency, schemas.GetFunctionConcurrencyRequest, schemas.GetFunctionConcurrencyResponse, s.getFunctionConcurrency),
		serveEmpty(schemas.DeleteFunctionConcurrency, schemas.DeleteFunctionConcurrencyRequest, s.deleteFunctionConcurrency),
		// Capacity providers.
		serve(schemas.CreateCapacityProvider, schemas.CreateCapacityProviderRequest, schemas.CreateCapacityProviderResponse, s.createCapacityProvider).
			noted("security groups, operator role, instance types and KmsKeyArn mean nothing to local and static fleets; scaling policies, PropagateTags and TelemetryConfig are kept and returned only"),
		serve(schemas.GetCapacityProvider, schemas.GetCapacityProviderRequest, schemas.GetCapacityProviderResponse, s.getCapacityProvider),
		serve(schemas.ListCapacityProviders, schemas.ListCapacityProvidersRequest, schemas.ListCapacityProvidersResponse, s.listCapacityProviders),
		widened(serve(schemas.UpdateCapacityProvider, schemas.UpdateCapacityProviderRequest, schemas.UpdateCapacityProviderResponse, s.updateCapacityProvider)).noted("as CreateCapacityProvider, whose members it takes too, by plain HTTP"),
		serve(schemas.DeleteCapacityProvider, schemas.DeleteCapacityProviderRequest, schemas.DeleteCapacityProviderResponse, s.deleteCapacityProvider),
		serve(schemas.ListFunctionVersionsByCapacityProvider, schemas.ListFunctionVersionsByCapacityProviderRequest, schemas.ListFunctionVersionsByCapacityProviderResponse, s.listFunctionVersionsByCapacityProvider),
		// Aliases.
		serve(schemas.CreateAlias, schemas.CreateAliasRequest, schemas.AliasConfiguration, s.createAlias),
		serve(schemas.GetAlias, schemas.GetAliasRequest, schemas.AliasConfiguration, s.getAlias),
		serve(schemas.UpdateAlias, schemas.UpdateAliasRequest, schemas.AliasConfiguration, s.updateAlias),
		serveEmpty(schemas.DeleteAlias, schemas.DeleteAliasRequest, s.deleteAlias),
		serve(schemas.ListAliases, schemas.ListAliasesRequest, schemas.ListAliasesResponse, s.listAliases),
		// Tags and the account.
		serveEmpty(schemas.TagResource, schemas.TagResourceRequest, s.tagResource).noted("functions and capacity providers; the function's RevisionId stays"),
		serveEmpty(schemas.UntagResource, schemas.UntagResourceRequest, s.untagResource).noted("as TagResource"),
		serve(schemas.ListTags, schemas.ListTagsRequest, schemas.ListTagsResponse, s.listTags),
		serve(schemas.GetAccountSettings, schemas.GetAccountSettingsRequest, schemas.GetAccountSettingsResponse, s.getAccountSettings).noted("limits that do not exist here are the greatest number there is"),
		// Layers.
		located(s.upload(serve(schemas.PublishLayerVersion, schemas.PublishLayerVersionRequest, schemas.PublishLayerVersionResponse, s.publishLayerVersion))).noted("nothing acts on CompatibleRuntimes and CompatibleArchitectures"),
		located(serve(schemas.GetLayerVersion, schemas.GetLayerVersionRequest, schemas.GetLayerVersionResponse, s.getLayerVersion)).noted("of this account and region"),
		located(serve(schemas.GetLayerVersionByArn, schemas.GetLayerVersionByArnRequest, schemas.GetLayerVersionResponse, s.getLayerVersionByARN)).noted("of this account and region"),
		serveEmpty(schemas.DeleteLayerVersion, schemas.DeleteLayerVersionRequest, s.deleteLayerVersion),
		serve(schemas.ListLayers, schemas.ListLayersRequest, schemas.ListLayersResponse, s.listLayers),
		serve(schemas.ListLayerVersions, schemas.ListLayerVersionsRequest, schemas.ListLayerVersionsResponse, s.listLayerVersions),
		serve(schemas.AddLayerVersionPermission, schemas.AddLayerVersionPermissionRequest, schemas.AddLayerVersionPermissionResponse, s.addLayerVersionPermission).storedOnly("permissions neither allow nor deny: every caller may do everything"),
		serveEmpty(schemas.RemoveLayerVersionPermission, schemas.RemoveLayerVersionPermissionRequest, s.removeLayerVersionPermission).storedOnly(""),
		serve(schemas.GetLayerVersionPolicy, schemas.GetLayerVersionPolicyRequest, schemas.GetLayerVersionPolicyResponse, s.getLayerVersionPolicy).storedOnly(""),
		// Settings that are kept and returned.
		serve(schemas.PutFunctionRecursionConfig, schemas.PutFunctionRecursionConfigRequest, schemas.PutFunctionRecursionConfigResponse, s.putFunctionRecursionConfig).storedOnly("nothing looks for recursive loops"),
		serve(schemas.GetFunctionRecursionConfig, schemas.GetFunctionRecursionConfigRequest, schemas.GetFunctionRecursionConfigResponse, s.getFunctionRecursionConfig).storedOnly(""),
		serve(schemas.PutRuntimeManagementConfig, schemas.PutRuntimeManagementConfigRequest, schemas.PutRuntimeManagementConfigResponse, s.putRuntimeManagementConfig).storedOnly("runtime images are updated by whoever runs the service"),
		serve(schemas.GetRuntimeManagementConfig, schemas.GetRuntimeManagementConfigRequest, schemas.GetRuntimeManagementConfigResponse, s.getRuntimeManagementConfig).storedOnly(""),
		serve(schemas.PutFunctionEventInvokeConfig, schemas.PutFunctionEventInvokeConfigRequest, schemas.FunctionEventInvokeConfig, s.putFunctionEventInvokeConfig).storedOnly("there are no asynchronous invokes yet"),
		serve(schemas.UpdateFunctionEventInvokeConfig, schemas.UpdateFunctionEventInvokeConfigRequest, schemas.FunctionEventInvokeConfig, s.updateFunctionEventInvokeConfig).storedOnly(""),
		serve(schemas.GetFunctionEventInvokeConfig, schemas.GetFunctionEventInvokeConfigRequest, schemas.FunctionEventInvokeConfig, s.getFunctionEventInvokeConfig).storedOnly(""),
		serveEmpty(schemas.DeleteFunctionEventInvokeConfig, schemas.DeleteFunctionEventInvokeConfigRequest, s.deleteFunctionEventInvokeConfig).storedOnly(""),
		serve(schemas.ListFunctionEventInvokeConfigs, schemas.ListFunctionEventInvokeConfigsRequest, schemas.ListFunctionEventInvokeConfigsResponse, s.listFunctionEventInvokeConfigs).storedOnly(""),
		serve(schemas.AddPermission, schemas.AddPermissionRequest, schemas.AddPermissionResponse, s.addPermission).storedOnly("permissions neither allow nor deny: every caller may do everything; the policy has a RevisionId of its own"),
		serveEmpty(schemas.RemovePermission, schemas.RemovePermissionRequest, s.removePermission).storedOnly(""),
		serve(schemas.GetPolicy, schemas.GetPolicyRequest, schemas.GetPolicyResponse, s.getPolicy).storedOnly(""),
		serve(schemas.GetFunctionCodeSigningConfig, schemas.GetFunctionCodeSigningConfigRequest, schemas.GetFunctionCodeSigningConfigResponse, s.getFunctionCodeSigningConfig).noted("answers that the function has none"),
		// What tools ask for and no function can have.
		serve(schemas.ListCodeSigningConfigs, schemas.ListCodeSigningConfigsRequest, schemas.ListCodeSigningConfigsResponse, s.listCodeSigningConfigs).noted("there are none"),
		serve(schemas.ListEventSourceMappings, schemas.ListEventSourceMappingsRequest, schemas.ListEventSourceMappingsResponse, s.listEventSourceMappings).noted("there are none"),
		serve(schemas.GetFunctionUrlConfig, schemas.GetFunctionUrlConfigRequest, schemas.GetFunctionUrlConfigResponse, s.getFunctionURLConfig).noted("answers that there is none"),
		serve(schemas.ListFunctionUrlConfigs, schemas.ListFunctionUrlConfigsRequest, schemas.ListFunctionUrlConfigsResponse, s.listFunctionURLConfigs).noted("there are none"),
		serve(schemas.GetProvisionedConcurrencyConfig, schemas.GetProvisionedConcurrencyConfigRequest, schemas.GetProvisionedConcurrencyConfigResponse, s.getProvisionedConcurrencyConfig).noted("answers that there is none"),
		serve(schemas.ListProvisionedConcurrencyConfigs, schemas.ListProvisionedConcurrencyConfigsRequest, schemas.ListProvisionedConcurrencyConfigsResponse, s.listProvisionedConcurrencyConfigs).noted("there are none"),
	}
}
