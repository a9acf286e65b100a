package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// loggedErrors finds the messages of every line the shipped code logs at level
// error, by file: calls of a method Error or ErrorContext whose message is a
// string literal. The linter sees to it that messages are literals.
func loggedErrors(fsys fs.FS) (map[string][]string, error) {
	found := map[string][]string{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(fsys, name, d.Name())
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, src, parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("parsing %s: %w", name, err)
		}
		if slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing"` }) {
			return nil // a conformance suite; its Error is a test's
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if message, ok := errorMessage(n); ok {
				found[name] = append(found[name], message)
			}
			return true
		})
		return nil
	})
	return found, err
}

// errorMessage returns the message if n logs at level error.
func errorMessage(n ast.Node) (string, bool) {
	call, ok := n.(*ast.CallExpr)
	if !ok || len(call.Args) == 0 {
		return "", false
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	at := map[string]int{"Error": 0, "ErrorContext": 1}
	i, ok := at[method.Sel.Name]
	if !ok || i >= len(call.Args) {
		return "", false
	}
	text, ok := call.Args[i].(*ast.BasicLit)
	if !ok || text.Kind != token.STRING {
		return "", false
	}
	message, err := strconv.Unquote(text.Value)
	return message, err == nil
}

// checkRunbook returns the messages the runbook lacks, ordered. It has one when
// it quotes it: `message`.
func checkRunbook(logged map[string][]string, runbook string) []string {
	var missing []string
	for file, messages := range logged {
		for _, message := range messages {
			if !strings.Contains(runbook, "`"+message+"`") {
				missing = append(missing, fmt.Sprintf("%s logs %q at level error, and the runbook has no entry for it", file, message))
			}
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}
