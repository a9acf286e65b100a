package lambdaapi_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// The tests in this file and in terraform_test.go send what tools send, in
// their order, and look at what the tools look at. The tools themselves do not
// run here.

// progress moves everything on as the reconcile loop does in the end: what
// starts is Active, what is deleted is gone.
func (s *system) progress() {
	s.t.Helper()
	s.store(func(w store.Writer) error {
		return errors.Join(progressProviders(w), progressVersions(w), progressFunctions(w))
	})
}

func progressProviders(w store.Writer) error {
	providers, err := w.Providers()
	for _, p := range providers {
		if p.State == controlplane.ProviderDeleting {
			err = errors.Join(err, w.DeleteProvider(p.Name))
			continue
		}
		p.State = controlplane.ProviderActive
		err = errors.Join(err, w.PutProvider(p))
	}
	return err
}

func progressVersions(w store.Writer) error {
	versions, err := w.Versions("")
	for _, v := range versions {
		if v.State == controlplane.VersionDeleting {
			err = errors.Join(err, w.DeleteVersion(v.Function, v.Qualifier))
			continue
		}
		serves(&v)
		err = errors.Join(err, w.PutVersion(v))
	}
	return err
}

func progressFunctions(w store.Writer) error {
	functions, err := w.Functions()
	for _, f := range functions {
		if f.Deleting {
			err = errors.Join(err, w.DeleteFunction(f.Name))
			continue
		}
		if f.OnDemand() {
			serves(&f.Latest)
		}
		err = errors.Join(err, w.PutFunction(f))
	}
	return err
}

func serves(v *controlplane.Version) {
	v.State, v.ReasonCode, v.Reason = controlplane.VersionActive, "", ""
	v.Update, v.UpdateReasonCode, v.UpdateReason = controlplane.UpdateSuccessful, "", ""
	v.Serving, v.Applied = nil, v.WantedScaling()
}

// polls looks as a tool does that waits: what it sees must be pending until it
// is the target. It returns what it saw. Things move on after each look.
func (s *system) polls(what, target string, pending []string, look func() (string, error)) (seen []string) {
	s.t.Helper()
	for range 3 {
		state, err := look()
		if err != nil {
			s.t.Fatalf("waiting for %s: %v", what, err)
		}
		seen = append(seen, state)
		if state == target {
			return seen
		}
		if !slices.Contains(pending, state) {
			s.t.Fatalf("waiting for %s: unexpected state '%s', wanted target '%s'", what, state, target)
		}
		s.progress()
	}
	s.t.Fatalf("waiting for %s: timeout, it saw %v", what, seen)
	return nil
}

// waits runs a waiter of the SDK while things move on.
func (s *system) waits(what string, wait func() error) {
	s.t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := wait(); err != nil {
			s.t.Errorf("waiting for %s: %v", what, err)
		}
	})
	s.progress()
	wg.Wait()
}

// digest is CodeSha256 of an archive.
func digest(archive []byte) *string {
	sum := sha256.Sum256(archive)
	return aws.String(base64.StdEncoding.EncodeToString(sum[:]))
}

// kinds are the two kinds of functions that tools make.
func kinds() map[string]func(testing.TB, string) *lambda.CreateFunctionInput {
	return map[string]func(testing.TB, string) *lambda.CreateFunctionInput{"on demand": onDemandInput, "on a provider": functionInput}
}

// withTool makes the function "f" of a kind, its version 1 and its alias "live",
// as CloudFormation does for SAM and CDK.
func (s *system) withTool(in *lambda.CreateFunctionInput) *system {
	s.t.Helper()
	ctx := s.t.Context()
	s.withProvider()
	must[*lambda.CreateFunctionOutput](s.t)(s.CreateFunction(ctx, in))
	s.progress()
	s.publish("", nil)
	s.progress()
	must[*lambda.CreateAliasOutput](s.t)(s.CreateAlias(ctx, &lambda.CreateAliasInput{
		FunctionName: in.FunctionName, Name: aws.String("live"), FunctionVersion: aws.String("1"),
	}))
	return s
}

// aliases lists what the aliases of "f" point to.
func (s *system) aliases() map[string]string {
	s.t.Helper()
	out := map[string]string{}
	for _, a := range must[*lambda.ListAliasesOutput](s.t)(s.ListAliases(s.t.Context(), &lambda.ListAliasesInput{FunctionName: aws.String("f")})).Aliases {
		out[*a.Name] = *a.FunctionVersion
	}
	return out
}

// TestWhatSAMSyncDoesWorks is ZipFunctionSyncFlow, FunctionSyncFlow and
// AliasVersionSyncFlow of aws-sam-cli, samcli/lib/sync/flows.
func TestWhatSAMSyncDoesWorks(t *testing.T) {
	t.Parallel()
	for kind, input := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, withDefaultProvider).withTool(input(t, "f"))
			ctx, f := t.Context(), aws.String("f")
			remote := func() string {
				return *must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f})).Configuration.CodeSha256
			}
			// compare_remote uploads only what differs.
			if local := *digest(input(t, "f").Code.ZipFile); remote() != local {
				t.Errorf("the digest of the code is %s, locally %s: it would be uploaded again", remote(), local)
			}
			archive := zipOf(t, "two")
			must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: archive}))
			s.waits("function_updated", func() error {
				w := lambda.NewFunctionUpdatedWaiter(s, func(o *lambda.FunctionUpdatedWaiterOptions) {
					o.MinDelay, o.MaxDelay = time.Millisecond, 20*time.Millisecond
				})
				return w.Wait(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: f}, 10*time.Second)
			})
			version := must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f})).Version
			must[*lambda.UpdateAliasOutput](t)(s.UpdateAlias(ctx, &lambda.UpdateAliasInput{FunctionName: f, Name: aws.String("live"), FunctionVersion: version}))
			if remote() != *digest(archive) {
				t.Errorf("the digest of the code is %s, locally %s", remote(), *digest(archive))
			}
			same(t, "aliases", map[string]string{"live": "2"}, s.aliases())
		})
	}
}

// TestWhatSAMRemoteInvokeDoesIsAnswered is aws-sam-cli,
// samcli/lib/remote_invoke/lambda_invoke_executors.py: it asks for tail logs
// unless it is called with --parameter LogType=None.
func TestWhatSAMRemoteInvokeDoesIsAnswered(t *testing.T) {
	t.Parallel()
	for kind, input := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, withDefaultProvider).withTool(input(t, "f"))
			ctx, f := t.Context(), aws.String("f")
			// Without a function URL it does not stream.
			_, err := s.GetFunctionUrlConfig(ctx, &lambda.GetFunctionUrlConfigInput{FunctionName: f})
			refused(t, err, "ResourceNotFoundException", 404, "The resource you requested does not exist.")
			s.invoker.set(controlplane.InvokeResult{Executed: "1", Payload: []byte(`"done"`), LogTail: []byte("a line\n")}, nil)
			in := &lambda.InvokeInput{FunctionName: f, InvocationType: types.InvocationTypeRequestResponse, LogType: types.LogTypeTail, Payload: []byte("{}")}
			tailed := must[*lambda.InvokeOutput](t)(s.Invoke(ctx, in))
			if aws.ToString(tailed.LogResult) != "YSBsaW5lCg==" || !s.invoker.seen().LogTail {
				t.Errorf("got the log %q", aws.ToString(tailed.LogResult))
			}
			in.LogType = types.LogTypeNone
			out := must[*lambda.InvokeOutput](t)(s.Invoke(ctx, in))
			if string(out.Payload) != `"done"` || out.LogResult != nil || s.invoker.seen().LogTail || string(s.invoker.seen().Payload) != "{}" {
				t.Errorf("answered %s", out.Payload)
			}
		})
	}
}

// TestWhatCDKHotswapDoesWorks is aws-cdk-cli,
// packages/@aws-cdk/toolkit-lib/lib/api/hotswap/lambda-functions.ts. Its waiter
// is functionUpdatedV2 or, in older releases, functionUpdated.
func TestWhatCDKHotswapDoesWorks(t *testing.T) {
	t.Parallel()
	for kind, input := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, withDefaultProvider).withTool(input(t, "f"))
			s.object("asset.zip", zipOf(t, "two"))
			ctx, f := t.Context(), aws.String("f")
			wait := func() {
				t.Helper()
				s.waits("functionUpdated", func() error {
					w := lambda.NewFunctionUpdatedWaiter(s, func(o *lambda.FunctionUpdatedWaiterOptions) {
						o.MinDelay, o.MaxDelay = time.Millisecond, 20*time.Millisecond
					})
					return w.Wait(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: f}, 10*time.Second)
				})
				w := lambda.NewFunctionUpdatedV2Waiter(s)
				if err := w.Wait(ctx, &lambda.GetFunctionInput{FunctionName: f}, 10*time.Second); err != nil {
					t.Errorf("waiting for functionUpdatedV2: %v", err)
				}
			}
			code := must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{
				FunctionName: f, S3Bucket: aws.String("code"), S3Key: aws.String("asset.zip"),
			}))
			if code.PackageType != types.PackageTypeZip || code.VpcConfig != nil {
				t.Errorf("answered %s in %+v: it would wait as long as for an image", code.PackageType, code.VpcConfig)
			}
			wait()
			must[*lambda.UpdateFunctionConfigurationOutput](t)(s.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{
				FunctionName: f, Description: aws.String("swapped"), Environment: &types.Environment{Variables: map[string]string{"KEY": "b"}},
			}))
			wait()
			version := must[*lambda.PublishVersionOutput](t)(s.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f})).Version
			must[*lambda.UpdateAliasOutput](t)(s.UpdateAlias(ctx, &lambda.UpdateAliasInput{FunctionName: f, Name: aws.String("live"), FunctionVersion: version}))
			same(t, "aliases", map[string]string{"live": "2"}, s.aliases())
			live := must[*lambda.GetFunctionOutput](t)(s.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f, Qualifier: aws.String("live")})).Configuration
			if *live.Description != "swapped" || live.Environment.Variables["KEY"] != "b" || *live.CodeSha256 != *digest(zipOf(t, "two")) {
				t.Errorf("live is %q with %v and code %s", *live.Description, live.Environment.Variables, *live.CodeSha256)
			}
		})
	}
}
