package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"hardneg/internal/catalog"
	"hardneg/internal/config"
	"hardneg/internal/records"
	"hardneg/internal/service"
	"hardneg/stream"
)

// client returns a Kafka client for the service that runs on a data directory.
func client(t *testing.T, dir string) *stream.Client {
	t.Helper()
	addresses, err := service.ReadAddresses(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := stream.New(stream.Config{Brokers: []string{addresses.Kafka}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.EnsureTopics(t.Context(), catalog.Topics(config.Default(), "")...); err != nil {
		t.Fatal(err)
	}
	return c
}

func triplet(query, positive string, rank int, negative string) stream.Output {
	t := records.Triplet{
		Query:    records.TripletQuery{ID: query, Text: "what is " + query + "?"},
		Positive: records.TripletDocument{ID: positive, Title: "Title of " + positive, Text: "text <of> " + positive},
		Negative: records.TripletDocument{ID: negative, Text: "text of " + negative},
		Rank:     rank, Policy: "semantic", Generation: "g", Revision: 1, MinedAt: "2026-01-02T03:04:05Z",
	}
	return stream.Output{
		Topic: "triplets", Partition: stream.ByKey, Hash: []byte(query),
		Key: records.TripletKey(query, positive, rank), Value: t.Encode(1 << 16),
	}
}

func retraction(query, positive string, rank int) stream.Output {
	out := triplet(query, positive, rank, "")
	out.Value = nil
	return out
}

func TestExportAndTail(t *testing.T) {
	dir := runService(t, "--stages", "intake")
	kafka := client(t, dir)
	at := []string{"--data-dir", dir}
	if out := succeed(t, append(at, "export")...); out != "" {
		t.Errorf("an empty view: %s", out)
	}
	err := kafka.Produce(t.Context(), []stream.Output{
		triplet("q2", "p1", 1, "n1"), triplet("q1", "p2", 1, "n9"), triplet("q1", "p1", 10, "n4"), triplet("q1", "p1", 2, "n3"),
		triplet("q1", "p1", 1, "old"), triplet("q1", "p1", 1, "n2"), triplet("q3", "p1", 1, "n1"), retraction("q3", "p1", 1),
		triplet("q1", "p2", 2, "n2"),
	})
	if err != nil {
		t.Fatal(err)
	}

	raw := succeed(t, append(at, "export")...)
	var order []string
	for line := range strings.Lines(raw) {
		parsed, err := records.ParseTriplet([]byte(line))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		order = append(order, fmt.Sprintf("%s %s %d %s", parsed.Query.ID, parsed.Positive.ID, parsed.Rank, parsed.Negative.ID))
	}
	if got, want := strings.Join(order, ", "), "q1 p1 1 n2, q1 p1 2 n3, q1 p1 10 n4, q1 p2 1 n9, q1 p2 2 n2, q2 p1 1 n1"; got != want {
		t.Errorf("exported\n%s\nwant\n%s", got, want)
	}

	file := filepath.Join(t.TempDir(), "out.jsonl")
	if out := succeed(t, append(at, "export", "--output", file)...); out != "" {
		t.Errorf("standard output: %s", out)
	}
	if written, err := os.ReadFile(file); err != nil || string(written) != raw {
		t.Errorf("the file differs from standard output: %v", err)
	}

	columns := succeed(t, append(at, "export", "--format", "sentence-transformers")...)
	if first, _, _ := strings.Cut(columns, "\n"); strings.Count(columns, "\n") != 6 ||
		first != `{"anchor":"what is q1?","positive":"Title of p1\ntext <of> p1","negative":"text of n2"}` {
		t.Errorf("sentence-transformers:\n%s", columns)
	}
	grouped := succeed(t, append(at, "export", "--format", "flag-embedding")...)
	want := `{"query":"what is q1?","pos":["Title of p1\ntext <of> p1","Title of p2\ntext <of> p2"],"neg":["text of n2","text of n3","text of n4","text of n9"]}
{"query":"what is q2?","pos":["Title of p1\ntext <of> p1"],"neg":["text of n1"]}
`
	if grouped != want {
		t.Errorf("flag-embedding:\n%swant\n%s", grouped, want)
	}

	table := succeed(t, append(at, "tail", "--from-start", "--max", "9")...)
	for _, line := range []string{"+ q1 p1 #1 semantic\n    query    what is q1?\n    positive 0.000 p1 Title of p1\n    negative 0.000 old text of old\n", "- q3 p1 #1\n"} {
		if !strings.Contains(table, line) {
			t.Errorf("%q is not in\n%s", line, table)
		}
	}
	lines := strings.Split(strings.TrimSpace(succeed(t, append(at, "tail", "--from-start", "--max", "9", "-o", "json")...)), "\n")
	retracted := 0
	for _, line := range lines {
		var c change
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if string(c.Triplet) == "null" {
			retracted++
		}
	}
	if len(lines) != 9 || retracted != 1 {
		t.Errorf("%d lines, %d retracted", len(lines), retracted)
	}

	// If the reader of the output closes it, the command ends without an error.
	var errs bytes.Buffer
	for _, args := range [][]string{{"export"}, {"tail", "--from-start"}, {"tail", "--from-start", "-o", "json"}} {
		if code := execute(t.Context(), append(at, args...), nil, closed{}, &errs); code != exitOK || errs.Len() > 0 {
			t.Errorf("%v: %d %s", args, code, errs.String())
		}
	}

	// Without --from-start, tail shows new records until it is interrupted.
	ctx, cancel := context.WithCancel(t.Context())
	var out buffer
	done := make(chan int, 1)
	go func() { done <- execute(ctx, append(at, "tail"), nil, &out, &errs) }()
	for deadline := time.Now().Add(patience); !strings.Contains(out.String(), "fresh") && time.Now().Before(deadline); {
		if err := kafka.Produce(t.Context(), []stream.Output{triplet("q9", "p1", 1, "fresh")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	cancel()
	if code := <-done; code != exitOK || !strings.Contains(out.String(), "fresh") || strings.Contains(out.String(), "q1") {
		t.Errorf("tail: %d %s%s", code, out.String(), errs.String())
	}
}

func TestLoadJSONL(t *testing.T) {
	dir := runService(t, "--stages", "intake")
	kafka := client(t, dir)
	folder := t.TempDir()
	plain := filepath.Join(folder, "documents.jsonl")
	packed := filepath.Join(folder, "more.jsonl.gz")
	var content bytes.Buffer
	zip := gzip.NewWriter(&content)
	fmt.Fprintln(zip, `{"id":"c","text":"third"}`)
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		plain:                                    records.ByteOrderMark + "{\"id\":\"a\",\"text\":\"first\",\"unknown\":{\"kept\":true}}\n\n{\"id\":\"b\",\"text\":\"second\"}\n",
		packed:                                   content.String(),
		filepath.Join(folder, "bad.jsonl"):       "{\"id\":\"d\",\"text\":\"fourth\"}\n{\"text\":\"no id\"}\n",
		filepath.Join(folder, "bad-query.jsonl"): strings.Repeat("{}\n", 7) + `{"query":"c","query_id":"c"}`,
		filepath.Join(folder, "queries.jsonl"):   `{"query":" What  is A? ","positives":["a"]}` + "\n" + `{"query":"b","query_id":"own"}`,
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := succeed(t, "load", "jsonl", plain, packed, "--data-dir", dir, "-o", "json")
	var results []loaded
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != 1 || results[0].Records != 3 || results[0].Name != "documents" {
		t.Errorf("%s: %v", out, err)
	}
	bad := filepath.Join(folder, "bad.jsonl")
	code, _, stderr := hardneg(t, "load", "jsonl", bad, "--data-dir", dir)
	if want := "hardneg: nothing was produced, because 1 line is refused: " + bad + ":2: field \"id\" is missing, and so is the key; --skip-refused leaves such lines out\n"; code != exitFailure || stderr != want {
		t.Errorf("a bad line: %d %s", code, stderr)
	}
	code, stdout, stderr := hardneg(t, "load", "jsonl", filepath.Join(folder, "bad-query.jsonl"), "--topic", "queries", "--data-dir", dir, "--skip-refused")
	if code != exitOK || !strings.Contains(stdout, "queries           1 records") || !strings.HasPrefix(stderr, "hardneg: left out: 7 lines are refused: ") || !strings.HasSuffix(stderr, "; and 2 more\n") {
		t.Errorf("bad lines left out: %d %s%s", code, stdout, stderr)
	}
	if out := succeed(t, "load", "jsonl", filepath.Join(folder, "queries.jsonl"), "--topic", "queries", "--data-dir", dir); !strings.Contains(out, "queries           2 records") {
		t.Errorf("queries: %s", out)
	}

	got := map[string]string{}
	for _, topic := range []string{"documents", "queries"} {
		if err := kafka.ReadToEnd(t.Context(), topic, func(r stream.Record) error {
			got[topic+" "+string(r.Key)] = string(r.Value)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for key, want := range map[string]string{
		"documents a": `{"id":"a","text":"first","unknown":{"kept":true}}`, "documents b": `{"id":"b","text":"second"}`,
		"documents c": `{"id":"c","text":"third"}`, "queries own": `{"query":"b","query_id":"own"}`,
		"documents d": "", "queries c": `{"query":"c","query_id":"c"}`,
		"queries " + records.QueryID("what is a?"): `{"query":" What  is A? ","positives":["a"]}`,
	} {
		if got[key] != want {
			t.Errorf("%s: %s, want %s", key, got[key], want)
		}
	}
}

// TestLoadFromAPipe: a pipe can be read only once, so it is not checked before. The lines before a refused one are
// produced, or with --skip-refused all others.
func TestLoadFromAPipe(t *testing.T) {
	dir := runService(t, "--stages", "intake")
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("no named pipes here:", err)
	}
	load := func(args ...string) (code int, stdout, stderr string) {
		written := make(chan error, 1)
		go func() {
			written <- os.WriteFile(pipe, []byte("{\"id\":\"a\",\"text\":\"t\"}\n{}\n{\"id\":\"b\",\"text\":\"t\"}\n"), 0o600)
		}()
		code, stdout, stderr = hardneg(t, append([]string{"load", "jsonl", pipe, "--data-dir", dir}, args...)...)
		if err := <-written; err != nil {
			t.Error(err)
		}
		return code, stdout, stderr
	}
	const reason = `:2: field "id" is missing, and so is the key`
	if code, _, stderr := load(); code != exitFailure || stderr != "hardneg: after 1 documents: "+pipe+reason+"\n" {
		t.Errorf("%d %s", code, stderr)
	}
	if code, stdout, stderr := load("--skip-refused"); code != exitOK || !strings.Contains(stdout, "documents         2 records") || stderr != "hardneg: left out: 1 line is refused: "+pipe+reason+"\n" {
		t.Errorf("%d %s%s", code, stdout, stderr)
	}
}

// TestLoadBEIRRefused: a collection that is not whole is refused before anything is produced. So a second try counts no
// query twice.
func TestLoadBEIRRefused(t *testing.T) {
	dir := runService(t, "--stages", "intake")
	kafka := client(t, dir)
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "qrels"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"corpus.jsonl":   `{"_id":1,"title":"T","text":""}` + "\n" + `{"_id":2,"title":"","text":""}`,
		"queries.jsonl":  `{"_id":"q1","text":"t"}`,
		"qrels/test.tsv": "q1 0 1 1\nq2 0 1 1\nq1 0 3 1\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const refused = `3 lines are refused: $DIR/corpus.jsonl:2: field "text" is empty, and so is "title": there is nothing to embed; ` +
		`$DIR/qrels/test.tsv:2: the query "q2" is not in queries.jsonl; $DIR/qrels/test.tsv:3: the document "3" is not in corpus.jsonl`
	said := strings.ReplaceAll(refused, "$DIR", folder)
	code, stdout, stderr := hardneg(t, "load", "beir", folder, "--data-dir", dir)
	if want := "hardneg: nothing was produced, because " + said + "; --skip-refused leaves such lines out\n"; code != exitFailure || stdout != "" || stderr != want {
		t.Errorf("%d %s%s\nwant %s", code, stdout, stderr, want)
	}
	code, stdout, stderr = hardneg(t, "load", "beir", folder, "--data-dir", dir, "--skip-refused")
	if code != exitOK || !strings.Contains(stdout, "documents         1 records") || !strings.Contains(stdout, "queries           1 records") || stderr != "hardneg: left out: "+said+"\n" {
		t.Errorf("%d %s%s", code, stdout, stderr)
	}
	var got []string
	for _, topic := range []string{"documents", "queries"} {
		if err := kafka.ReadToEnd(t.Context(), topic, func(r stream.Record) error {
			got = append(got, string(r.Value))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{`{"id":"1","title":"T","text":""}`, `{"query":"t","query_id":"q1","positives":["1"]}`}; !slices.Equal(got, want) {
		t.Errorf("produced %q, want %q", got, want)
	}
}

// TestLoadBEIRToTriplets loads a small collection, and waits for its triplets.
func TestLoadBEIRToTriplets(t *testing.T) {
	folder := t.TempDir()
	var corpus, queries, judgements strings.Builder
	judgements.WriteString("query-id\tcorpus-id\tscore\n")
	for i := range 40 {
		if i == 4 { // a positive that is only a title
			fmt.Fprintf(&corpus, `{"_id":"d%d","title":"the %s part of kind %d and of colour %d","text":""}`+"\n", i, word(i), i%4, i%7)
			continue
		}
		fmt.Fprintf(&corpus, `{"_id":"d%d","title":"Part %d","text":"the %s part of kind %d and of colour %d"}`+"\n", i, i, word(i), i%4, i%7)
	}
	for i := range 5 {
		fmt.Fprintf(&queries, `{"_id":"q%d","text":"%s part of kind %d"}`+"\n", i, word(i), i%4)
		fmt.Fprintf(&judgements, "q%d\td%d\t1\nq%d\td%d\t0\n", i, i, i, i+1)
	}
	if err := os.Mkdir(filepath.Join(folder, "qrels"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"corpus.jsonl": corpus.String(), "queries.jsonl": queries.String(), "qrels/test.tsv": judgements.String()} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := runService(t, "--set", "fit.minimum=20", "--set", "fit.sample=40", "--set", "reduce.max_dimensions=16",
		"--set", "mining.near_text=2", "--set", "mining.near_duplicate=2")
	out := succeed(t, "load", "beir", folder, "--split", "test", "--data-dir", dir)
	if !strings.Contains(out, "documents        40 records") || !strings.Contains(out, "queries           5 records") {
		t.Errorf("%s", out)
	}
	code, stdout, stderr := hardneg(t, "load", "beir", folder, "--split", "train", "--data-dir", dir)
	if code != exitUsage || stdout != "" || !strings.Contains(stderr, "--split train") {
		t.Errorf("an unknown split: %d %s%s", code, stdout, stderr)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var triplets, errs bytes.Buffer
	if code := execute(ctx, []string{"tail", "--from-start", "--max", "20", "-o", "json", "--data-dir", dir}, nil, &triplets, &errs); code != exitOK {
		t.Fatalf("tail: %d %s", code, errs.String())
	}
	if n := strings.Count(triplets.String(), "\n"); n != 20 {
		t.Fatalf("%d triplets of 5 pairs with 4 negatives each:\n%s", n, triplets.String())
	}
	exported := succeed(t, "export", "--data-dir", dir)
	for line := range strings.Lines(exported) {
		triplet, err := records.ParseTriplet([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if "d"+triplet.Query.ID[1:] != triplet.Positive.ID || triplet.Negative.ID == triplet.Positive.ID {
			t.Errorf("%s", line)
		}
	}
}

func word(i int) string {
	return []string{"red", "long", "heavy", "round", "cold", "loud", "bright", "empty", "quick", "sharp"}[i%10] + strings.Repeat("er", i/10)
}
