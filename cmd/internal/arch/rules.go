package arch

import (
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
)

// mayImport lists, for each top-level directory, the others it may import.
func mayImport() map[string][]string {
	return map[string][]string{
		"proto":        nil,
		"metrics":      nil,
		"sandbox":      nil,
		"agent":        {"proto", "metrics", "sandbox"},
		"controlplane": {"proto", "metrics"},
		"cmd":          {"proto", "metrics", "sandbox", "agent", "controlplane"},
		"examples":     nil,
	}
}

// purePackages hold vocabulary or decide; they cannot do I/O, read clocks, log
// or block. Each maps to the packages of ours it may use, which must be pure
// themselves.
func purePackages() map[string][]string {
	return map[string][]string{
		"agent":                  {"metrics/heat"},
		"agent/admit":            {"agent", "metrics/heat"},
		"controlplane":           {"metrics/heat"},
		"controlplane/capacity":  {"controlplane"},
		"controlplane/placement": {"controlplane"},
		"controlplane/scaling":   {"controlplane", "metrics/heat"},
		"metrics/heat":           nil,
	}
}

// pureStd is every standard package a pure package may import.
func pureStd() []string {
	return []string{
		"cmp", "container/heap", "errors", "fmt", "hash/fnv", "iter", "maps",
		"math", "math/bits", "slices", "sort", "strconv", "strings", "time",
	}
}

// A door is a set of packages that only some may import.
type door struct {
	behind []string // the packages and everything beneath them
	open   []string // who may import them, and everything beneath
	why    string
}

func doors() []door {
	return []door{
		{
			behind: []string{
				"sandbox/containerd",
				"controlplane/fleet/ec2", "controlplane/fleet/local", "controlplane/fleet/static",
				"controlplane/store/sqlite", "controlplane/store/postgres",
			},
			open: []string{"agent/daemon", "controlplane/server", "cmd"},
			why:  "drivers are chosen by wiring only",
		},
		{
			behind: []string{"proto"},
			open: []string{
				"controlplane/sessions", "controlplane/operator", "agent/session", "agent/invoke", "agent/logs/rpc",
				"cmd/hearth", "cmd/internal/e2e",
				"agent/daemon", "controlplane/server", // they register the services
			},
			why: "generated types stop at the edge",
		},
	}
}

// invokePath are the packages an invoke passes through; stores are those that
// must not be reachable from them.
func invokePath() []string { return []string{"controlplane/router", "agent/invoke"} }

func stores() []string { return []string{"controlplane/store", "controlplane/reconcile"} }

// bannedNames say nothing about what a package holds.
func bannedNames() []string {
	return []string{
		"base", "common", "core", "helper", "helpers", "lib", "manager", "misc",
		"model", "models", "pkg", "shared", "types", "util", "utils",
	}
}

// check applies every rule and returns the violations, ordered.
func check(t tree) []string {
	var found []string
	for _, rule := range []func(tree) iter.Seq[string]{
		importDirections, purity, guardedDoors, storelessInvokes, packageDocs, packageNames,
	} {
		found = slices.AppendSeq(found, rule(t))
	}
	slices.Sort(found)
	return found
}

// importDirections holds for tests too: a test that needs two trees belongs in
// cmd/internal/e2e.
func importDirections(t tree) iter.Seq[string] {
	allow := mayImport()
	return func(yield func(string) bool) {
		for dir, p := range t {
			allowed, known := allow[top(dir)]
			if !known && !yield(fmt.Sprintf("%s: a new top-level directory with Go code; the layout is fixed", dir)) {
				return
			}
			for _, imports := range []map[string]string{p.imports, p.testImports} {
				for imp, file := range imports {
					rel, ok := ours(imp)
					if !ok || top(rel) == top(dir) || slices.Contains(allowed, top(rel)) {
						continue
					}
					if !yield(fmt.Sprintf("%s/%s imports %s: %s may import only %v", dir, file, rel, top(dir), allowed)) {
						return
					}
				}
			}
		}
	}
}

func purity(t tree) iter.Seq[string] {
	pure, std := purePackages(), pureStd()
	return func(yield func(string) bool) {
		for dir, allowed := range pure {
			for _, a := range allowed {
				if _, ok := pure[a]; !ok && !yield(fmt.Sprintf("%s may use %s, which is not pure itself", dir, a)) {
					return
				}
			}
			p := t[dir]
			if p == nil {
				continue // not written yet
			}
			for imp, file := range p.imports {
				rel, ok := ours(imp)
				if ok && slices.Contains(allowed, rel) || slices.Contains(std, imp) {
					continue
				}
				if !yield(fmt.Sprintf("%s/%s imports %s: %s must stay pure", dir, file, imp, dir)) {
					return
				}
			}
		}
	}
}

func withinAny(dir string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return within(dir, r) })
}

// guardedDoors does not hold for tests, which may drive the real thing.
func guardedDoors(t tree) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, d := range doors() {
			for dir, p := range t {
				if withinAny(dir, d.open) {
					continue
				}
				for imp, file := range p.imports {
					rel, ok := ours(imp)
					if !ok || !withinAny(rel, d.behind) || sameRoom(dir, rel, d.behind) {
						continue
					}
					if !yield(fmt.Sprintf("%s/%s imports %s: %s", dir, file, rel, d.why)) {
						return
					}
				}
			}
		}
	}
}

// sameRoom reports whether both directories are beneath the same one of roots.
func sameRoom(a, b string, roots []string) bool {
	return slices.ContainsFunc(roots, func(r string) bool { return within(a, r) && within(b, r) })
}

// storelessInvokes follows imports all the way down.
func storelessInvokes(t tree) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, from := range invokePath() {
			way := t.pathTo(from, map[string]bool{})
			if way != nil && !yield(fmt.Sprintf("%s: an invoke's way has no store", strings.Join(way, " imports "))) {
				return
			}
		}
	}
}

// pathTo returns a chain of imports from dir to a store, or nil.
func (t tree) pathTo(dir string, seen map[string]bool) []string {
	if withinAny(dir, stores()) {
		return []string{dir}
	}
	p := t[dir]
	if p == nil || seen[dir] {
		return nil
	}
	seen[dir] = true
	for _, imp := range slices.Sorted(maps.Keys(p.imports)) {
		if rel, ok := ours(imp); ok {
			if way := t.pathTo(rel, seen); way != nil {
				return append([]string{dir}, way...)
			}
		}
	}
	return nil
}

func packageDocs(t tree) iter.Seq[string] {
	return func(yield func(string) bool) {
		for dir, p := range t {
			if len(p.docs) == 1 {
				continue
			}
			if !yield(fmt.Sprintf("%s: package comment in %v: want exactly one file", dir, p.docs)) {
				return
			}
		}
	}
}

func packageNames(t tree) iter.Seq[string] {
	return func(yield func(string) bool) {
		for dir, p := range t {
			for _, name := range []string{path.Base(dir), p.name} {
				if !slices.Contains(bannedNames(), name) && !strings.Contains(name, "_") {
					continue
				}
				if !yield(fmt.Sprintf("%s: %q is no name for a package: say what it holds", dir, name)) {
					return
				}
				break
			}
		}
	}
}
