package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"hardneg/stream"
)

// TestDLQ writes dead letters into the topic of a service, and then lists, shows and replays them.
func TestDLQ(t *testing.T) {
	dir := runService(t, "--stages", "miner") // it waits for a model, so it reads nothing
	kafka := client(t, dir)
	run := func(args ...string) string {
		t.Helper()
		return succeed(t, append([]string{"dlq"}, append(args, "--data-dir", dir)...)...)
	}
	if out := run("list"); out != "no dead letters\n" {
		t.Errorf("without dead letters: %s", out)
	}
	at := time.UnixMilli(1_700_000_000_000)
	next := int64(4)
	letter := func(stage, topic, key, value, reason string) stream.Output {
		next++
		r := stream.Record{Topic: topic, Partition: 1, Offset: next, Time: at, Key: []byte(key), Value: []byte(value), Headers: []stream.Header{{Key: "raw", Value: []byte{0xff}}, {Key: "none"}}}
		if value == "" {
			r.Value = nil
		}
		o := stream.NewDeadLetter("hardneg.dead-letters", stage, r, errors.New(reason))
		o.Partition = 2
		return o
	}
	err := kafka.Produce(t.Context(), []stream.Output{
		letter("intake", "queries", "q1", `{"query":"a question"}`, "too\nlong"), // the service would take this one now
		letter("intake", "queries", "q2", "\xff", "not UTF-8"),
		letter("indexer", "documents", "d1", "", "a \x1b[31mred\x1b[0m error"),
	})
	if err != nil {
		t.Fatal(err)
	}

	table := strings.Split(run("list"), "\n")
	if len(table) != 5 || !strings.HasPrefix(table[0], "LETTER") || !strings.HasPrefix(table[1], "2/0 ") || !strings.HasSuffix(table[1], "  intake   queries/1/5    q1   too long") ||
		!strings.HasSuffix(table[3], "a [31mred [0m error") {
		t.Errorf("list:\n%s", strings.Join(table, "\n"))
	}
	for filter, want := range map[string]string{
		"--stage indexer": "2/2", "--key q2": "2/1", "--topic documents": "2/2", "--error not": "2/1", "--error nothing": "", "--since 1h": "2/0 2/1 2/2",
		"--since " + time.Now().Add(time.Hour).Format(time.RFC3339): "", "--stage intake --error too": "2/0",
	} {
		var found []string
		for line := range strings.Lines(run(append(strings.Fields("list -o json "), strings.Fields(filter)...)...)) {
			var l struct{ Letter string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatal(err)
			}
			found = append(found, l.Letter)
		}
		if got := strings.Join(found, " "); got != want {
			t.Errorf("%s: %s, want %s", filter, got, want)
		}
	}

	shown := run("show", "2/1")
	for _, want := range []string{"letter   2/1, written at ", "stage    intake\n", "error    not UTF-8\n", "record   queries/1/6, of 2023-11-14T22:13:20Z\n", "key      q2\n", `header   raw: "\xff"` + "\n", "header   none: null\n", `value    "\xff"` + "\n"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not in\n%s", want, shown)
		}
	}
	if raw := run("show", "2/1", "--raw"); raw != "\xff" {
		t.Errorf("raw: %q", raw)
	}
	want := `"stage":"intake","error":"not UTF-8","replayed":false,"record":{"topic":"queries","partition":1,"offset":6,"timestamp":"2023-11-14T22:13:20Z",` +
		`"key":"q2","value":{"base64":"/w=="},"headers":[{"key":"raw","value":{"base64":"/w=="}},{"key":"none","value":null}]}}`
	if got := run("list", "--key", "q2", "-o", "json"); !strings.HasPrefix(got, `{"letter":"2/1","written":"`) || !strings.HasSuffix(got, want+"\n") {
		t.Errorf("%s, want %s", got, want)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(run("show", "2/1", "-o", "json"))); err != nil || !strings.HasSuffix(compact.String(), want) {
		t.Errorf("%s %v", compact.String(), err)
	}
	for _, place := range []string{"2/3", "0/0", "9/0"} {
		if code, _, stderr := hardneg(t, "dlq", "show", place, "--data-dir", dir); code != exitFailure || !strings.Contains(stderr, "no dead letter there: hardneg.dead-letters/"+place) {
			t.Errorf("show %s: %d %s", place, code, stderr)
		}
	}

	// A query that can go, one that would come back, and a document that the topic no longer has.
	want = "2/0  queries/1/5  to queries/1\n2/1  queries/1/6  left: it would come back: the value is not valid UTF-8 at byte 0\n2/2  documents/1/7  left: documents/1 no longer has it"
	if out := run("replay", "--all", "--dry-run"); !strings.HasPrefix(out, want) || !strings.HasSuffix(out, "1 would be sent again, 2 left\n") {
		t.Errorf("dry run:\n%s\nwant\n%s", out, want)
	}
	if out := run("replay", "2/0"); !strings.HasPrefix(out, "2/0  queries/1/5  to queries/1\n1 sent again, 0 left; ") {
		t.Errorf("replay: %s", out)
	}
	if out := run("replay", "2/0", "-o", "json"); out != `{"letter":"2/0","record":"queries/1/5","left":"it was sent again before"}`+"\n" {
		t.Errorf("replay of one that was: %s", out)
	}
	if out := run("replay", "--key", "q1"); out != "0 sent again, 0 left\n" {
		t.Errorf("replay by a filter: %s", out)
	}
	if code, _, stderr := hardneg(t, "dlq", "replay", "2/77", "2/1", "0/78", "--data-dir", dir); code != exitFailure || !strings.Contains(stderr, "no dead letter there: hardneg.dead-letters/0/78; no dead letter there: hardneg.dead-letters/2/77") {
		t.Errorf("replay of none: %d %s", code, stderr)
	}
	if out := run("list", "--stage", "intake"); strings.Contains(out, "q1") || !strings.Contains(out, "q2") {
		t.Errorf("list after the replay:\n%s", out)
	}
	if out := run("list", "--all"); !strings.Contains(out, "q1   (sent again) too long\n") {
		t.Errorf("list of all:\n%s", out)
	}
	if out := run("show", "2/0"); !strings.Contains(out, "; its record was sent again\n") {
		t.Errorf("show:\n%s", out)
	}
	seen := ""
	if err := kafka.ReadToEnd(t.Context(), "queries", func(r stream.Record) error {
		seen += fmt.Sprintf("%d %s %s %d\n", r.Partition, r.Key, r.Value, r.Time.UnixMilli())
		return nil
	}); err != nil || seen != "1 q1 {\"query\":\"a question\"} 1700000000000\n" {
		t.Errorf("the query log: %s %v", seen, err)
	}
}
