package arch

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// dependencyRows finds the modules in the table of the dependencies record:
// lines that begin with "| `module` |".
func dependencyRows(record string) []string {
	var rows []string
	for _, match := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(record, -1) {
		rows = append(rows, match[1])
	}
	return rows
}

// checkDependencies compares what the tree imports from other modules, tests
// included, with the rows of the record. A row covers the module's packages, but
// not modules nested in it that have a row of their own.
func checkDependencies(t tree, rows []string) []string {
	var found []string
	used := map[string]bool{}
	for dir, p := range t {
		for _, imports := range []map[string]string{p.imports, p.testImports} {
			for imp, file := range imports {
				if !strings.Contains(top(imp), ".") || within(imp, module) {
					continue
				}
				row := longestWithin(imp, rows)
				used[row] = true
				if row == "" {
					found = append(found, fmt.Sprintf("%s/%s imports %s, which has no line in the record of dependencies", dir, file, imp))
				}
			}
		}
	}
	for _, row := range rows {
		if !used[row] {
			found = append(found, row+" has a line in the record of dependencies and is not imported")
		}
	}
	slices.Sort(found)
	return found
}

func longestWithin(imp string, rows []string) string {
	best := ""
	for _, row := range rows {
		if within(imp, row) && len(row) > len(best) {
			best = row
		}
	}
	return best
}
