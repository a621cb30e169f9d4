package dataset

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// folder is where a collection lies: a folder of the file system, or one inside a zip archive.
type folder struct {
	path   string // for messages
	files  fs.FS
	closer io.Closer // of the archive; nil: none
}

// openFolder finds the folder of a collection: the one with corpus.jsonl. It may be the only one of its kind inside of
// the named folder or archive, as in the archives of the BEIR benchmark.
func openFolder(name string) (*folder, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	f := &folder{path: name}
	if info.IsDir() {
		f.files = os.DirFS(name)
	} else {
		archive, err := zip.OpenReader(name)
		if err != nil {
			return nil, fmt.Errorf("%s is neither a folder nor a zip archive that can be read: %w", name, err)
		}
		f.files, f.closer = archive, archive
	}
	if err := f.enter(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *folder) close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// enter goes down into the folder that has corpus.jsonl.
func (f *folder) enter() error {
	if f.has(corpusFile) {
		return nil
	}
	entries, err := fs.ReadDir(f.files, ".")
	if err != nil {
		return f.named(err)
	}
	var inside []string
	for _, entry := range entries {
		if name := entry.Name(); !ignored(name) && f.has(path.Join(name, corpusFile)) {
			inside = append(inside, name)
		}
	}
	switch len(inside) {
	case 1:
		if f.files, err = fs.Sub(f.files, inside[0]); err != nil {
			return err
		}
		f.path = filepath.Join(f.path, inside[0])
		return nil
	case 0:
		if f.hasParquet() {
			return fmt.Errorf("%s has no %s, but Parquet files, as Hugging Face stores collections; hardneg does not read those: make %s and %s of them with Python's "+
				`pandas.read_parquet("x.parquet").to_json("x.jsonl", orient="records", lines=True), and qrels/SPLIT.tsv with .to_csv("x.tsv", sep="\t", index=False)`,
				f.path, corpusFile, corpusFile, queriesFile)
		}
		_, err := f.plainOrPacked(corpusFile)
		return err
	}
	return fmt.Errorf("%s has several collections, name one of them: %s", f.path, strings.Join(inside, ", "))
}

// ignored are files that systems leave behind, such as ._test.tsv and the folder __MACOSX in archives of macOS.
func ignored(name string) bool { return strings.HasPrefix(name, ".") || strings.HasPrefix(name, "__") }

// hasParquet looks for Parquet files, at most two folders deep.
func (f *folder) hasParquet() bool {
	for _, pattern := range []string{"*.parquet", "*/*.parquet", "*/*/*.parquet"} {
		if found, err := fs.Glob(f.files, pattern); err == nil && len(found) > 0 {
			return true
		}
	}
	return false
}

func (f *folder) has(name string) bool {
	_, err := f.plainOrPacked(name)
	return err == nil
}

// plainOrPacked returns name, or name.gz if only that exists.
func (f *folder) plainOrPacked(name string) (string, error) {
	for _, n := range []string{name, name + ".gz"} {
		if _, err := fs.Stat(f.files, n); err == nil {
			return n, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", f.named(err)
		}
	}
	whole := f.whole(name)
	return "", fmt.Errorf("neither %s nor %s.gz exists", whole, whole)
}

// whole returns the path of a file for messages.
func (f *folder) whole(name string) string { return filepath.Join(f.path, filepath.FromSlash(name)) }

// named puts the whole path into an error of the file system.
func (f *folder) named(err error) error {
	if wrong, ok := errors.AsType[*fs.PathError](err); ok {
		return &fs.PathError{Op: wrong.Op, Path: f.whole(wrong.Path), Err: wrong.Err}
	}
	return err
}

// lines reads a file of the folder, see Lines.
func (f *folder) lines(name string) iter.Seq2[Line, error] {
	return linesOf(f.whole(name), func() (io.ReadCloser, error) {
		file, err := f.files.Open(name)
		if err != nil {
			return nil, f.named(err)
		}
		return file, nil
	})
}

// judgementNames are the endings of files of judgements. Where a split has several files, the first one counts.
var judgementNames = []string{".tsv", ".tsv.gz", ".txt", ".txt.gz", ".qrels", ".qrels.gz"}

// splits returns the file of each split, and the names of the splits in order.
func (f *folder) splits() (files map[string]string, names []string, err error) {
	entries, err := fs.ReadDir(f.files, "qrels")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, f.named(err)
	}
	files = map[string]string{}
	for _, ending := range judgementNames {
		for _, entry := range entries {
			split, ok := strings.CutSuffix(entry.Name(), ending)
			if !ok || ignored(entry.Name()) || files[split] != "" {
				continue
			}
			files[split] = path.Join("qrels", entry.Name())
			names = append(names, split)
		}
	}
	if len(names) == 0 {
		return nil, nil, fmt.Errorf("%s has no judgements: no file qrels/SPLIT.tsv", f.path)
	}
	slices.Sort(names)
	return files, names, nil
}
