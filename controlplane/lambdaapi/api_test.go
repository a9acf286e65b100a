package lambdaapi_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"gocloud.dev/blob/memblob"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/artifact"
	"github.com/hearth-compute/hearth/controlplane/bucket"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/controlplane/sigv4"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/controlplane/store/sqlite"
)

const (
	account      = "123456789012"
	region       = "us-east-1"
	role         = "arn:aws:iam::123456789012:role/r"
	functionBase = "arn:aws:lambda:us-east-1:123456789012:function:"
	providerBase = "arn:aws:lambda:us-east-1:123456789012:capacity-provider:"
)

// system is an API over a real store, with the real client in front and a
// scripted invoker behind.
type system struct {
	*lambda.Client
	t       *testing.T
	url     string
	db      store.DB
	invoker *scripted
	objects string // the directory that is the bucket "code"
	// verifier is set by signedSystem.
	verifier *sigv4.Verifier
	changed  int
	mu       sync.Mutex
}

// scripted answers invokes as told and remembers the last request.
type scripted struct {
	mu     sync.Mutex
	last   controlplane.InvokeRequest
	calls  int
	result controlplane.InvokeResult
	err    error
	echo   bool
}

func (s *scripted) Invoke(_ context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = req
	s.calls++
	if s.echo {
		return controlplane.InvokeResult{Executed: "1", Payload: req.Payload}, nil
	}
	return s.result, s.err
}

func (s *scripted) set(result controlplane.InvokeResult, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result, s.err, s.echo = result, err, false
}

func (s *scripted) seen() controlplane.InvokeRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func newSystem(t *testing.T, change func(*lambdaapi.Config)) *system {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hearth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := &system{t: t, db: db, invoker: &scripted{}, objects: t.TempDir()}
	artifacts := artifact.New(memblob.OpenBucket(nil))
	t.Cleanup(func() { _ = artifacts.Close() })
	cfg := lambdaapi.Config{
		AccountID: account, Region: region, DB: db, Artifacts: artifacts, Invoker: s.invoker,
		Buckets: bucket.New(map[string]string{"code": "file://" + s.objects, "none": "file:///nowhere"}, region),
		Changed: func(context.Context) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.changed++
		},
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	api, err := lambdaapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	s.url = server.URL
	s.Client = lambda.New(lambda.Options{
		Region: region, BaseEndpoint: &server.URL, RetryMaxAttempts: 1, HTTPClient: server.Client(),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "any", SecretAccessKey: "any"}, nil
		}),
	})
	return s
}

// must fails the test on an error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// refused checks an error's name, status and message.
func refused(t *testing.T, err error, name string, status int, message string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) {
		t.Errorf("error %v, want %s", err, name)
		return
	}
	if api.ErrorCode() != name {
		t.Errorf("error %s: %s; want %s", api.ErrorCode(), api.ErrorMessage(), name)
	}
	if api.ErrorMessage() != message {
		t.Errorf("message\n got %q\nwant %q", api.ErrorMessage(), message)
	}
	var response *smithyhttp.ResponseError
	if !errors.As(err, &response) || response.HTTPStatusCode() != status {
		t.Errorf("error %v, want status %d", err, status)
	}
	if response != nil && response.Response.Header.Get("X-Amzn-Requestid") == "" {
		t.Errorf("error %v has no request id", err)
	}
}

func zipOf(t testing.TB, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.Create("bootstrap")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func providerInput(name string) *lambda.CreateCapacityProviderInput {
	return &lambda.CreateCapacityProviderInput{
		CapacityProviderName: &name,
		VpcConfig:            &types.CapacityProviderVpcConfig{SubnetIds: []string{"a", "b", "c"}, SecurityGroupIds: []string{}},
		PermissionsConfig: &types.CapacityProviderPermissionsConfig{
			CapacityProviderOperatorRoleArn: aws.String(role),
		},
	}
}

func functionInput(t testing.TB, name string) *lambda.CreateFunctionInput {
	return &lambda.CreateFunctionInput{
		FunctionName: &name, Role: aws.String(role), Runtime: types.RuntimeProvidedal2023, Handler: aws.String("bootstrap"),
		Code: &types.FunctionCode{ZipFile: zipOf(t, "one")},
		CapacityProviderConfig: &types.CapacityProviderConfig{
			LambdaManagedInstancesCapacityProviderConfig: &types.LambdaManagedInstancesCapacityProviderConfig{
				CapacityProviderArn: aws.String(providerBase + "pool"),
			},
		},
	}
}

// withProvider makes the provider "pool", Active as the reconcile loop makes it.
func (s *system) withProvider() *system {
	s.t.Helper()
	must[*lambda.CreateCapacityProviderOutput](s.t)(s.CreateCapacityProvider(s.t.Context(), providerInput("pool")))
	s.activate("pool")
	return s
}

func (s *system) activate(provider controlplane.ProviderName) {
	s.t.Helper()
	s.store(func(w store.Writer) error {
		p, err := w.Provider(provider)
		p.State = controlplane.ProviderActive
		return errors.Join(err, w.PutProvider(p))
	})
}

// withFunction makes the provider and the function "f".
func (s *system) withFunction() *system {
	s.t.Helper()
	s.withProvider()
	must[*lambda.CreateFunctionOutput](s.t)(s.CreateFunction(s.t.Context(), functionInput(s.t, "f")))
	return s
}

func (s *system) store(fn func(store.Writer) error) {
	s.t.Helper()
	if err := s.db.Update(s.t.Context(), fn); err != nil {
		s.t.Fatal(err)
	}
}

// settle sets the state of a version of "f" as the reconcile loop would.
func (s *system) settle(q controlplane.Qualifier, state controlplane.VersionState) {
	s.t.Helper()
	s.store(func(w store.Writer) error {
		v, err := w.Version("f", q)
		if err != nil {
			return err
		}
		v.State, v.ReasonCode, v.Reason = state, "", ""
		v.Update, v.Serving, v.Applied = controlplane.UpdateSuccessful, nil, v.WantedScaling()
		return w.PutVersion(v)
	})
}

func TestAFunctionIsMadePublishedAndInvoked(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	v := must[*lambda.PublishVersionOutput](t)(s.PublishVersion(t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String("f")}))
	if *v.Version != "1" || v.State != types.StatePending || *v.FunctionArn != functionBase+"f:1" {
		t.Errorf("published %s %s %s", *v.Version, v.State, *v.FunctionArn)
	}
	s.settle("1", controlplane.VersionActive)
	s.invoker.set(controlplane.InvokeResult{Executed: "1", Payload: []byte(`{"ok":true}`)}, nil)
	out := must[*lambda.InvokeOutput](t)(s.Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: aws.String("f"), Qualifier: aws.String("1"), Payload: []byte(`{"in":1}`),
	}))
	if out.StatusCode != http.StatusOK || string(out.Payload) != `{"ok":true}` || *out.ExecutedVersion != "1" || out.FunctionError != nil {
		t.Errorf("invoke answered %d %s %s %v", out.StatusCode, out.Payload, *out.ExecutedVersion, out.FunctionError)
	}
	got := s.invoker.seen()
	if got.Function != "f" || got.Qualifier != "1" || got.InvokedARN != functionBase+"f:1" || string(got.Payload) != `{"in":1}` {
		t.Errorf("the router was asked %+v", got)
	}
}
