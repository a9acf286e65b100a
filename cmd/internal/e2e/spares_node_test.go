//go:build node

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sparesOfAgent is how many networks an agent keeps ready, at most: --spares.
const sparesOfAgent = 4

// isSpare returns what says whether a line of leftovers is about a network or a
// /tmp that an agent keeps ready for environments to come. An agent that has
// more than it may have has leaked them: then there is none.
func (s *stack) isSpare() (func(line string) bool, error) {
	none := func(string) bool { return false }
	instances, err := filepath.Glob(filepath.Join(s.dir, "instances", "*"))
	if err != nil {
		return none, err
	}
	var names []string // they end a line, are in a path or begin a line
	for _, dir := range instances {
		results, err := filepath.Glob(filepath.Join(dir, "agent", "containerd", "cni", "cache", "results", "*-spare_*"))
		if err != nil || len(results) > sparesOfAgent {
			return none, fmt.Errorf("%q: %d spares, %w", dir, len(results), err)
		}
		for _, file := range results {
			found, err := namesOfSpare(file)
			if err != nil {
				return none, err
			}
			names = append(names, found...)
		}
	}
	return func(line string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return strings.Contains(line+" ", name) })
	}, nil
}

// namesOfSpare reads what CNI noted about a network: what lines about it have in
// them.
func namesOfSpare(file string) ([]string, error) {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // an environment has it now
	}
	if err != nil {
		return nil, err
	}
	var noted struct {
		ID     string `json:"containerId"`
		Result struct {
			Interfaces []struct{ Name, Sandbox string }
			IPs        []struct{ Address string }
		}
	}
	if err := json.Unmarshal(content, &noted); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	names := []string{noted.ID}
	for _, ip := range noted.Result.IPs {
		address, _, _ := strings.Cut(ip.Address, "/")
		names = append(names, "route "+address+"/32 ", "/"+address+" ")
	}
	for _, i := range noted.Result.Interfaces {
		if host, err := net.InterfaceByName(i.Name); i.Sandbox == "" && err == nil {
			names = append(names, fmt.Sprintf("interface %d with address ", host.Index))
		}
	}
	return names, nil
}
