// Package docs holds no code. Its test keeps the pages true: files, functions and tests that they name must exist.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = ".."

// pages are the documents of the project.
func pages(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"*.md", root + "/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			texts[path] = string(text)
		}
	}
	if len(texts) < 10 {
		t.Fatalf("%d pages: nothing is tested", len(texts))
	}
	return texts
}

// declared maps each Go file, by its path from the root, to the functions, methods ("Type.Name") and types that it declares.
func declared(t *testing.T) map[string][]string {
	t.Helper()
	files := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		files[filepath.ToSlash(name)] = names(file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func names(file *ast.File) []string {
	var all []string
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				receiver := d.Recv.List[0].Type
				if star, ok := receiver.(*ast.StarExpr); ok {
					receiver = star.X
				}
				if id, ok := receiver.(*ast.Ident); ok {
					name = id.Name + "." + name
				}
			}
			all = append(all, name)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if typed, ok := spec.(*ast.TypeSpec); ok {
					all = append(all, typed.Name.Name)
				}
			}
		}
	}
	return all
}

var (
	goFile   = regexp.MustCompile("`((?:[a-z0-9_]+/)+[a-z0-9_]+\\.go)`")
	testName = regexp.MustCompile(`\b(Test[A-Z]\w*)`)
	code     = regexp.MustCompile("`([^`]+)`")
	goName   = regexp.MustCompile(`^(?:[A-Za-z]\w*\.)?[A-Za-z]\w*$`)
)

// TestPagesNameWhatExists checks every Go file and every test that a page names.
func TestPagesNameWhatExists(t *testing.T) {
	files := declared(t)
	tests := map[string]bool{}
	for path, names := range files {
		for _, name := range names {
			if strings.HasSuffix(path, "_test.go") {
				tests[name] = true
			}
		}
	}
	for page, text := range pages(t) {
		for _, m := range goFile.FindAllStringSubmatch(text, -1) {
			if files[m[1]] == nil {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
		for _, at := range testName.FindAllStringSubmatchIndex(text, -1) {
			name, prefix := text[at[2]:at[3]], strings.HasPrefix(text[at[3]:], "*") || !strings.HasPrefix(text[at[3]:], "`")
			if !tests[name] && !(prefix && slices.ContainsFunc(slices.Collect(keys(tests)), func(other string) bool { return strings.HasPrefix(other, name) })) {
				t.Errorf("%s names the test %s, which does not exist", page, name)
			}
		}
	}
}

func keys(m map[string]bool) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

// TestDevelopmentNamesFunctions checks the table that answers "where is …?": its second column names files, and its third column
// functions or methods that these files declare.
func TestDevelopmentNamesFunctions(t *testing.T) {
	files := declared(t)
	everywhere := map[string]bool{}
	for _, names := range files {
		for _, name := range names {
			everywhere[name] = true
		}
	}
	text := pages(t)["development.md"]
	_, table, ok := strings.Cut(text, "## Where is …?")
	table, _, also := strings.Cut(table, "\n## ")
	if !ok || !also {
		t.Fatal("development.md has no table that answers where things are")
	}
	rows := 0
	for line := range strings.SplitSeq(table, "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || !strings.Contains(cells[1], ".go`") {
			continue
		}
		rows++
		inRow := map[string]bool{}
		for _, m := range goFile.FindAllStringSubmatch(line, -1) {
			for _, name := range files[m[1]] {
				inRow[name] = true
			}
		}
		first := true
		for _, m := range code.FindAllStringSubmatch(cells[2], -1) {
			if !goName.MatchString(m[1]) || strings.HasSuffix(m[1], ".go") {
				continue
			}
			if first && !inRow[m[1]] {
				t.Errorf("no file of this row declares %s: %s", m[1], line)
			}
			if !everywhere[m[1]] {
				t.Errorf("nothing declares %s: %s", m[1], line)
			}
			first = false
		}
	}
	if rows < 20 {
		t.Errorf("%d rows: nothing was tested", rows)
	}
}
