package stack

import (
	"archive/zip"
	"bytes"
	"context"
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

// Region is what the stack and its clients use.
const Region = "us-east-1"

// AccessKey and SecretKey are what clients of the stack sign with.
const (
	AccessKey = "AKIAHEARTHDEMOSTACK0"
	SecretKey = "of-no-value-outside-of-this-stack"
)

const role = "arn:aws:iam::123456789012:role/function"

// BuildFunction compiles a main package into the archive of a function for
// provided.al2023.
func BuildFunction(ctx context.Context, pkg string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "hearth-function-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "bootstrap")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, pkg) //nolint:gosec // G204: the package is the caller's own
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	code, err := os.ReadFile(filepath.Clean(binary))
	if err != nil {
		return nil, err
	}
	return Zip("bootstrap", code)
}

// Zip makes an archive with one executable in it.
func Zip(name string, code []byte) ([]byte, error) {
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

// Unzip writes the files of an archive that Zip made into a new directory.
func Unzip(archive []byte, dir string) error {
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return fmt.Errorf("reading an archive: %w", err)
	}
	return os.CopyFS(dir, r)
}

// Client makes an SDK client as anybody would, with another endpoint. It keeps
// as many connections as there are callers, and tries nothing again: a refusal
// is something to see.
func (s *Stack) Client(callers int) *lambda.Client {
	return lambda.New(lambda.Options{
		Region:       Region,
		BaseEndpoint: aws.String("http://" + s.Lambda),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: AccessKey, SecretAccessKey: SecretKey}, nil
		}),
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConnsPerHost = callers
		}),
		RetryMaxAttempts: 1,
	})
}

// Function is what Deploy creates.
type Function struct {
	Name    string
	Archive []byte
	// Subnets are the zones of its capacity provider, which has the same name.
	Subnets  []string
	MemoryMB int32
	// MaxConcurrency of each environment.
	MaxConcurrency int32
	// Variables are its environment variables.
	Variables map[string]string
}

// Deploy creates a capacity provider and a function on it, publishes version 1
// and waits until it is Active. It returns how long that took from the
// publication.
func Deploy(ctx context.Context, api *lambda.Client, f Function) (time.Duration, error) {
	provider, err := api.CreateCapacityProvider(ctx, &lambda.CreateCapacityProviderInput{
		CapacityProviderName: aws.String(f.Name),
		VpcConfig:            &types.CapacityProviderVpcConfig{SubnetIds: f.Subnets, SecurityGroupIds: []string{}},
		PermissionsConfig:    &types.CapacityProviderPermissionsConfig{CapacityProviderOperatorRoleArn: aws.String(role)},
		InstanceRequirements: &types.InstanceRequirements{Architectures: []types.Architecture{architecture()}},
	})
	if err != nil {
		return 0, fmt.Errorf("creating capacity provider %s: %w", f.Name, err)
	}
	_, err = api.CreateFunction(ctx, &lambda.CreateFunctionInput{
		FunctionName:  aws.String(f.Name),
		Runtime:       types.RuntimeProvidedal2023,
		Handler:       aws.String("bootstrap"),
		Role:          aws.String(role),
		Code:          &types.FunctionCode{ZipFile: f.Archive},
		Architectures: []types.Architecture{architecture()},
		MemorySize:    aws.Int32(f.MemoryMB),
		Timeout:       aws.Int32(30),
		Environment:   &types.Environment{Variables: f.Variables},
		CapacityProviderConfig: &types.CapacityProviderConfig{
			LambdaManagedInstancesCapacityProviderConfig: &types.LambdaManagedInstancesCapacityProviderConfig{
				CapacityProviderArn:                   provider.CapacityProvider.CapacityProviderArn,
				PerExecutionEnvironmentMaxConcurrency: aws.Int32(f.MaxConcurrency),
			},
		},
	})
	if err != nil {
		return 0, fmt.Errorf("creating function %s: %w", f.Name, err)
	}
	published := time.Now()
	version, err := api.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: aws.String(f.Name)})
	if err != nil {
		return 0, fmt.Errorf("publishing a version of %s: %w", f.Name, err)
	}
	if err := waitActive(ctx, api, f.Name, aws.ToString(version.Version)); err != nil {
		return 0, err
	}
	return time.Since(published), nil
}

func architecture() types.Architecture {
	if runtime.GOARCH == "arm64" {
		return types.ArchitectureArm64
	}
	return types.ArchitectureX8664
}

func waitActive(ctx context.Context, api *lambda.Client, function, version string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := api.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{
			FunctionName: aws.String(function), Qualifier: aws.String(version),
		})
		if err != nil {
			return fmt.Errorf("waiting for version %s of %s: %w", version, function, err)
		}
		switch got.State { //nolint:exhaustive // every other state means: not yet
		case types.StateActive:
			return nil
		case types.StateFailed:
			return fmt.Errorf("version %s of %s failed: %s: %s", version, function, got.StateReasonCode, aws.ToString(got.StateReason))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("version %s of %s is %s: %s: %w", version, function, got.State, aws.ToString(got.StateReason), context.Cause(ctx))
		case <-tick.C:
		}
	}
}
