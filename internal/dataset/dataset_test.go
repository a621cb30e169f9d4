package dataset

import (
	"bytes"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"hardneg/internal/records"
)

// write makes a folder of files. Files with names in .gz are packed.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		data := []byte(content)
		if strings.HasSuffix(name, ".gz") {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			w.Write(data)
			w.Close()
			data = b.Bytes()
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// collect splits a sequence into its values and the texts of its errors.
func collect[T any](seq iter.Seq2[T, error]) (values []T, errs []string) {
	for v, err := range seq {
		if err != nil {
			errs = append(errs, err.Error())
		} else {
			values = append(values, v)
		}
	}
	return values, errs
}

var small = map[string]string{
	"corpus.jsonl.gz": `{"_id":"d1","title":"T","text":"one","metadata":{}}` + "\n" + `{"_id":"d2","text":"two"}` + "\r\n\n" + `{"_id":"d3","title":"","text":"three"}`,
	"queries.jsonl":   `{"_id":"q2","text":" second "}` + "\n" + `{"_id":"q1","text":"first"}` + "\n" + `{"_id":"q3","text":"third"}` + "\n",
	"qrels/train.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq1\td3\t2\nq3\td3\t0\n",
	"qrels/test.tsv":  "q2\td2\t1\nq1\td1\t1\n",
}

func TestBEIR(t *testing.T) {
	dir := write(t, small)
	all, err := OpenBEIR(dir)
	if err != nil {
		t.Fatal(err)
	}
	documents, errs := collect(all.Documents())
	want := []records.Document{{ID: "d1", Title: "T", Text: "one"}, {ID: "d2", Text: "two"}, {ID: "d3", Text: "three"}}
	if !reflect.DeepEqual(documents, want) || errs != nil {
		t.Errorf("documents %+v %v", documents, errs)
	}
	queries, errs := collect(all.Queries())
	first := records.Query{Query: "first", QueryID: "q1", Positives: []string{"d1", "d3"}}
	second := records.Query{Query: "second", QueryID: "q2", Positives: []string{"d2"}}
	if !reflect.DeepEqual(queries, []records.Query{second, {Query: "first", QueryID: "q1", Positives: []string{"d1", "d3"}}}) || errs != nil {
		t.Errorf("queries %+v %v", queries, errs)
	}
	train, err := OpenBEIR(dir, "train")
	if err != nil {
		t.Fatal(err)
	}
	if queries, errs := collect(train.Queries()); !reflect.DeepEqual(queries, []records.Query{first}) || errs != nil || train.Len() != 1 {
		t.Errorf("queries of train %+v %v", queries, errs)
	}
	for range all.Documents() { // a caller that stops early
		break
	}
}

func TestBEIRErrors(t *testing.T) {
	tests := []struct {
		name, file, content string // the difference from the small collection; "-" removes the file
		splits              []string
		err                 string
	}{
		{"no corpus", "corpus.jsonl.gz", "-", nil, "corpus.jsonl.gz exists"},
		{"unknown split", "x", "", []string{"dev"}, `has no split "dev", there are test, train`},
		{"two columns", "qrels/test.tsv", "q1\td1\t1\nq1 d1\n", nil, "test.tsv:2: 2 columns, want query-id"},
		{"a score that is none", "qrels/test.tsv", "q1\td1\t1\nq1\td1\tyes\n", nil, `test.tsv:2: the score "yes" is not a number`},
		{"a broken document", "corpus.jsonl.gz", "{\"_id\":\"a\",\"text\":\"t\"}\n{\n", nil, "corpus.jsonl.gz:2: invalid JSON at byte 0: unexpected end of JSON input"},
		{"a document without id", "corpus.jsonl.gz", "{\"text\":\"t\"}\n", nil, `corpus.jsonl.gz:1: field "_id" is missing`},
		{"a broken query", "queries.jsonl", "[]\n", nil, "queries.jsonl:1: the value must be a JSON object, not an array"},
		{"a judged query that is not there", "queries.jsonl", `{"_id":"q2","text":"x"}`, nil, `test.tsv:2: the query "q1" is not in queries.jsonl`},
		{"a document without title and text", "corpus.jsonl.gz", `{"_id":"a","title":"","text":" "}`, nil, `corpus.jsonl.gz:1: field "text" is empty, and so is "title"`},
		{"a document without the field text", "corpus.jsonl.gz", `{"_id":"a","title":"T"}`, nil, `corpus.jsonl.gz:1: field "text" is missing`},
		{"a long id of digits", "corpus.jsonl.gz", `{"_id":` + strings.Repeat("1", 1025) + `,"text":"t"}`, nil, `corpus.jsonl.gz:1: field "_id" is an id of 1025 bytes`},
		{"an id of another type", "corpus.jsonl.gz", `{"_id":[1],"text":"t"}`, nil, `corpus.jsonl.gz:1: field "_id" must be a string, not an array`},
		{"latin-1 in a document", "corpus.jsonl.gz", "\n{\"_id\":\"caf\xe9\",\"text\":\"t\"}", nil, `corpus.jsonl.gz:2: the value is not valid UTF-8 at byte 11`},
		{"an unpaired surrogate in an id", "corpus.jsonl.gz", `{"_id":"d\ud800","text":"t"}`, nil, `corpus.jsonl.gz:1: field "_id" holds an unpaired surrogate escape, \ud800 at its byte 2`},
		{"an unpaired surrogate in a text", "queries.jsonl", `{"_id":"q1","text":"t\udfff"}`, nil, `queries.jsonl:1: field "text" holds an unpaired surrogate escape, \udfff at its byte 2`},
		{"latin-1 in a judgement", "qrels/test.tsv", "q1\td1\t1\nq\xe9\td1\t1\n", nil, "test.tsv:2: the line is not valid UTF-8 at byte 1"},
		{"a judgement without query", "qrels/test.tsv", "\td1\t1\n", nil, "test.tsv:1: the id of the query is empty"},
		{"a judgement with a long id", "qrels/test.tsv", "q1\t" + strings.Repeat("d", 1025) + "\t1\n", nil, "test.tsv:1: the id of the document is an id of 1025 bytes"},
		{"a run of TREC instead of judgements", "qrels/test.tsv", "q1 Q0 d1 1 0.9 run\n", nil, "test.tsv:1: 6 columns"},
		{"a blank query", "queries.jsonl", `{"_id":"q1","text":" "}`, nil, `queries.jsonl:1: field "text" is empty`},
		{"a query that comes twice", "queries.jsonl", `{"_id":"q1","text":"t"}` + "\n" + `{"_id":"q1","text":"t"}`, nil, `queries.jsonl:2: the query "q1" comes twice`},
		{"a document in UTF-16", "corpus.jsonl.gz", "\xff\xfe{\x00}\x00", nil, `corpus.jsonl.gz: the file begins with the byte order mark of UTF-16: write it in UTF-8`},
		{"judgements in UTF-16", "qrels/test.tsv", "\xfe\xff\x00q", nil, `test.tsv: the file begins with the byte order mark of UTF-16`},
		{"Parquet with another name", "queries.jsonl", "PAR1\x15\x00", nil, `queries.jsonl: the file is a Parquet file, which hardneg does not read: write it as JSON lines first`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files := map[string]string{}
			for name, content := range small {
				files[name] = content
			}
			files[test.file] = test.content
			if test.content == "-" {
				delete(files, test.file)
			}
			set, err := OpenBEIR(write(t, files), test.splits...)
			var errs []string
			if err != nil {
				errs = []string{err.Error()}
			} else {
				_, a := collect(set.Documents())
				_, b := collect(set.Queries())
				errs = append(a, b...)
			}
			if !strings.Contains(strings.Join(errs, "\n"), test.err) {
				t.Errorf("errors %q, want one with %q", errs, test.err)
			}
		})
	}
	if _, err := OpenBEIR(t.TempDir()); err == nil {
		t.Error("an empty folder passed")
	}
	broken := write(t, map[string]string{"corpus.jsonl.gz": "x", "queries.jsonl": "", "qrels/a.tsv": ""})
	if err := os.WriteFile(filepath.Join(broken, "corpus.jsonl.gz"), []byte("not packed"), 0o644); err != nil {
		t.Fatal(err)
	}
	set, err := OpenBEIR(broken)
	if err != nil {
		t.Fatal(err)
	}
	if _, errs := collect(set.Documents()); len(errs) != 1 || !strings.Contains(errs[0], "gzip") {
		t.Errorf("a file that is not packed: %q", errs)
	}
}

// The counts come from the collections' own descriptions.
func TestRealCollections(t *testing.T) {
	data := os.Getenv("HARDNEG_TEST_DATA")
	if data == "" {
		data = "../../../shared/data"
	}
	for _, test := range []struct {
		name               string
		documents, queries int // of the train split
	}{{"medquad", 16316, 11496}, {"aws-docs", 5800, 1007}, {"scifact", 5183, 809}} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(data, test.name)
			if _, err := os.Stat(dir); err != nil {
				t.Skip("the benchmark collections are not there:", err)
			}
			set, err := OpenBEIR(dir, "train")
			if err != nil {
				t.Fatal(err)
			}
			documents, errs := collect(set.Documents())
			queries, more := collect(set.Queries())
			if len(documents) != test.documents || len(queries) != test.queries || errs != nil || more != nil {
				t.Errorf("%d documents, %d queries, %q %q", len(documents), len(queries), errs, more)
			}
		})
	}
}

func TestRecordsByLine(t *testing.T) {
	dir := write(t, map[string]string{
		"documents.jsonl": `{"id":"a","text":"t"}` + "\n" + `{"id":"b"}` + "\n" + `{"id":"c","text":"u"}`,
		"queries.jsonl":   `{"query":"q","query_id":"1"}` + "\n{\n",
	})
	documents, errs := collect(Documents(filepath.Join(dir, "documents.jsonl")))
	if !reflect.DeepEqual(documents, []records.Document{{ID: "a", Text: "t"}, {ID: "c", Text: "u"}}) {
		t.Errorf("documents %+v", documents)
	}
	if len(errs) != 1 || !strings.Contains(errs[0], `documents.jsonl:2: field "text" is missing`) {
		t.Errorf("errors %q", errs)
	}
	queries, errs := collect(Queries(filepath.Join(dir, "queries.jsonl")))
	if !reflect.DeepEqual(queries, []records.Query{{Query: "q", QueryID: "1"}}) || len(errs) != 1 || !strings.Contains(errs[0], "queries.jsonl:2: invalid JSON at byte") {
		t.Errorf("queries %+v %q", queries, errs)
	}
	if _, errs := collect(Documents(filepath.Join(dir, "none"))); len(errs) != 1 {
		t.Errorf("a file that is not there: %q", errs)
	}
}

func TestGoDoc(t *testing.T) {
	root, err := FindGOROOT(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	entries, errs := collect(GoDoc(root, "strings", "net/http"))
	if errs != nil {
		t.Fatal(errs)
	}
	if len(entries) < 2000 {
		t.Errorf("only %d entries", len(entries))
	}
	seen := map[string]bool{}
	for _, e := range entries {
		d, q := e.Document, e.Query
		if seen[d.ID] || !strings.HasPrefix(d.ID, e.Package+".") || strings.Contains(d.ID, "internal/") {
			t.Errorf("id %q of package %s is not right or not alone", d.ID, e.Package)
		}
		seen[d.ID] = true
		if strings.TrimSpace(d.Text) == "" || q.Query == "" || !reflect.DeepEqual(q.Positives, []string{d.ID}) || strings.HasPrefix(strings.Join(strings.Fields(d.Text), " "), q.Query) {
			t.Errorf("%s: query %q, text %q", d.ID, q.Query, d.Text)
		}
		key, value := d.Encode()
		if _, _, err := records.ParseDocument(key, value); err != nil {
			t.Errorf("%s: %v", d.ID, err)
		}
		if _, _, err := records.ParseQuery(nil, q.Encode()); err != nil {
			t.Errorf("%s: %v", d.ID, err)
		}
	}
	if entries[0].Package != "strings" || !seen["net/http.Client.Do"] || !seen["net/http.Client"] || !seen["strings.Split"] {
		t.Error("well-known symbols are missing or not first")
	}
	at := 0
	for again := range GoDoc(root, "strings", "net/http") {
		if !reflect.DeepEqual(entries[at], again) {
			t.Fatalf("a second reading differs: %+v and %+v", entries[at], again)
		}
		if at++; at == 400 {
			break
		}
	}
	if _, errs := collect(GoDoc(root, "no/such")); len(errs) != 1 || !strings.Contains(errs[0], "no package no/such") {
		t.Errorf("an unknown package: %q", errs)
	}
	if _, errs := collect(GoDoc(t.TempDir())); len(errs) != 1 {
		t.Errorf("a folder without sources: %q", errs)
	}
}

func TestSplitFirstSentence(t *testing.T) {
	for _, test := range []struct{ text, sentence, rest string }{
		{"One. Two.", "One.", "Two."},
		{"Only one.", "Only one.", ""},
		{"A line\nbreak. Then\nmore.", "A line break.", "Then\nmore."},
		{"Use e.g. this one. Two.", "Use e.g. this one.", "Two."},
		{"By J. R. Smith. Two.", "By J. R. Smith.", "Two."},
		{"Version 1.5 is out. Two.", "Version 1.5 is out.", "Two."},
		{"Such as:\n\n\tcode.", "Such as:", "code."},
		{"...", "...", ""},
		{"", "", ""},
	} {
		sentence, rest := splitFirstSentence(test.text)
		if sentence != test.sentence || rest != test.rest {
			t.Errorf("%q: %q and %q, want %q and %q", test.text, sentence, rest, test.sentence, test.rest)
		}
	}
}

func ExampleOpenBEIR() {
	dir, err := os.MkdirTemp("", "beir")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	for name, content := range map[string]string{
		"corpus.jsonl":  `{"_id":"d1","title":"Reset","text":"Hold the button."}`,
		"queries.jsonl": `{"_id":"q1","text":"how do I reset it"}`,
		"test.tsv":      "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
	} {
		if strings.HasSuffix(name, ".tsv") {
			name = filepath.Join("qrels", name)
		}
		if err := os.MkdirAll(filepath.Join(dir, "qrels"), 0o755); err != nil {
			panic(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			panic(err)
		}
	}
	set, err := OpenBEIR(dir, "test")
	if err != nil {
		panic(err)
	}
	for query, err := range set.Queries() {
		fmt.Println(query.QueryID, query.Query, query.Positives, err)
	}
	// Output: q1 how do I reset it [d1] <nil>
}
