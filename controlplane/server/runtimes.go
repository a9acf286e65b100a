package server

import (
	"maps"

	"github.com/hearth-compute/hearth/controlplane"
)

// defaultRuntimeImages are AWS's public base images of the runtimes that can
// run more than one invoke at once (lmi-behaviour §2.3).
func defaultRuntimeImages() map[string]string {
	const base = "public.ecr.aws/lambda/"
	return map[string]string{
		"nodejs22.x":      base + "nodejs:22",
		"nodejs24.x":      base + "nodejs:24",
		"python3.13":      base + "python:3.13",
		"python3.14":      base + "python:3.14",
		"java21":          base + "java:21",
		"java25":          base + "java:25",
		"dotnet8":         base + "dotnet:8",
		"dotnet10":        base + "dotnet:10",
		"provided.al2023": base + "provided:al2023",
	}
}

// runtimes maps runtime names to images.
type runtimes map[string]string

func newRuntimes(overrides map[string]string) runtimes {
	all := defaultRuntimeImages()
	maps.Copy(all, overrides)
	return all
}

// Image returns the image zip functions of a runtime run on.
func (r runtimes) Image(name string) (controlplane.Image, bool) {
	ref, ok := r[name]
	return controlplane.Image{Ref: ref}, ok
}
