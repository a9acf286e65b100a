package lambdaapi

import (
	"context"
	"net/http"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane/store"
)

// What follows answers tools that ask for what no function can have here:
// truthfully, that there is none.

func (*Server) listEventSourceMappings(_ context.Context, in *lambda.ListEventSourceMappingsInput,
) (*lambda.ListEventSourceMappingsOutput, error) {
	some, err := nothing[types.EventSourceMappingConfiguration](in.Marker, in.MaxItems, 10000)
	return &lambda.ListEventSourceMappingsOutput{EventSourceMappings: some}, err
}

func (*Server) listCodeSigningConfigs(_ context.Context, in *lambda.ListCodeSigningConfigsInput,
) (*lambda.ListCodeSigningConfigsOutput, error) {
	some, err := nothing[types.CodeSigningConfig](in.Marker, in.MaxItems, 10000)
	return &lambda.ListCodeSigningConfigsOutput{CodeSigningConfigs: some}, err
}

func (s *Server) listFunctionURLConfigs(ctx context.Context, in *lambda.ListFunctionUrlConfigsInput) (*lambda.ListFunctionUrlConfigsOutput, error) {
	if _, err := s.exists(ctx, in.FunctionName, nil); err != nil {
		return nil, err
	}
	some, err := nothing[types.FunctionUrlConfig](in.Marker, in.MaxItems, 50)
	return &lambda.ListFunctionUrlConfigsOutput{FunctionUrlConfigs: some}, err
}

func (s *Server) getFunctionURLConfig(ctx context.Context, in *lambda.GetFunctionUrlConfigInput) (*lambda.GetFunctionUrlConfigOutput, error) {
	if _, err := s.exists(ctx, in.FunctionName, in.Qualifier); err != nil {
		return nil, err
	}
	return nil, notFound("The resource you requested does not exist.")
}

func (s *Server) listProvisionedConcurrencyConfigs(ctx context.Context, in *lambda.ListProvisionedConcurrencyConfigsInput,
) (*lambda.ListProvisionedConcurrencyConfigsOutput, error) {
	if _, err := s.exists(ctx, in.FunctionName, nil); err != nil {
		return nil, err
	}
	some, err := nothing[types.ProvisionedConcurrencyConfigListItem](in.Marker, in.MaxItems, 50)
	return &lambda.ListProvisionedConcurrencyConfigsOutput{ProvisionedConcurrencyConfigs: some}, err
}

func (s *Server) getProvisionedConcurrencyConfig(ctx context.Context, in *lambda.GetProvisionedConcurrencyConfigInput,
) (*lambda.GetProvisionedConcurrencyConfigOutput, error) {
	ref, err := s.exists(ctx, in.FunctionName, in.Qualifier)
	if err != nil {
		return nil, err
	}
	return nil, &exception{
		name: "ProvisionedConcurrencyConfigNotFoundException", status: http.StatusNotFound,
		message: "No Provisioned Concurrency Config found for function: " + s.functionARN(ref.Name, ref.Qualifier),
	}
}

// nothing is the only page of an empty list.
func nothing[T any](marker *string, asked *int32, most int32) ([]T, error) {
	var c constraints
	between(&c, "maxItems", asked, 1, most)
	if err := c.err(); err != nil {
		return nil, err
	}
	none, _, err := page([]T{}, func(T) string { return "" }, marker, asked, int(most))
	return none, err
}

// exists checks that the function is there, with its version or alias if one is
// named.
func (s *Server) exists(ctx context.Context, name, qualifier *string) (reference, error) {
	ref, err := s.function(name, qualifier, 140)
	if err != nil {
		return ref, err
	}
	return ref, s.cfg.DB.View(ctx, func(r store.Reader) error {
		_, _, err := s.readVersion(r, ref)
		return err
	})
}
