package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// instruments finds the names of all metrics in the tree: string literals in
// files called metrics.go that look like one.
func instruments(root string) (map[string]string, error) {
	name := regexp.MustCompile(`^hearth_[a-z_]+$`)
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "metrics.go" {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if s, err := strconv.Unquote(lit.Value); err == nil && name.MatchString(s) {
					found[s] = path
				}
			}
			return true
		})
		return nil
	})
	return found, err
}

func TestEveryMetricIsInTheDocumentation(t *testing.T) {
	t.Parallel()
	found, err := instruments("../../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 8 {
		t.Fatalf("found only %v", found)
	}
	page, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := regexp.MustCompile("(?m)^\\| `(hearth_[a-z_]+)`").FindAllStringSubmatch(string(page), -1)
	unused := map[string]bool{}
	for _, m := range documented {
		unused[m[1]] = true
	}
	for name, path := range found {
		known := false
		for _, suffix := range []string{"", "_total", "_seconds", "_bytes"} {
			if unused[name+suffix] {
				known = true
				delete(unused, name+suffix)
			}
		}
		if !known {
			t.Errorf("%s: %s is not in docs/metrics.md", strings.TrimPrefix(path, "../../../"), name)
		}
	}
	for name := range unused {
		t.Errorf("docs/metrics.md has %s, which nothing exports", name)
	}
}
