//go:build node

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/google/go-cmp/cmp"
)

const layerBase = "arn:aws:lambda:" + region + ":" + account + ":layer:"

// publishLayer publishes a layer of files.
func (s *stack) publishLayer(name string, members ...member) (arn string) {
	s.t.Helper()
	out, err := s.lambda.PublishLayerVersion(s.t.Context(), &lambda.PublishLayerVersionInput{
		LayerName: &name, Content: &types.LayerVersionContentInput{ZipFile: zipped(s.t, members...)},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return *out.LayerVersionArn
}

// reads asks the function what files it sees: mode and content.
func (s *stack) reads(names ...string) []string {
	s.t.Helper()
	payload, err := json.Marshal(map[string]any{"Read": names})
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.lambda.Invoke(s.t.Context(), &lambda.InvokeInput{FunctionName: aws.String(functionName), Payload: payload})
	if err != nil {
		s.t.Fatal(err)
	}
	if out.FunctionError != nil {
		s.t.Fatalf("function error: %s", out.Payload)
	}
	var a struct{ Files []string }
	if err := json.Unmarshal(out.Payload, &a); err != nil {
		s.t.Fatal(err)
	}
	return a.Files
}

// layered wants what the layers of TestLayers are merged to.
func (s *stack) layered(note string) {
	s.t.Helper()
	got := s.reads("/opt/both", "/opt/only/one", "/opt/only/two", "/opt/bin/x", "/opt/link", "/opt/su")
	want := []string{
		"-rw-r--r-- two", "-rw-r--r-- 1", "-rw-r--r-- 2", "-rwxr-xr-x #!/bin/sh", "Lrwxrwxrwx two", "-rwxr-xr-x su",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("%s (-want +got):\n%s", note, diff)
	}
}

// TestLayers runs a function whose very bootstrap is in a layer.
func TestLayers(t *testing.T) {
	t.Parallel()
	s := up(t)
	s.provider("a")
	probe, err := os.ReadFile(filepath.Join(bins, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	layers := []string{
		s.publishLayer("one", member{"both", []byte("one"), 0o644}, member{"only/one", []byte("1"), 0o644}, member{"bin/x", []byte("#!/bin/sh"), 0o700},
			member{"su", []byte("su"), fs.ModeSetuid | 0o755}),
		s.publishLayer("two", member{"both", []byte("two"), 0o600}, member{"only/two", []byte("2"), 0o644}, member{"link", []byte("both"), fs.ModeSymlink | 0o777}),
		s.publishLayer("program", member{"bootstrap", probe, 0o755}),
	}
	s.function(func(in *lambda.CreateFunctionInput) {
		in.Layers, in.Code.ZipFile = layers, zipped(t, member{"notes.txt", []byte("no bootstrap here"), 0o644})
	})
	s.layered("new")
	if got := s.reads("/opt/none")[0]; !strings.Contains(got, "no such file") {
		t.Errorf("a file of no layer: %s", got)
	}
	s.step("deleted while used", func() { s.deletesLayers(layers) })
	s.step("other order", func() { s.reordersLayers(layers) })
	s.step("hostile", s.hostileLayers)
	s.step("AWS CLI", s.layersByCLI)
}

// deletesLayers deletes the versions. Environments that run, that come back and
// that start on a host that lost its cache have the layers.
func (s *stack) deletesLayers(layers []string) {
	for _, arn := range layers {
		name := strings.Split(arn, ":")[6]
		if _, err := s.lambda.DeleteLayerVersion(s.t.Context(), &lambda.DeleteLayerVersionInput{LayerName: &name, VersionNumber: aws.Int64(1)}); err != nil {
			s.t.Fatal(err)
		}
	}
	s.layered("after the delete")
	s.replaces(s.functions)
	s.layered("in a new process")
	s.replaces(func() []int { return s.processes("hearth-agent") })
	s.layered("under a new agent")
}

// replaces kills all there are of some processes and waits for as many others,
// and for the function.
func (s *stack) replaces(processes func() []int) {
	s.t.Helper()
	before := processes()
	if len(before) == 0 {
		s.t.Fatal("there is nothing to kill")
	}
	kill(s.t, before...)
	s.eventually(time.Minute, "what was killed to be replaced", func() error {
		now := processes()
		if len(now) != len(before) || slices.ContainsFunc(now, func(pid int) bool { return slices.Contains(before, pid) }) {
			return fmt.Errorf("processes %v, before %v", now, before)
		}
		_, _, err := s.invoke(s.t.Context(), event{})
		return err
	})
}

func (s *stack) reordersLayers(layers []string) {
	_, err := s.lambda.UpdateFunctionConfiguration(s.t.Context(), &lambda.UpdateFunctionConfigurationInput{
		FunctionName: aws.String(functionName), Layers: []string{layers[1], layers[0], layers[2]},
	})
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		s.t.Errorf("deleted layers: %v", err)
	}
	again := s.publishLayer("one", member{"both", []byte("one"), 0o644})
	if again != layerBase+"one:2" {
		s.t.Errorf("published %s", again)
	}
	program, err := os.ReadFile(filepath.Join(bins, "probe"))
	if err != nil {
		s.t.Fatal(err)
	}
	next := []string{
		s.publishLayer("two", member{"both", []byte("two"), 0o644}), again,
		s.publishLayer("program", member{"bootstrap", program, 0o755}),
	}
	if _, err := s.lambda.UpdateFunctionConfiguration(s.t.Context(), &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String(functionName), Layers: next}); err != nil {
		s.t.Fatal(err)
	}
	s.layered("before it is published")
	if _, err := s.lambda.PublishVersion(s.t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String(functionName), PublishTo: types.FunctionVersionLatestPublishedLatestPublished}); err != nil {
		s.t.Fatal(err)
	}
	s.active()
	s.eventually(30*time.Second, "the new publication to serve", func() error {
		if got := s.reads("/opt/both")[0]; got != "-rw-r--r-- one" {
			return errors.New(got)
		}
		return nil
	})
}

// hostileLayers are refused when they are published.
func (s *stack) hostileLayers() {
	for name, m := range map[string]member{
		"a block device":     {"dev", nil, fs.ModeDevice | 0o666},
		"a character device": {"dev", nil, fs.ModeDevice | fs.ModeCharDevice | 0o666},
		"a pipe":             {"pipe", nil, fs.ModeNamedPipe | 0o666},
		"a way up":           {"../../etc/x", []byte("x"), 0o644},
		"a link out":         {"link", []byte("../../../etc/shadow"), fs.ModeSymlink | 0o777},
		"a link to hosts":    {"link", []byte("/etc/hosts"), fs.ModeSymlink | 0o777},
	} {
		_, err := s.lambda.PublishLayerVersion(s.t.Context(), &lambda.PublishLayerVersionInput{
			LayerName: aws.String("hostile"), Content: &types.LayerVersionContentInput{ZipFile: zipped(s.t, m)},
		})
		if code(err) != "InvalidParameterValueException" || !strings.Contains(err.Error(), "The archive is refused") {
			s.t.Errorf("%s: %v", name, err)
		}
	}
}

// layersByCLI publishes, attaches, reads and deletes with the AWS CLI.
func (s *stack) layersByCLI() {
	path, err := exec.LookPath("aws")
	if err != nil {
		s.t.Skip("no AWS CLI on this machine")
	}
	c := &awsCLI{s: s, path: path}
	file := filepath.Join(s.t.TempDir(), "layer.zip")
	if err := os.WriteFile(file, zipped(s.t, member{"from/cli", []byte("hello"), 0o644}), 0o600); err != nil {
		s.t.Fatal(err)
	}
	made := c.ok("publish-layer-version", "--layer-name", "cli", "--zip-file", "fileb://"+file, "--description", "of the CLI",
		"--compatible-runtimes", "provided.al2023", "java21", "--compatible-architectures", "x86_64", "arm64", "--license-info", "MIT")
	arn := layerBase + "cli:1"
	if made["LayerVersionArn"] != arn || made["Version"] != 1.0 {
		s.t.Errorf("published %v", made)
	}
	for _, args := range [][]string{
		{"list-layers", "--compatible-runtime", "java21"},
		{"list-layer-versions", "--layer-name", "cli"},
		{"get-layer-version", "--layer-name", "cli", "--version-number", "1"},
		{"get-layer-version-by-arn", "--arn", arn},
	} {
		if got := fmt.Sprint(c.ok(args...)); !strings.Contains(got, arn) || !strings.Contains(got, "of the CLI") {
			s.t.Errorf("%s: %s", args[0], got)
		}
	}
	c.ok("add-layer-version-permission", "--layer-name", "cli", "--version-number", "1", "--statement-id", "all",
		"--action", "lambda:GetLayerVersion", "--principal", "*")
	if got := fmt.Sprint(c.ok("get-layer-version-policy", "--layer-name", "cli", "--version-number", "1")); !strings.Contains(got, "all") {
		s.t.Errorf("policy %s", got)
	}
	c.ok("remove-layer-version-permission", "--layer-name", "cli", "--version-number", "1", "--statement-id", "all")
	got := c.ok("update-function-configuration", "--function-name", functionName, "--layers", arn, layerBase+"program:2")
	if !strings.Contains(fmt.Sprint(got["Layers"]), arn) {
		s.t.Errorf("layers %v", got["Layers"])
	}
	c.ok("publish-version", "--function-name", functionName, "--publish-to", "LATEST_PUBLISHED")
	s.active()
	s.eventually(30*time.Second, "the layer of the CLI", func() error {
		if got := s.reads("/opt/from/cli")[0]; got != "-rw-r--r-- hello" {
			return errors.New(got)
		}
		return nil
	})
	c.ok("delete-layer-version", "--layer-name", "cli", "--version-number", "1")
	c.fails("ResourceNotFoundException", "get-layer-version", "--layer-name", "cli", "--version-number", "1")
	c.fails("InvalidParameterValueException", "update-function-configuration", "--function-name", functionName, "--layers", layerBase+"cli:9")
}
