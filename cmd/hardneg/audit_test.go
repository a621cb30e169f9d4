package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hardneg/internal/audit"
	"hardneg/stream"
)

func TestAuditCommand(t *testing.T) {
	for args, want := range map[string]string{
		"audit --sample 0":       "hardneg: --sample must be at least 1, is 0\n",
		"audit --all --sample 5": "hardneg: --all and --sample exclude each other\n",
		"audit -o yaml":          "hardneg: --output \"yaml\" is none of table, json\n",
	} {
		code, _, stderr := hardneg(t, strings.Fields(args)...)
		if code != exitUsage || stderr != want {
			t.Errorf("%s: %d %s", args, code, stderr)
		}
	}

	// The service gets its settings by --set. The audit does not get them: it must find the rules in the models topic.
	dir := runService(t, "--set", "fit.minimum=20", "--set", "reduce.max_dimensions=16", "--set", "mining.near_text=2",
		"--set", "mining.near_duplicate=2", "--set", "mining.negatives=3", "--set", "sweep.rate=0")
	kafka := client(t, dir)
	at := []string{"--data-dir", dir}
	var documents, queries strings.Builder
	for i := range 40 {
		fmt.Fprintf(&documents, `{"id":"d%d","text":"the %s part of kind %d and of colour %d"}`+"\n", i, word(i), i%4, i%7)
	}
	for i := range 6 {
		fmt.Fprintf(&queries, `{"query_id":"q%d","query":"%s part of kind %d","positives":["d%d"]}`+"\n", i, word(i), i%4, i)
	}
	for name, content := range map[string]string{"documents": documents.String(), "queries": queries.String()} {
		path := filepath.Join(t.TempDir(), name+".jsonl")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		succeed(t, append(at, "load", "jsonl", path, "--topic", name)...)
	}
	for deadline := time.Now().Add(patience); strings.Count(succeed(t, append(at, "export")...), "\n") < 18; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("6 pairs do not come to 3 triplets each")
		}
	}
	var report audit.Report
	out := succeed(t, append(at, "audit", "-o", "json", "--seed", "7")...)
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Queries != 6 || report.Pairs != 6 || report.Slots != 18 || report.Triplets != 18 ||
		report.Differences == nil || len(report.Differences) > 0 || *report.Seed != 7 {
		t.Errorf("%v %s", err, out)
	}
	if out := succeed(t, append(at, "audit", "--all")...); !strings.HasPrefix(out, "6 of 6 queries checked (all queries): 6 pairs, 18 slots, 18 triplets\n0 differences\n") {
		t.Errorf("%s", out)
	}
	if out := succeed(t, append(at, "audit", "--sample", "2", "--seed", "3")...); !strings.HasPrefix(out, "2 of 6 queries checked (a sample with seed 3): 2 pairs, 6 slots, 6 triplets\n") {
		t.Errorf("%s", out)
	}

	// A triplet that is lost, one that is wrong, and one of an unknown query.
	if err := kafka.Produce(t.Context(), []stream.Output{retraction("q0", "d0", 1), triplet("q1", "d1", 2, "d1"), triplet("q99", "d1", 1, "d2")}); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := hardneg(t, append(at, "audit", "--all")...)
	if code != exitFailure || stderr != "hardneg: 3 differences; --repair mends them\n" || strings.Count(stdout, "\n") != 6 ||
		!strings.Contains(stdout, "6 of 6 queries checked (all queries, and 1 that the triplets alone know): 6 pairs, 18 slots, 18 triplets\n3 differences: missing 1, published 1, unknown 1\n") {
		t.Errorf("%d %s%s", code, stderr, stdout)
	}
	out = succeed(t, append(at, "audit", "--all", "--repair", "-o", "json")...)
	report = audit.Report{}
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Differences) != 3 || report.Repaired == nil || report.Repaired.Queries != 3 || len(report.Repaired.Left) > 0 {
		t.Errorf("%v %s", err, out)
	}
	if out := succeed(t, append(at, "audit", "--all")...); !strings.Contains(out, "\n0 differences\n") {
		t.Errorf("%s", out)
	}
}
