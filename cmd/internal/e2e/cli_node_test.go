//go:build node

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// awsCLI runs the AWS CLI against a stack.
type awsCLI struct {
	s    *stack
	path string
}

// run runs "aws lambda args" and decodes what it prints.
func (c *awsCLI) run(args ...string) (map[string]any, error) {
	cmd := exec.CommandContext(c.s.t.Context(), c.path, append([]string{
		"--endpoint-url", c.s.api, "--region", region, "--output", "json", "lambda",
	}, args...)...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_MAX_ATTEMPTS=1", "AWS_PAGER=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("aws lambda %s: %w: %s", args[0], err, out)
	}
	var m map[string]any
	if len(out) > 0 {
		if err := json.Unmarshal(out, &m); err != nil {
			return nil, fmt.Errorf("aws lambda %s: %w in %s", args[0], err, out)
		}
	}
	return m, nil
}

// ok is run, without an error.
func (c *awsCLI) ok(args ...string) map[string]any {
	c.s.t.Helper()
	m, err := c.run(args...)
	if err != nil {
		c.s.t.Fatal(err)
	}
	return m
}

// fails wants an error that names code.
func (c *awsCLI) fails(code string, args ...string) {
	c.s.t.Helper()
	if _, err := c.run(args...); err == nil || !strings.Contains(err.Error(), code) {
		c.s.t.Errorf("aws lambda %s: got %v, want %s", args[0], err, code)
	}
}

// TestTheWholeLifeWithTheAWSCLI creates, lists, updates, publishes, scales,
// invokes and deletes with the unmodified AWS CLI.
func TestTheWholeLifeWithTheAWSCLI(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Skip("no AWS CLI on this machine")
	}
	s := up(t)
	c := &awsCLI{s: s, path: path}
	if _, err := c.run("list-capacity-providers"); err != nil && strings.Contains(err.Error(), "Invalid choice") {
		t.Skip("this AWS CLI does not know capacity providers")
	}
	zip := filepath.Join(t.TempDir(), "f.zip")
	if err := os.WriteFile(zip, archive(t, "probe"), 0o600); err != nil {
		t.Fatal(err)
	}
	arn := "arn:aws:lambda:" + region + ":" + account + ":capacity-provider:p"
	c.ok("create-capacity-provider", "--capacity-provider-name", "p",
		"--vpc-config", "SubnetIds=subnet-a,subnet-b,subnet-c,SecurityGroupIds=sg-1",
		"--permissions-config", "CapacityProviderOperatorRoleArn="+role)
	if got := c.ok("list-capacity-providers"); !strings.Contains(fmt.Sprint(got), arn) {
		t.Errorf("list-capacity-providers: %v", got)
	}
	c.ok("update-capacity-provider", "--capacity-provider-name", "p", "--capacity-provider-scaling-config", "MaxVCpuCount=12")
	c.ok("create-function", "--function-name", "f", "--runtime", "provided.al2023", "--handler", "bootstrap", "--role", role,
		"--zip-file", "fileb://"+zip, "--memory-size", "512", "--timeout", "10", "--capacity-provider-config",
		"LambdaManagedInstancesCapacityProviderConfig={CapacityProviderArn="+arn+",PerExecutionEnvironmentMaxConcurrency=4}")
	c.fails("NoPublishedVersionException", "invoke", "--function-name", "f", filepath.Join(t.TempDir(), "out"))

	c.publish("$LATEST.PUBLISHED", "--publish-to", "LATEST_PUBLISHED") // launches the instances
	took := c.publish("1")
	t.Logf("version 1 was Active %v after publish-version was called, on warm instances", took.Round(time.Millisecond))
	c.invoke("f", "$LATEST.PUBLISHED")
	c.invoke("f:1", "1")
	c.invoke("arn:aws:lambda:"+region+":"+account+":function:f:1", "1")
	c.fails("InvalidParameterValueException", "invoke", "--function-name", "f", "--qualifier", "$LATEST", filepath.Join(t.TempDir(), "out"))
	if got := c.ok("list-versions-by-function", "--function-name", "f"); !strings.Contains(fmt.Sprint(got), "function:f:1") {
		t.Errorf("list-versions-by-function: %v", got)
	}
	if got := c.ok("list-function-versions-by-capacity-provider", "--capacity-provider-name", "p"); !strings.Contains(fmt.Sprint(got), "function:f:1") {
		t.Errorf("list-function-versions-by-capacity-provider: %v", got)
	}
	c.scale()
	c.ok("update-function-code", "--function-name", "f", "--zip-file", "fileb://"+zip, "--publish", "--publish-to", "LATEST_PUBLISHED")
	s.active()
	c.invoke("f", "$LATEST.PUBLISHED")

	c.fails("ResourceConflictException", "delete-capacity-provider", "--capacity-provider-name", "p")
	c.ok("delete-function", "--function-name", "f")
	c.fails("ResourceNotFoundException", "invoke", "--function-name", "f", filepath.Join(t.TempDir(), "out"))
	s.eventually(30*time.Second, "the provider to be deletable", func() error {
		_, err := c.run("delete-capacity-provider", "--capacity-provider-name", "p")
		return err
	})
	s.eventually(30*time.Second, "the provider and its instances to be gone", func() error {
		if _, err := c.run("get-capacity-provider", "--capacity-provider-name", "p"); err == nil || !strings.Contains(err.Error(), "ResourceNotFoundException") {
			return fmt.Errorf("still there: %w", errors.Join(err))
		}
		if n := len(s.processes("hearth-agent")); n != 0 {
			return fmt.Errorf("%d agents", n)
		}
		return nil
	})
}

// publish publishes a version and waits until it is Active.
func (c *awsCLI) publish(want string, args ...string) time.Duration {
	c.s.t.Helper()
	begin := time.Now()
	if got := c.ok(append([]string{"publish-version", "--function-name", "f"}, args...)...)["Version"]; got != want {
		c.s.t.Fatalf("published version %v, want %s", got, want)
	}
	c.s.eventually(time.Minute, "version "+want+" to be Active", func() error {
		got, err := c.run("get-function-configuration", "--function-name", "f", "--qualifier", want)
		if err != nil {
			return err
		}
		if got["State"] != "Active" {
			return fmt.Errorf("state %v: %v", got["State"], got["StateReason"])
		}
		return nil
	})
	return time.Since(begin)
}

// invoke runs the function and wants it executed as version.
func (c *awsCLI) invoke(function, version string) {
	c.s.t.Helper()
	out := filepath.Join(c.s.t.TempDir(), "out")
	got := c.ok("invoke", "--function-name", function, out)
	body, err := os.ReadFile(out)
	if err != nil {
		c.s.t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil || a.RequestID == "" || got["ExecutedVersion"] != version {
		c.s.t.Errorf("invoke %s: %v, %s, %v; want version %s", function, got, body, err, version)
	}
}

// scale takes version 1 down to nothing and back.
func (c *awsCLI) scale() {
	c.s.t.Helper()
	state := func(want string) {
		c.s.eventually(30*time.Second, "version 1 to be "+want, func() error {
			got, err := c.run("get-function-configuration", "--function-name", "f", "--qualifier", "1")
			if err != nil || got["State"] != want {
				return fmt.Errorf("state %v: %w", got["State"], errors.Join(err))
			}
			return nil
		})
	}
	put := func(lo, hi string) {
		c.ok("put-function-scaling-config", "--function-name", "f", "--qualifier", "1",
			"--function-scaling-config", "MinExecutionEnvironments="+lo+",MaxExecutionEnvironments="+hi)
	}
	put("0", "0")
	state("Deactivated")
	put("1", "2")
	state("Active")
	got := c.ok("get-function-scaling-config", "--function-name", "f", "--qualifier", "1")
	if s := fmt.Sprint(got["AppliedFunctionScalingConfig"]); s != "map[MaxExecutionEnvironments:2 MinExecutionEnvironments:1]" {
		c.s.t.Errorf("applied scaling config %s", s)
	}
	c.invoke("f:1", "1")
}
