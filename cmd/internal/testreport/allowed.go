package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// allowList maps the tests that may be skipped to the reason somebody wrote
// down.
type allowList map[testID]string

// parseAllowed reads a list of lines "package Test reason…". Empty lines and
// those that begin with # are comments.
func parseAllowed(text string) (allowList, error) {
	list := allowList{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 3 {
			return nil, fmt.Errorf("line %d: want a package, a test and a reason, got %q", n, line)
		}
		id := testID{pkg: fields[0], test: fields[1]}
		if _, twice := list[id]; twice {
			return nil, fmt.Errorf("line %d: %s is listed twice", n, id)
		}
		list[id] = strings.Join(fields[2:], " ")
	}
	return list, nil
}

// stale returns what is listed and was not skipped, ordered.
func (l allowList) stale(skipped []testID) []testID {
	ids := slices.SortedFunc(maps.Keys(l), testID.compare)
	return slices.DeleteFunc(ids, func(id testID) bool { return slices.Contains(skipped, id) })
}
