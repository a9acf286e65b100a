package arch

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

func TestTheRepositoryKeepsItsShape(t *testing.T) {
	pkgs, err := load(os.DirFS("../../.."))
	if err != nil {
		t.Fatal(err)
	}
	if pkgs["cmd/internal/arch"] == nil || pkgs["agent"] == nil {
		t.Fatalf("loaded %d packages, without those that are known to exist", len(pkgs))
	}
	for _, violation := range check(pkgs) {
		t.Error(violation)
	}
}

func TestEveryDependencyHasItsLineInTheRecord(t *testing.T) {
	pkgs, err := load(os.DirFS("../../.."))
	if err != nil {
		t.Fatal(err)
	}
	record, err := os.ReadFile("../../../docs/adr/0026-dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range checkDependencies(pkgs, dependencyRows(string(record))) {
		t.Error(violation)
	}
}

func TestADependencyWithoutALineIsFoundAndALineWithoutADependency(t *testing.T) {
	pkgs, err := load(sound())
	if err != nil {
		t.Fatal(err)
	}
	rows := dependencyRows("# Title\n\n| module | why |\n|---|---|\n| `example.com/lambda` | so |\n| `example.com/gone` | once |\n")
	want := []string{
		"example.com/gone has a line in the record of dependencies and is not imported",
		"sandbox/containerd/driver.go imports example.com/containerd, which has no line in the record of dependencies",
	}
	if diff := cmp.Diff(want, checkDependencies(pkgs, rows)); diff != "" {
		t.Error(diff)
	}
}

func TestALineCoversTheModulesPackagesOnly(t *testing.T) {
	rows := []string{"example.com/sdk", "example.com/sdk/service/x"}
	for imp, want := range map[string]string{
		"example.com/sdk":                 "example.com/sdk",
		"example.com/sdk/aws":             "example.com/sdk",
		"example.com/sdk/service/x/types": "example.com/sdk/service/x",
		"example.com/sdk2":                "",
		"example.com":                     "",
	} {
		if got := longestWithin(imp, rows); got != want {
			t.Errorf("line for %s is %q, want %q", imp, got, want)
		}
	}
}

func TestEveryErrorLoggedHasARunbookEntry(t *testing.T) {
	logged, err := loggedErrors(os.DirFS("../../.."))
	if err != nil {
		t.Fatal(err)
	}
	if len(logged) == 0 {
		t.Fatal("found no line logged at level error, although there are some")
	}
	runbook, err := os.ReadFile("../../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, missing := range checkRunbook(logged, string(runbook)) {
		t.Error(missing)
	}
}

func TestFindsLinesLoggedAtLevelError(t *testing.T) {
	files := fstest.MapFS{
		"agent/a.go": {Data: []byte(`package agent
func f() {
	log.Error("known", "err", err)
	s.log.ErrorContext(ctx, "new one")
	log.Warn("no matter")
	status.Error(codes.Internal, "not logged")
	err.Error()
}`)},
		"agent/agenttest/suite.go": {Data: []byte("package agenttest\nimport \"testing\"\nfunc g(t *testing.T) { t.Error(\"a suite's\") }")},
		"agent/a_test.go":          {Data: []byte("package agent\nfunc g() { t.Error(\"a test's\") }")},
	}
	logged, err := loggedErrors(files)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`agent/a.go logs "new one" at level error, and the runbook has no entry for it`}
	if diff := cmp.Diff(want, checkRunbook(logged, "| `known` | do this |")); diff != "" {
		t.Error(diff)
	}
}

// sound is a small tree that breaks no rule.
func sound() fstest.MapFS {
	files := map[string]string{
		"sandbox/sandbox.go":                `package sandbox`,
		"sandbox/containerd/driver.go":      `package containerd; import _ "example.com/containerd"`,
		"proto/hearth/agent/v1/doc.go":      `package agentv1`,
		"metrics/heat/heat.go":              `package heat; import _ "math"`,
		"agent/agent.go":                    `package agent; import _ "time"`,
		"agent/admit/admit.go":              `package admit; import _ "` + module + `/agent"`,
		"agent/invoke/server.go":            `package invoke; import (_ "` + module + `/proto/hearth/agent/v1"; _ "net")`,
		"agent/daemon/daemon.go":            `package daemon; import _ "` + module + `/sandbox/containerd"`,
		"controlplane/controlplane.go":      `package controlplane; import _ "` + module + `/metrics/heat"`,
		"controlplane/store/store.go":       `package store`,
		"controlplane/store/sqlite/db.go":   `package sqlite; import _ "` + module + `/controlplane/store/sqlite/migrations"`,
		"controlplane/store/sqlite/a.txt":   `not Go`,
		"controlplane/router/router.go":     `package router; import _ "` + module + `/controlplane"`,
		"controlplane/reconcile/loop.go":    `package reconcile; import _ "` + module + `/controlplane/store"`,
		"controlplane/server/server.go":     `package server; import _ "` + module + `/controlplane/store/sqlite"`,
		"controlplane/store/open_test.go":   "package store_test; import _ \"" + module + `/controlplane/store/sqlite"`,
		"cmd/hearth-agent/main.go":          `package main; import _ "` + module + `/agent/daemon"`,
		"deploy/tools/go.mod":               `module other`,
		"agent/testdata/broken.go":          `this is not Go`,
		"examples/hello-go/main.go":         `package main; import _ "example.com/lambda"`,
		"controlplane/store/sqlite/.x/a.go": `nor this`,
	}
	m := fstest.MapFS{"deploy/tools/tools.go": {Data: []byte("package util")}}
	for name, src := range files {
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			src = "// Package comment.\n" + src
		}
		m[name] = &fstest.MapFile{Data: []byte(src)}
	}
	m["controlplane/store/sqlite/migrations/m.go"] = &fstest.MapFile{Data: []byte("// Package migrations holds.\npackage migrations")}
	return m
}

func TestASoundTreeBreaksNoRule(t *testing.T) {
	pkgs, err := load(sound())
	if err != nil {
		t.Fatal(err)
	}
	if got := check(pkgs); len(got) != 0 {
		t.Errorf("violations in a sound tree:\n%s", strings.Join(got, "\n"))
	}
}

func TestEachRuleFindsAPlantedViolation(t *testing.T) {
	imports := func(pkg, imp string) string {
		return "package " + pkg + "; import _ \"" + imp + "\""
	}
	tests := []struct {
		name, file, src, want string
	}{
		{"sandbox imports ours", "sandbox/x.go", imports("sandbox", module+"/metrics/heat"), "sandbox/x.go imports metrics/heat: sandbox may import only []"},
		{"proto imports ours", "proto/hearth/agent/v1/x.go", imports("agentv1", module+"/agent"), "proto may import only []"},
		{"controlplane imports agent", "controlplane/server/x.go", imports("server", module+"/agent"), "controlplane may import only"},
		{"controlplane imports sandbox", "controlplane/server/x.go", imports("server", module+"/sandbox"), "controlplane may import only"},
		{"agent imports controlplane", "agent/daemon/x.go", imports("daemon", module+"/controlplane"), "agent may import only"},
		{"a test imports across", "agent/daemon/x_test.go", imports("daemon", module+"/controlplane"), "agent may import only"},
		{"anything imports cmd", "agent/daemon/x.go", imports("daemon", module+"/cmd/internal/boot"), "agent may import only"},
		{"an example imports ours", "examples/hello-go/x.go", imports("main", module+"/agent"), "examples may import only []"},
		{"a new top-level directory", "tools/x.go", "// Package tools holds.\npackage tools", "the layout is fixed"},

		{"a decider does I/O", "agent/admit/x.go", imports("admit", "os"), "agent/admit must stay pure"},
		{"a decider takes a context", "agent/admit/x.go", imports("admit", "context"), "must stay pure"},
		{"vocabulary uses a library", "controlplane/x.go", imports("controlplane", "example.com/x"), "controlplane must stay pure"},
		{"a decider uses what is not pure", "agent/admit/x.go", imports("admit", module+"/agent/daemon"), "must stay pure"},

		{"a driver outside wiring", "agent/invoke/x.go", imports("invoke", module+"/sandbox/containerd"), "drivers are chosen by wiring only"},
		{"a store driver in the loop", "controlplane/reconcile/x.go", imports("reconcile", module+"/controlplane/store/sqlite"), "drivers are chosen"},
		{"a store driver's subpackage", "controlplane/reconcile/x.go", imports("reconcile", module+"/controlplane/store/sqlite/migrations"), "drivers are chosen"},
		{"a fleet driver in a decider", "controlplane/reconcile/x.go", imports("reconcile", module+"/controlplane/fleet/local"), "drivers are chosen"},
		{"a driver in another driver", "controlplane/store/sqlite/x.go", imports("sqlite", module+"/controlplane/fleet/ec2"), "drivers are chosen"},

		{"generated types inside", "controlplane/router/x.go", imports("router", module+"/proto/hearth/agent/v1"), "generated types stop at the edge"},
		{"generated types in an adapter", "sandbox/containerd/x.go", imports("containerd", module+"/proto/hearth/agent/v1"), "generated types stop at the edge"},

		{"the router reads the store", "controlplane/router/x.go", imports("router", module+"/controlplane/store"), "controlplane/router imports controlplane/store: an invoke's way has no store"},
		{"the router reads it through others", "controlplane/router/x.go", imports("router", module+"/controlplane/reconcile"), "an invoke's way has no store"},
		{"invoke reaches a store", "agent/invoke/x.go", imports("invoke", module+"/controlplane/store"), "agent/invoke imports controlplane/store: an invoke's way has no store"},

		{"no package comment", "agent/pool/pool.go", "package pool", "agent/pool: package comment in []"},
		{"two package comments", "agent/x.go", "// Package agent again.\npackage agent", "package comment in [agent.go x.go]"},
		{"no comment on generated code", "proto/hearth/invoke/v1/a.pb.go", "package invokev1", "proto/hearth/invoke/v1: package comment in []"},

		{"a banned directory", "agent/util/x.go", "// Package util holds.\npackage util", `agent/util: "util" is no name`},
		{"a banned package clause", "agent/many/x.go", "// Package common holds.\npackage common", `agent/many: "common" is no name`},
		{"a snake", "agent/code_cache/x.go", "// Package codecache holds.\npackage codecache", `"code_cache" is no name`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files := sound()
			files[test.file] = &fstest.MapFile{Data: []byte(test.src)}
			pkgs, err := load(files)
			if err != nil {
				t.Fatal(err)
			}
			got := check(pkgs)
			if !slices.ContainsFunc(got, func(v string) bool { return strings.Contains(v, test.want) }) {
				t.Errorf("violations %q, want one with %q", got, test.want)
			}
		})
	}
}

func TestEveryRuleNamesPackagesThatCanExist(t *testing.T) {
	known := mayImport()
	var named []string
	for _, d := range doors() {
		named = append(append(named, d.behind...), d.open...)
	}
	named = append(append(named, invokePath()...), stores()...)
	for _, dir := range named {
		if _, ok := known[top(dir)]; !ok {
			t.Errorf("a rule names %s, which is in no known tree", dir)
		}
	}
}

func TestAFileThatDoesNotParseIsAnError(t *testing.T) {
	files := sound()
	files["agent/x.go"] = &fstest.MapFile{Data: []byte("no Go")}
	if _, err := load(files); err == nil || !strings.Contains(err.Error(), "agent/x.go") {
		t.Errorf("err = %v, want one that names the file", err)
	}
}
