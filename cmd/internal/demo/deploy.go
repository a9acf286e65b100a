package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

const (
	function = "hello-go"
	provider = "demo"
	role     = "arn:aws:iam::123456789012:role/demo"
)

// buildFunction compiles the example and zips it as bootstrap.
func buildFunction(ctx context.Context) ([]byte, error) {
	dir, err := os.MkdirTemp("", "hearth-demo-build-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "bootstrap")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, "./examples/hello-go") //nolint:gosec // G204: the arguments are ours
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building examples/hello-go: %w\n%s", err, out)
	}
	code, err := os.ReadFile(filepath.Clean(binary))
	if err != nil {
		return nil, err
	}
	return zipped("bootstrap", code)
}

// zipped makes an archive with one executable in it.
func zipped(name string, code []byte) ([]byte, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	header := &zip.FileHeader{Name: name, Method: zip.Deflate}
	header.SetMode(0o755)
	f, err := w.CreateHeader(header)
	if err != nil {
		return nil, fmt.Errorf("zipping %s: %w", name, err)
	}
	if _, err := f.Write(code); err != nil {
		return nil, fmt.Errorf("zipping %s: %w", name, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("zipping %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// newClient makes an SDK client as anybody would, with another endpoint.
func newClient(address string) *lambda.Client {
	return lambda.New(lambda.Options{
		Region:       "us-east-1",
		BaseEndpoint: aws.String("http://" + address),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "demo", SecretAccessKey: "demo"}, nil
		}),
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConnsPerHost = concurrency
		}),
		RetryMaxAttempts: 1, // a refusal is something to show, not to hide
	})
}

// deploy creates the provider and the function, publishes a version and waits
// until it is Active. It returns how long that took from the publication.
func deploy(ctx context.Context, api *lambda.Client, archive []byte) (time.Duration, error) {
	cp, err := api.CreateCapacityProvider(ctx, &lambda.CreateCapacityProviderInput{
		CapacityProviderName: aws.String(provider),
		VpcConfig: &types.CapacityProviderVpcConfig{
			SubnetIds:        []string{"subnet-a", "subnet-b", "subnet-c"},
			SecurityGroupIds: []string{},
		},
		PermissionsConfig:    &types.CapacityProviderPermissionsConfig{CapacityProviderOperatorRoleArn: aws.String(role)},
		InstanceRequirements: &types.InstanceRequirements{Architectures: []types.Architecture{architecture()}},
	})
	if err != nil {
		return 0, fmt.Errorf("creating the capacity provider: %w", err)
	}
	say("created capacity provider %s over subnet-a, subnet-b, subnet-c", provider)
	_, err = api.CreateFunction(ctx, &lambda.CreateFunctionInput{
		FunctionName:  aws.String(function),
		Runtime:       types.RuntimeProvidedal2023,
		Handler:       aws.String("bootstrap"),
		Role:          aws.String(role),
		Code:          &types.FunctionCode{ZipFile: archive},
		Architectures: []types.Architecture{architecture()},
		MemorySize:    aws.Int32(512),
		Timeout:       aws.Int32(30),
		CapacityProviderConfig: &types.CapacityProviderConfig{
			LambdaManagedInstancesCapacityProviderConfig: &types.LambdaManagedInstancesCapacityProviderConfig{
				CapacityProviderArn:                   cp.CapacityProvider.CapacityProviderArn,
				PerExecutionEnvironmentMaxConcurrency: aws.Int32(concurrency),
			},
		},
	})
	if err != nil {
		return 0, fmt.Errorf("creating the function: %w", err)
	}
	published := time.Now()
	version, err := api.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: aws.String(function)})
	if err != nil {
		return 0, fmt.Errorf("publishing a version: %w", err)
	}
	say("created function %s and published version %s", function, aws.ToString(version.Version))
	return waitActive(ctx, api, version.Version, published)
}

func architecture() types.Architecture {
	if runtime.GOARCH == "arm64" {
		return types.ArchitectureArm64
	}
	return types.ArchitectureX8664
}

func waitActive(ctx context.Context, api *lambda.Client, version *string, since time.Time) (time.Duration, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := api.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{
			FunctionName: aws.String(function), Qualifier: version,
		})
		if err != nil {
			return 0, fmt.Errorf("waiting for version %s: %w", aws.ToString(version), err)
		}
		switch got.State { //nolint:exhaustive // every other state means: not yet
		case types.StateActive:
			return time.Since(since), nil
		case types.StateFailed:
			return 0, fmt.Errorf("version %s failed: %s: %s", aws.ToString(version), got.StateReasonCode, aws.ToString(got.StateReason))
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("version %s is %s: %s: %w", aws.ToString(version), got.State, aws.ToString(got.StateReason), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// invoker is what the demo needs of the SDK to invoke.
type invoker interface {
	Invoke(ctx context.Context, in *lambda.InvokeInput, opts ...func(*lambda.Options)) (*lambda.InvokeOutput, error)
}

// answer is what examples/hello-go returns, as far as it is shown.
type answer struct {
	Message       string `json:"message"`
	RequestID     string `json:"requestId"`
	Environment   string `json:"environment"`
	PeakInFlight  int64  `json:"peakInFlight"`
	ProcessStarts int64  `json:"processStarts"`
}

func invoke(ctx context.Context, api invoker, event string) (answer, []byte, error) {
	out, err := api.Invoke(ctx, &lambda.InvokeInput{
		FunctionName: aws.String(function), Qualifier: aws.String("1"), Payload: []byte(event),
	})
	if err != nil {
		return answer{}, nil, err
	}
	if out.FunctionError != nil {
		return answer{}, nil, fmt.Errorf("the function failed: %s: %s", *out.FunctionError, out.Payload)
	}
	var a answer
	if err := json.Unmarshal(out.Payload, &a); err != nil {
		return answer{}, nil, fmt.Errorf("reading the answer %q: %w", out.Payload, err)
	}
	return a, out.Payload, nil
}

// greetOnce shows one whole answer.
func greetOnce(ctx context.Context, api invoker) error {
	const event = `{"name": "you"}`
	_, payload, err := invoke(ctx, api, event)
	if err != nil {
		return fmt.Errorf("invoking %s: %w", function, err)
	}
	say("invoked it with %s; it answered\n   %s", event, payload)
	return nil
}
