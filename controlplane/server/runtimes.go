package server

import (
	"maps"

	"github.com/hearth-compute/hearth/controlplane"
)

// defaultRuntimeImages are AWS's public base images: of the runtimes that can
// run more than one invoke at once (lmi-behaviour §2.3), and of those that
// functions on demand still use.
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

		"nodejs18.x":   base + "nodejs:18",
		"nodejs20.x":   base + "nodejs:20",
		"python3.9":    base + "python:3.9",
		"python3.10":   base + "python:3.10",
		"python3.11":   base + "python:3.11",
		"python3.12":   base + "python:3.12",
		"java8.al2":    base + "java:8.al2",
		"java11":       base + "java:11",
		"java17":       base + "java:17",
		"ruby3.2":      base + "ruby:3.2",
		"ruby3.3":      base + "ruby:3.3",
		"ruby3.4":      base + "ruby:3.4",
		"provided.al2": base + "provided:al2",
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
