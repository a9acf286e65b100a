//go:build node

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

const callerSecret = "only the tests know this secret"

// TestCallersWithKeys runs a function for who has a key, with the SDK, the AWS
// CLI and boto3, whole and presigned.
func TestCallersWithKeys(t *testing.T) {
	t.Parallel()
	keys := filepath.Join(t.TempDir(), "keys")
	writeKeys := func(id string) {
		if err := os.WriteFile(keys, []byte("[ci]\naws_access_key_id = "+id+"\naws_secret_access_key = "+callerSecret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeKeys("AKIDFIRST")
	s := up(t, func(s *stack) { s.flags = append(s.flags, "--access-keys-file", keys) })
	if _, err := s.lambda.ListFunctions(t.Context(), &lambda.ListFunctionsInput{}); code(err) != "UnrecognizedClientException" {
		t.Errorf("a stranger: %v", err)
	}
	s.signsAs("AKIDFIRST")
	s.provider("a")
	s.function(concurrency(4))
	if _, _, err := s.invoke(t.Context(), event{Pad: strings.Repeat("x", 100_000)}); err != nil {
		t.Error(err)
	}
	s.step("AWS CLI", s.signedCLI)
	s.step("boto3", s.signedBoto3)
	s.step("another key", func() {
		writeKeys("AKIDSECOND")
		s.signsAs("AKIDSECOND")
		s.eventually(20*time.Second, "the new key to count", func() error {
			_, _, err := s.invoke(s.t.Context(), event{})
			return err
		})
		s.signsAs("AKIDFIRST")
		if _, _, err := s.invoke(s.t.Context(), event{}); code(err) != "UnrecognizedClientException" {
			s.t.Errorf("a key that was taken out: %v", err)
		}
	})
}

// signsAs makes the client of the stack use a key.
func (s *stack) signsAs(id string) {
	s.lambda = lambda.New(lambda.Options{
		Region: region, BaseEndpoint: aws.String(s.api), Retryer: aws.NopRetryer{}, HTTPClient: &http.Client{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: id, SecretAccessKey: callerSecret}, nil
		}),
	})
}

// userTool runs a program of users with credentials.
func (s *stack) userTool(secret string, command ...string) (string, error) {
	cmd := exec.CommandContext(s.t.Context(), command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=AKIDFIRST", "AWS_SECRET_ACCESS_KEY="+secret, "AWS_MAX_ATTEMPTS=1", "AWS_PAGER=",
		"AWS_DEFAULT_REGION="+region, "ENDPOINT="+s.api)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *stack) signedCLI() {
	path, err := exec.LookPath("aws")
	if err != nil {
		s.t.Skip("no AWS CLI on this machine")
	}
	answer := filepath.Join(s.t.TempDir(), "out")
	run := func(secret string, args ...string) (string, error) {
		return s.userTool(secret, append([]string{path, "--endpoint-url", s.api, "--region", region, "lambda"}, args...)...)
	}
	arn := "arn:aws:lambda:" + region + ":" + account + ":function:f:$LATEST.PUBLISHED"
	out, err := run(callerSecret, "invoke", "--function-name", arn, "--payload", `{"Size":3}`, answer)
	if err != nil {
		s.t.Errorf("aws lambda invoke: %v: %s", err, out)
	}
	if body, err := os.ReadFile(answer); err != nil || !strings.Contains(string(body), `"Body":"xxx"`) {
		s.t.Errorf("answered %s, %v", body, err)
	}
	out, err = run("a wrong secret of the same user", "list-functions", "--max-items", "3")
	if err == nil || !strings.Contains(out, "(InvalidSignatureException) when calling the ListFunctions operation: The request signature we calculated") {
		s.t.Errorf("with a wrong secret: %v: %s", err, out)
	}
}

// The script uses a client, URLs that it presigns, and one of them after it was
// changed.
const boto3Script = `
import json, os, urllib.request, urllib.error, boto3
c = boto3.client("lambda", endpoint_url=os.environ["ENDPOINT"])
r = c.invoke(FunctionName="f", Qualifier="$LATEST.PUBLISHED", Payload=json.dumps({"Size": 2}))
print("invoked", json.load(r["Payload"])["Body"])
u = c.generate_presigned_url("list_versions_by_function", Params={"FunctionName": "f", "MaxItems": 7}, ExpiresIn=60, HttpMethod="GET")
print("presigned", json.load(urllib.request.urlopen(u))["Versions"][0]["FunctionName"])
try:
    urllib.request.urlopen(u.replace("MaxItems=7", "MaxItems=8"))
except urllib.error.HTTPError as e:
    print("changed", e.code, e.headers["x-amzn-errortype"])
`

func (s *stack) signedBoto3() {
	path, err := exec.LookPath("python3")
	if err == nil {
		err = exec.Command(path, "-c", "import boto3").Run()
	}
	if err != nil {
		s.t.Skip("no boto3 on this machine")
	}
	out, err := s.userTool(callerSecret, path, "-W", "ignore", "-c", boto3Script)
	want := fmt.Sprintln("invoked xx") + fmt.Sprintln("presigned f") + fmt.Sprintln("changed 403 InvalidSignatureException")
	if err != nil || out != want {
		s.t.Errorf("boto3: %v\n%s\nwant\n%s", err, out, want)
	}
}
