package controlplane_test

import (
	"testing"

	"github.com/hearth-compute/hearth/controlplane"
)

func TestTheDefaultConcurrencyIsTheRuntimesForEachVCPU(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config controlplane.Config
		want   int
	}{
		{controlplane.Config{Runtime: "nodejs22.x", MemoryMB: 2048}, 64},
		{controlplane.Config{Runtime: "nodejs24.x", MemoryMB: 8192}, 256},
		{controlplane.Config{Runtime: "nodejs24.x", MemoryMB: 8192, GiBPerVCPU: 8}, 64},
		{controlplane.Config{Runtime: "java21", MemoryMB: 4096}, 64},
		{controlplane.Config{Runtime: "dotnet8", MemoryMB: 2048}, 32},
		{controlplane.Config{Runtime: "python3.13", MemoryMB: 2048}, 16},
		{controlplane.Config{Runtime: "python3.13", MemoryMB: 512}, 4},
		{controlplane.Config{Runtime: "provided.al2023", MemoryMB: 2048}, 8},
		{controlplane.Config{Runtime: "ruby3.4", MemoryMB: 4096}, 16},
		{controlplane.Config{PackageType: "Image", MemoryMB: 2048}, 8},
		{controlplane.Config{Runtime: "provided.al2023", MemoryMB: 128}, 1},
		{controlplane.Config{Runtime: "nodejs22.x", MemoryMB: 32768, GiBPerVCPU: 0.5}, 1600},
		{controlplane.Config{Runtime: "nodejs22.x", MemoryMB: 2048, MaxConcurrency: 5}, 5},
		{controlplane.Config{Runtime: "nodejs22.x", MemoryMB: 2048, MaxConcurrency: 5, OnDemand: true}, 1},
	} {
		if got := c.config.Concurrency(); got != c.want {
			t.Errorf("%+v: got %d, want %d", c.config, got, c.want)
		}
	}
}
