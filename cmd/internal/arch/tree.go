// Package arch keeps the repository's shape: who may import whom, which
// packages stay pure, who may touch drivers and generated types, how packages
// are called, and that every package says what it is for. Its test runs the
// rules on the repository; nothing else imports it.
//
// The rules parse the tree themselves rather than running "go list": the test
// cache tracks files a test opens but not files a subprocess opens, so a "go
// list" version would pass from cache after a bad change.
package arch

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// module is the import path of the repository.
const module = "github.com/hearth-compute/hearth"

// pkg is one directory with Go files.
type pkg struct {
	name string   // of the package clause, without _test
	docs []string // files with a package comment
	// imports and testImports map import paths to a file that has them;
	// testImports are those of _test.go files.
	imports, testImports map[string]string
}

// tree maps directories, relative to the root and with slashes, to packages.
type tree map[string]*pkg

// load parses the package clause, comments and imports of every Go file.
// Directories called testdata, those that begin with a dot, and other modules
// are left out.
func load(fsys fs.FS) (tree, error) {
	pkgs := tree{}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() {
			return skipDir(fsys, name, base)
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		return pkgs.addFile(fsys, name)
	})
	return pkgs, err
}

func skipDir(fsys fs.FS, name, base string) error {
	if name == "." {
		return nil
	}
	if base == "testdata" || strings.HasPrefix(base, ".") {
		return fs.SkipDir
	}
	if _, err := fs.Stat(fsys, path.Join(name, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func (t tree) addFile(fsys fs.FS, name string) error {
	src, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return fmt.Errorf("parsing %s: %w", name, err)
	}
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	p := t[dir]
	if p == nil {
		p = &pkg{imports: map[string]string{}, testImports: map[string]string{}}
		t[dir] = p
	}
	if f.Doc != nil {
		p.docs = append(p.docs, base)
	}
	imports := p.imports
	if strings.HasSuffix(base, "_test.go") {
		imports = p.testImports
	}
	if !strings.HasSuffix(base, "_test.go") || p.name == "" {
		p.name = strings.TrimSuffix(f.Name.Name, "_test")
	}
	for _, s := range f.Imports {
		imp, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			return fmt.Errorf("parsing %s: %w", name, err)
		}
		imports[imp] = base
	}
	return nil
}

// within reports whether dir is root or beneath it.
func within(dir, root string) bool {
	return dir == root || strings.HasPrefix(dir, root+"/")
}

// top is the first element of dir.
func top(dir string) string {
	first, _, _ := strings.Cut(dir, "/")
	return first
}

// ours returns the directory an import path of this module names.
func ours(imp string) (dir string, ok bool) {
	return strings.CutPrefix(imp, module+"/")
}
