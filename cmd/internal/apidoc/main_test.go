package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
)

func TestTheReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	if err := run("../../../docs/api.md", true); err != nil {
		t.Error(err)
	}
}

func TestAStaleReferenceFails(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "api.md")
	if err := run(out, false); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	stale := strings.Replace(string(text), "| CreateAlias |", "| CreateAlia |", 1)
	if err := os.WriteFile(out, []byte(stale), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(out, true); err == nil || !strings.Contains(err.Error(), "make generate") {
		t.Errorf("a stale file was taken: %v", err)
	}
}

func TestEveryOperationHasARowWithItsState(t *testing.T) {
	t.Parallel()
	text := string(reference([]lambdaapi.Operation{
		{Name: "Put", Method: "PUT", Path: "/x", State: lambdaapi.StoredOnly, Note: "kept"},
		{Name: "Get", Method: "GET", Path: "/x?y", State: lambdaapi.Works},
	}))
	const rows = "| Get | `GET /x?y` | works |  |\n| Put | `PUT /x` | stored only | kept |\n"
	if !strings.HasSuffix(text, rows) || !strings.Contains(text, "nothing acts on it | 1 |\n") {
		t.Errorf("the reference is\n%s\nwant at its end\n%s", text, rows)
	}
	known := map[string]bool{}
	for _, m := range meanings() {
		known[m[0]] = true
	}
	for _, op := range lambdaapi.Operations() {
		if !known[string(op.State)] || op.Method == "" || !strings.HasPrefix(op.Path, "/") {
			t.Errorf("%s has state %q, method %q and path %q", op.Name, op.State, op.Method, op.Path)
		}
	}
}
