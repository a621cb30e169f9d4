package dataset

import (
	"archive/zip"
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/gzip"

	"hardneg/internal/records"
)

// with returns the small collection with other files. An empty content removes a file.
func with(changes map[string]string) map[string]string {
	files := maps.Clone(small)
	for name, content := range changes {
		if files[name] = content; content == "" {
			delete(files, name)
		}
	}
	return files
}

// read opens a collection and returns what is in it.
func read(t *testing.T, path string, splits ...string) (documents []records.Document, queries []records.Query) {
	t.Helper()
	set, err := OpenBEIR(path, splits...)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	for err := range set.Check() {
		if err != nil {
			t.Error(err)
		}
	}
	documents, errs := collect(set.Documents())
	queries, more := collect(set.Queries())
	if errs != nil || more != nil {
		t.Fatalf("%q %q", errs, more)
	}
	return documents, queries
}

func TestJudgementsOfAnyForm(t *testing.T) {
	_, want := read(t, write(t, small), "train")
	for _, test := range []struct{ name, file, content string }{
		{"TREC with blanks", "qrels/train.tsv", "q1 0 d1 1\nq1 0 d2 0\nq1 Q0 d3 2\n"},
		{"TREC in columns", "qrels/train.txt", "q1    0   d1   1\n  q1    0   d3   2  \r\n"},
		{"TREC with tabs", "qrels/train.tsv", "q1\t0\td1\t1\nq1\t0\td3\t2\n"},
		{"TREC with a header", "qrels/train.qrels", "query-id 0 corpus-id score\nq1 0 d1 1\nq1 0 d3 2\n"},
		{"TREC under the header of BEIR", "qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\t0\td1\t1\nq1 0 d3 2\n"},
		{"BEIR with blanks", "qrels/train.tsv", "query-id corpus-id score\nq1 d1 1\nq1 d3 2\n"},
		{"packed", "qrels/train.tsv.gz", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td3\t2\n"},
		{"a byte order mark before the header", "qrels/train.tsv", "\ufeffquery-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td3\t2\n"},
		{"a byte order mark before the first id", "qrels/train.tsv", "\ufeffq1\td1\t1\nq1\td3\t2\n"},
		{"what macOS leaves behind", "qrels/._train.tsv", "\x00\x05\x16\x07"},
	} {
		t.Run(test.name, func(t *testing.T) {
			changes := map[string]string{"qrels/train.tsv": "", test.file: test.content}
			if strings.Contains(test.file, "._") {
				delete(changes, "qrels/train.tsv")
			}
			if _, got := read(t, write(t, with(changes)), "train"); !reflect.DeepEqual(got, want) {
				t.Errorf("queries %+v, want %+v", got, want)
			}
		})
	}
}

func TestByteOrderMarksAreSkipped(t *testing.T) {
	wantDocuments, wantQueries := read(t, write(t, small))
	marked := map[string]string{}
	for name, content := range small {
		marked[name] = records.ByteOrderMark + content
	}
	// Two files with a mark each were joined.
	marked["queries.jsonl"] = strings.ReplaceAll(marked["queries.jsonl"], "\n{", "\n"+records.ByteOrderMark+"{")
	documents, queries := read(t, write(t, marked))
	if !reflect.DeepEqual(documents, wantDocuments) || !reflect.DeepEqual(queries, wantQueries) {
		t.Errorf("documents %+v, queries %+v", documents, queries)
	}
	dir := write(t, map[string]string{"d.jsonl": "\ufeff" + `{"id":"a","text":"t"}` + "\n", "empty.jsonl": "\ufeff"})
	if got, errs := collect(Documents(filepath.Join(dir, "d.jsonl"))); len(got) != 1 || got[0].ID != "a" || errs != nil {
		t.Errorf("%+v %q", got, errs)
	}
	for line := range Lines(filepath.Join(dir, "d.jsonl")) {
		if line.Value[0] != '{' {
			t.Errorf("a line begins with %q", line.Value[:3])
		}
	}
	if got, errs := collect(Documents(filepath.Join(dir, "empty.jsonl"))); got != nil || errs != nil {
		t.Errorf("a file of a mark alone: %+v %q", got, errs)
	}
}

func TestIDsThatAreNumbers(t *testing.T) {
	documents, queries := read(t, write(t, map[string]string{
		"corpus.jsonl":  `{"_id":9007199254740993,"text":"a"}` + "\n" + `{"_id":9007199254740992,"title":"T","text":""}` + "\n" + `{"_id":1.0,"text":"c"}` + "\n" + `{"_id":"1","text":"d"}`,
		"queries.jsonl": `{"_id":18446744073709551617,"text":"q"}`,
		"qrels/a.tsv":   "18446744073709551617\t9007199254740993\t1\n18446744073709551617\t1.0\t1\n",
	}))
	want := []records.Document{{ID: "9007199254740993", Text: "a"}, {ID: "9007199254740992", Title: "T"}, {ID: "1.0", Text: "c"}, {ID: "1", Text: "d"}}
	if !reflect.DeepEqual(documents, want) {
		t.Errorf("documents %+v", documents)
	}
	if !reflect.DeepEqual(queries, []records.Query{{Query: "q", QueryID: "18446744073709551617", Positives: []string{"9007199254740993", "1.0"}}}) {
		t.Errorf("queries %+v", queries)
	}
}

// archive packs files, with a folder before their names.
func archive(t *testing.T, folder string, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data := []byte(files[name])
		if strings.HasSuffix(name, ".gz") {
			var packed bytes.Buffer
			g := gzip.NewWriter(&packed)
			g.Write(data)
			g.Close()
			data = packed.Bytes()
		}
		f, err := w.Create(folder + name)
		if err != nil {
			t.Fatal(err)
		}
		f.Write(data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "set.zip")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestArchives(t *testing.T) {
	wantDocuments, wantQueries := read(t, write(t, small))
	apple := with(map[string]string{"../__MACOSX/set/._corpus.jsonl": "x"})
	inside := map[string]string{}
	for name, content := range small {
		inside["set/"+name] = content
	}
	for name, path := range map[string]string{
		"a folder inside": archive(t, "set/", small), "no folder": archive(t, "", small), "made by macOS": archive(t, "set/", apple),
		"a folder in a folder": write(t, inside),
	} {
		if documents, queries := read(t, path); !reflect.DeepEqual(documents, wantDocuments) || !reflect.DeepEqual(queries, wantQueries) {
			t.Errorf("%s: documents %+v, queries %+v", name, documents, queries)
		}
	}
	path := archive(t, "set/", with(map[string]string{"queries.jsonl": "{"}))
	if splits, err := Splits(path); err != nil || !slices.Equal(splits, []string{"test", "train"}) {
		t.Errorf("splits %q %v", splits, err)
	}
	set, err := OpenBEIR(path)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	if _, errs := collect(set.Queries()); len(errs) == 0 || !strings.HasPrefix(errs[0], path+"/set/queries.jsonl:1: invalid JSON") {
		t.Errorf("%q", errs)
	}
}

func TestFoldersThatAreNoCollection(t *testing.T) {
	two := write(t, map[string]string{"a/corpus.jsonl": "", "b/corpus.jsonl": ""})
	file := filepath.Join(write(t, map[string]string{"set.tar": "x"}), "set.tar")
	for path, want := range map[string]string{
		two:  two + " has several collections, name one of them: a, b",
		file: file + " is neither a folder nor a zip archive that can be read",
		archive(t, "", map[string]string{"x": "y"}):                                 "set.zip/corpus.jsonl.gz exists",
		write(t, map[string]string{"corpus/corpus-00000-of-00001.parquet": "PAR1"}): "has no corpus.jsonl, but Parquet files, as Hugging Face stores collections",
		write(t, map[string]string{"corpus.jsonl": "", "queries.jsonl": ""}):        "has no judgements: no file qrels/SPLIT.tsv",
	} {
		if _, err := OpenBEIR(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := write(t, map[string]string{
		"corpus.jsonl":  `{"_id":"d1","text":"t"}` + "\n" + `{"_id":"d2","text":""}` + "\n" + `{"_id":"d3","title":"T","text":""}`,
		"queries.jsonl": `{"_id":"q1","text":"t"}` + "\n" + `{"_id":"q2","text":" "}` + "\n" + `{"_id":"q3","text":"u"}` + "\n" + `{"_id":"q4","text":" "}`,
		"qrels/a.tsv":   "q9\td1\t1\nq1\td1\t1\nq2\td1\t1\nq1\td8\t1\nq1\td9\t0\nq9\td8\t1\nq8\td2\t0\nq3\td8\t1\nq1\td2\t1\n",
	})
	set, err := OpenBEIR(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for err := range set.Check() {
		if err == nil {
			continue
		}
		got = append(got, strings.TrimPrefix(err.Error(), dir+"/"))
	}
	want := []string{
		`corpus.jsonl:2: field "text" is empty, and so is "title": there is nothing to embed`,
		`queries.jsonl:2: field "text" is empty`,
		`qrels/a.tsv:1: the query "q9" is not in queries.jsonl`,
		`qrels/a.tsv:6: the query "q9" is not in queries.jsonl`,
		`qrels/a.tsv:4: the document "d8" is not in corpus.jsonl`,
		`qrels/a.tsv:8: the document "d8" is not in corpus.jsonl`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	set.LeaveOutAbsent()
	queries, _ := collect(set.Queries())
	if !reflect.DeepEqual(queries, []records.Query{{Query: "t", QueryID: "q1", Positives: []string{"d1", "d2"}}}) {
		t.Errorf("queries %+v", queries)
	}
	for range set.Check() { // a caller that stops early
		break
	}
}

func TestOtherFiles(t *testing.T) {
	dir := write(t, map[string]string{"a.jsonl": "PK\x03\x04", "b.jsonl": "\x28\xb5\x2f\xfd", "c.jsonl": "BZh91AY&SY", "d.jsonl": "\xfd7zXZ\x00", "e.jsonl": "{\x00\"\x00"})
	for name, want := range map[string]string{"a": "is a zip archive", "b": "is packed by zstd", "c": "is packed by bzip2", "d": "is packed by xz", "e": "is in UTF-16"} {
		if _, errs := collect(Documents(filepath.Join(dir, name+".jsonl"))); len(errs) != 1 || !strings.Contains(errs[0], name+".jsonl: the file "+want) {
			t.Errorf("%s: %q", name, errs)
		}
	}
	// gzip is known by its first bytes too.
	packed := write(t, map[string]string{"x.gz": `{"id":"a","text":"t"}`})
	if err := os.Rename(filepath.Join(packed, "x.gz"), filepath.Join(packed, "x")); err != nil {
		t.Fatal(err)
	}
	if got, errs := collect(Documents(filepath.Join(packed, "x"))); len(got) != 1 || errs != nil {
		t.Errorf("%+v %q", got, errs)
	}
}

// What a collection gives, the stages accept, whatever its files hold.
func FuzzCollection(f *testing.F) {
	f.Add([]byte(`{"_id":"d1","title":"T","text":"one"}`+"\n"+`{"_id":12345678901234567890,"text":"two"}`), []byte(`{"_id":"q1","text":" first "}`), []byte("query-id\tcorpus-id\tscore\nq1\td1\t1\n"))
	f.Add([]byte("\ufeff"+`{"_id":"\ud800","text":"t"}`), []byte("\xff\xfe{"), []byte("q1 0 d1 1e3\r\nq1\t0\td\u00a0\tNaN"))
	f.Fuzz(func(t *testing.T, corpus, queries, judgements []byte) {
		folder := &folder{path: "set", files: fstest.MapFS{"corpus.jsonl": {Data: corpus}, "queries.jsonl": {Data: queries}, "qrels/a.tsv": {Data: judgements}}}
		set, err := folder.collection(nil)
		if err != nil {
			return
		}
		for d, err := range set.Documents() {
			if err != nil {
				continue
			}
			key, value := d.Encode()
			if again, _, err := records.ParseDocument(key, value); err != nil || !reflect.DeepEqual(d, again) {
				t.Fatalf("%+v became %+v, %v", d, again, err)
			}
		}
		wrong := 0
		for q, err := range set.Queries() {
			if err != nil {
				wrong++
				continue
			}
			if again, _, err := records.ParseQuery([]byte(q.QueryID), q.Encode()); err != nil || !reflect.DeepEqual(q, again) {
				t.Fatalf("%+v became %+v, %v", q, again, err)
			}
		}
		for err := range set.Check() {
			if err != nil {
				wrong--
			}
		}
		if wrong > 0 {
			t.Fatalf("Check missed %d errors of the queries", wrong)
		}
		set.LeaveOutAbsent()
		for err := range set.Check() {
			if err != nil && strings.Contains(err.Error(), "the document") {
				t.Fatalf("a judgement was not left out: %v", err)
			}
		}
	})
}

// FuzzLines: the lines are the input without line breaks, marks and blank lines.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\r\n\n\ufeff\n b "))
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		folder := &folder{path: "set", files: fstest.MapFS{"x": {Data: data}}}
		last := 0
		for line, err := range folder.lines("x") {
			if err != nil {
				return
			}
			if line.Number <= last || len(bytes.TrimSpace(line.Value)) == 0 || bytes.ContainsAny(line.Value, "\n") || !bytes.HasPrefix(data, []byte("\x1f\x8b")) && !bytes.Contains(data, line.Value) {
				t.Fatalf("line %d after %d: %q", line.Number, last, line.Value)
			}
			last = line.Number
		}
	})
}
