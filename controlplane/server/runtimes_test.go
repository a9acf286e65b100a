package server

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

func TestRuntimesWithAnImageAreAWSs(t *testing.T) {
	t.Parallel()
	all := newRuntimes(map[string]string{"own": "registry.example.com/own:1", "java21": "registry.example.com/java:21"})
	known := map[string]bool{}
	for _, r := range types.Runtime("").Values() {
		known[string(r)] = true
	}
	for name := range defaultRuntimeImages() {
		if !known[name] || !all.known(name) {
			t.Errorf("%s is no runtime of AWS, or unknown", name)
		}
	}
	for name, want := range map[string]string{
		"own": "registry.example.com/own:1", "java21": "registry.example.com/java:21", "python3.12": "public.ecr.aws/lambda/python:3.12",
	} {
		if got, ok := all.Image(name); !ok || got.Ref != want {
			t.Errorf("%s runs on %q, want %q", name, got.Ref, want)
		}
	}
	if all.known("cobol") {
		t.Error("cobol is known")
	}
}
