package pool

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/sandbox"
)

func zip() build {
	return build{
		assignment: agent.Assignment{
			Environment: "e-1", FunctionName: "thumb", Version: "$LATEST.PUBLISHED",
			Image: agent.Image{Ref: "builtin:static"}, Code: agent.Code{SHA256: "abc"},
			Handler: "index.handler", Runtime: "nodejs22.x",
			Variables: map[string]string{
				"MY_NAME": "v", "_HIDDEN": "x", "AWS_REGION": "elsewhere", "AWS_LAMBDA_RUNTIME_API": "evil:80",
				"PATH": "/opt/mine", "AWS_LAMBDA_LOG_LEVEL": "TRACE", "AWS_ACCESS_KEY_ID": "AKIA", "_HANDLER": "other",
			},
			Limits: agent.Resources{CPU: 500, Memory: 2048 << 20}, EphemeralStorage: 512 << 20, MaxConcurrency: 32,
			Logging: agent.Logging{Format: "JSON", ApplicationLevel: "INFO", SystemLevel: "WARN", Group: "/mine"},
		},
		sandbox:  "e-1-abcdefgh",
		image:    sandbox.ImageConfig{Entrypoint: []string{"/lambda-entrypoint.sh"}, Env: []string{"LANG=C.UTF-8", "EXTRA=1"}, WorkingDir: "/home"},
		unpacked: unpacked{codeDir: "/data/code/abc"},
		metadata: []byte("m"),
		region:   "eu-west-1",
		now:      time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
	}
}

func TestAZipFunctionsSandbox(t *testing.T) {
	t.Parallel()
	want := sandbox.Spec{
		ID:    "e-1-abcdefgh",
		Image: sandbox.Image{Ref: "builtin:static"},
		Args:  []string{"/var/runtime/bootstrap:/var/task/bootstrap:/opt/bootstrap"},
		Env: []string{
			"AWS_DEFAULT_REGION=eu-west-1",
			"AWS_EXECUTION_ENV=AWS_Lambda_nodejs22.x",
			"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=2048",
			"AWS_LAMBDA_FUNCTION_NAME=thumb",
			"AWS_LAMBDA_FUNCTION_VERSION=$LATEST.PUBLISHED",
			"AWS_LAMBDA_INITIALIZATION_TYPE=lambda-managed-instances",
			"AWS_LAMBDA_LOG_FORMAT=JSON",
			"AWS_LAMBDA_LOG_GROUP_NAME=/mine",
			"AWS_LAMBDA_LOG_LEVEL=TRACE",
			"AWS_LAMBDA_LOG_STREAM_NAME=2026/03/04/thumb[$LATEST.PUBLISHED]e-1-abcdefgh",
			"AWS_LAMBDA_MAX_CONCURRENCY=32",
			"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001",
			"AWS_REGION=eu-west-1",
			"AWS_XRAY_CONTEXT_MISSING=LOG_ERROR",
			"AWS_XRAY_DAEMON_ADDRESS=127.0.0.1:2000",
			"EXTRA=1",
			"LAMBDA_RUNTIME_DIR=/var/runtime",
			"LAMBDA_TASK_ROOT=/var/task",
			"LANG=C.UTF-8",
			"LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
			"MY_NAME=v",
			"PATH=/opt/mine",
			"TZ=:UTC",
			"_AWS_XRAY_DAEMON_ADDRESS=127.0.0.1",
			"_AWS_XRAY_DAEMON_PORT=2000",
			"_HANDLER=index.handler",
		},
		Link:       sandbox.Link{Address: "127.0.0.2:9001", Helpers: "/opt/extensions"},
		WorkingDir: "/var/task",
		User:       sandbox.User{UID: 993, GID: 990},
		Mounts:     []sandbox.Mount{{Source: "/data/code/abc", Target: "/var/task"}},
		Limits:     sandbox.Limits{CPU: 500, Memory: 2048 << 20, Tmp: 512 << 20, PIDs: 1024, OpenFiles: 4096},
		Labels: map[string]string{
			"hearth.environment": "e-1", "hearth.function": "thumb", "hearth.version": "$LATEST.PUBLISHED",
		},
		Metadata: []byte("m"),
	}
	if d := cmp.Diff(want, zip().spec()); d != "" {
		t.Fatal(d)
	}
}

func TestExtensionsGetNoVariableOfTheRuntime(t *testing.T) {
	t.Parallel()
	b := zip()
	b.assignment.Variables["AWS_XRAY_CONTEXT_MISSING"] = "IGNORE_ERROR"
	b.token = "secret"
	want := []string{
		"AWS_DEFAULT_REGION=eu-west-1",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=2048",
		"AWS_LAMBDA_FUNCTION_NAME=thumb",
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST.PUBLISHED",
		"AWS_LAMBDA_INITIALIZATION_TYPE=lambda-managed-instances",
		"AWS_LAMBDA_LOG_FORMAT=JSON",
		"AWS_LAMBDA_LOG_LEVEL=TRACE",
		"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001",
		"AWS_REGION=eu-west-1",
		"EXTRA=1",
		"LANG=C.UTF-8",
		"LD_LIBRARY_PATH=/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
		"MY_NAME=v",
		"PATH=/opt/mine",
		"TZ=:UTC",
	}
	var got []string
	for _, e := range b.extensionEnvironment() {
		if !strings.HasPrefix(e, "AWS_CONTAINER_") { // they are for both
			got = append(got, e)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(b.extensionEnvironment()) != len(want)+2 {
		t.Errorf("the role's credentials are missing: %q", b.extensionEnvironment())
	}
}

func TestTheAccountIsThatOfTheFunction(t *testing.T) {
	t.Parallel()
	for arn, want := range map[string]string{"arn:aws:lambda:us-east-1:123456789012:function:f:1": "123456789012", "arn:f:1": "", "": ""} {
		if got := accountID(arn); got != want {
			t.Errorf("%q: got %q", arn, got)
		}
	}
}

func TestAnImageFunctionRunsWhatItsImageSays(t *testing.T) {
	t.Parallel()
	b := zip()
	b.assignment.Code, b.assignment.Runtime, b.assignment.Handler, b.codeDir = agent.Code{}, "", "", ""
	b.image.Cmd = []string{"app.handler"}
	s := b.spec()
	if d := cmp.Diff([]string{"/lambda-entrypoint.sh", "app.handler"}, s.Args); d != "" || s.WorkingDir != "/home" || len(s.Mounts) != 0 {
		t.Fatal(d, s.WorkingDir, s.Mounts)
	}
	env := map[string]bool{}
	for _, e := range s.Env {
		env[e] = true
	}
	for e, want := range map[string]bool{"AWS_EXECUTION_ENV=AWS_Lambda_Image": true, "_HANDLER=": false, "_HANDLER=other": false, "PATH=/opt/mine": true} {
		if env[e] != want {
			t.Errorf("%s: got %v want %v", e, env[e], want)
		}
	}
}

func TestOutputKeepsTheEnd(t *testing.T) {
	t.Parallel()
	o := quietOutput()
	o.follow("s", agent.Assignment{Environment: "e", FunctionName: "f", Version: "1"})
	for range 600 {
		o.Line("s", sandbox.Stderr, []byte("0123456789"))
	}
	o.ExtensionLine("s", "x", []byte("the end"))
	last := o.last("s")
	if len(last) <= tailBytes-11 || len(last) > tailBytes || last[:11] != "0123456789\n" || last[len(last)-8:] != "the end\n" {
		t.Errorf("got %d bytes: %q", len(last), last)
	}
	o.Line("s", sandbox.Stdout, bytes.Repeat([]byte("é"), 100_000))
	o.Line("s", sandbox.Stdout, []byte("the end"))
	if last := o.last("s"); len(last) != tailBytes || !strings.HasSuffix(printable(last), "é\nthe end\n") || !utf8.ValidString(printable(last)) {
		t.Errorf("of one endless line: got %d bytes: %.20q", len(last), last)
	}
	o.forget("s")
	if o.last("s") != "" {
		t.Error("output is kept for ever")
	}
}
