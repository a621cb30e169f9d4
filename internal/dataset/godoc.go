package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"hardneg/internal/records"
)

// GoEntry is a symbol of the Go standard library.
type GoEntry struct {
	Package  string
	Document records.Document // its documentation without the first sentence
	Query    records.Query    // the first sentence, with the document as its positive
}

// FindGOROOT returns the folder of the Go installation on this machine.
func FindGOROOT(ctx context.Context) (string, error) {
	out, commandErr := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	//lint:ignore SA1019 the last resort: where the program was built here, and the go command is not on the path
	candidates := []string{os.Getenv("GOROOT"), strings.TrimSpace(string(out)), runtime.GOROOT()}
	for _, root := range candidates {
		if root == "" {
			continue
		}
		if info, err := os.Stat(filepath.Join(root, "src", "net", "http")); err == nil && info.IsDir() {
			return root, nil
		}
	}
	err := errors.New("no Go installation with its sources was found: install Go from https://go.dev/dl, or set GOROOT to its folder")
	if commandErr != nil {
		err = fmt.Errorf("%w (go env GOROOT: %v)", err, commandErr)
	}
	return "", err
}

// GoDoc returns the documentation of the standard library's exported functions, methods and types that have
// at least two sentences. A document's id is the symbol's name, such as net/http.Client.Do. The packages in
// first come first, in the given order, then all others by import path. Within a package, symbols are sorted
// by id. The result does not depend on the machine: GoDoc always reads the files for Linux on amd64.
func GoDoc(goroot string, first ...string) iter.Seq2[GoEntry, error] {
	return func(yield func(GoEntry, error) bool) {
		packages, err := goPackages(goroot)
		if err != nil {
			yield(GoEntry{}, err)
			return
		}
		for _, path := range first {
			if !slices.Contains(packages, path) {
				yield(GoEntry{}, fmt.Errorf("%s has no package %s", goroot, path))
				return
			}
		}
		others := slices.DeleteFunc(packages, func(path string) bool { return slices.Contains(first, path) })
		for _, path := range slices.Concat(first, others) {
			entries, err := goPackage(goroot, path)
			if err != nil {
				yield(GoEntry{}, err)
				return
			}
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// goPackages returns the import paths of the standard library, sorted, without commands and internal
// packages.
func goPackages(goroot string) ([]string, error) {
	src := filepath.Join(goroot, "src")
	var packages []string
	err := filepath.WalkDir(src, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || path == src {
			return err
		}
		switch name := entry.Name(); {
		case name == "internal", name == "vendor", name == "testdata", name == "cmd", name == "builtin", strings.HasPrefix(name, "_"), strings.HasPrefix(name, "."):
			return filepath.SkipDir
		}
		relative, err := filepath.Rel(src, path)
		packages = append(packages, filepath.ToSlash(relative))
		return err
	})
	slices.Sort(packages)
	return packages, err
}

// goPackage returns the entries of one package. It returns none if the folder has no Go files for the fixed
// platform.
func goPackage(goroot, path string) ([]GoEntry, error) {
	platform := build.Default
	platform.GOROOT, platform.GOOS, platform.GOARCH, platform.CgoEnabled = goroot, "linux", "amd64", false
	dir := filepath.Join(goroot, "src", filepath.FromSlash(path))
	found, err := platform.ImportDir(dir, 0)
	if _, none := errors.AsType[*build.NoGoError](err); none {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range found.GoFiles {
		file, err := parser.ParseFile(fset, filepath.Join(dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	pkg, err := doc.NewFromFiles(fset, files, path)
	if err != nil {
		return nil, err
	}
	return goSymbols(pkg), nil
}

// goSymbols collects a package's functions, types and methods, by id.
func goSymbols(pkg *doc.Package) []GoEntry {
	var entries []GoEntry
	add := func(kind, symbol, text string) {
		if e, ok := goEntry(pkg, kind, symbol, text); ok {
			entries = append(entries, e)
		}
	}
	for _, f := range pkg.Funcs {
		add("function", f.Name, f.Doc)
	}
	for _, t := range pkg.Types {
		add("type", t.Name, t.Doc)
		for _, f := range t.Funcs {
			add("function", f.Name, f.Doc)
		}
		for _, m := range t.Methods {
			add("method", t.Name+"."+m.Name, m.Doc)
		}
	}
	slices.SortFunc(entries, func(a, b GoEntry) int { return strings.Compare(a.Document.ID, b.Document.ID) })
	return entries
}

// goEntry splits a symbol's documentation. It returns false if there are fewer than two sentences, or if the
// text begins with a deprecation notice.
func goEntry(pkg *doc.Package, kind, symbol, text string) (GoEntry, bool) {
	printer := pkg.Printer()
	printer.TextWidth = 1 << 20 // no line breaks inside paragraphs
	sentence, rest := splitFirstSentence(string(printer.Text(pkg.Parser().Parse(text))))
	if sentence == "" || rest == "" || strings.HasPrefix(sentence, "Deprecated:") {
		return GoEntry{}, false
	}
	metadata, err := json.Marshal(map[string]string{"package": pkg.ImportPath, "kind": kind})
	if err != nil {
		return GoEntry{}, false // cannot happen: strings always have a JSON form
	}
	id := pkg.ImportPath + "." + symbol
	return GoEntry{
		Package:  pkg.ImportPath,
		Document: records.Document{ID: id, Title: id, Text: rest, URL: "https://pkg.go.dev/" + pkg.ImportPath + "#" + symbol, Metadata: metadata},
		Query:    records.Query{Query: sentence, QueryID: records.QueryID(sentence), Positives: []string{id}},
	}, true
}

// splitFirstSentence returns the first sentence, with single spaces, and the rest, trimmed. A sentence ends
// with its paragraph or at a full stop. The full stop must be followed by white space and then no lower-case
// letter, and it must not follow a single capital letter, as in a name.
func splitFirstSentence(text string) (sentence, rest string) {
	text = strings.TrimSpace(text)
	end := len(text)
	if paragraph := strings.Index(text, "\n\n"); paragraph >= 0 {
		end = paragraph
	}
	for at := 0; at < end; at++ {
		if text[at] == '.' && endsSentence(text[:at], text[at+1:end]) {
			end = at + 1
			break
		}
	}
	return strings.Join(strings.Fields(text[:end]), " "), strings.TrimSpace(text[end:])
}

func endsSentence(before, after string) bool {
	next := strings.TrimLeftFunc(after, unicode.IsSpace)
	if next == after || next == "" {
		return next == ""
	}
	if r, _ := utf8.DecodeRuneInString(next); unicode.IsLower(r) {
		return false
	}
	words := strings.FieldsFunc(before, func(r rune) bool { return unicode.IsSpace(r) || r == '.' || r == '(' })
	if len(words) == 0 {
		return false
	}
	last := words[len(words)-1]
	r, size := utf8.DecodeRuneInString(last)
	return size < len(last) || !unicode.IsUpper(r)
}
