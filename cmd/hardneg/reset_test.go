package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestResetCommand(t *testing.T) {
	dir := t.TempDir()
	for args, want := range map[string]string{
		"reset --embedded":                          "hardneg: --embedded needs --data-dir, and no other address\n",
		"reset --embedded --data-dir x --kafka a:1": "hardneg: --embedded needs --data-dir, and no other address\n",
		"reset -o yaml":                             "hardneg: --output \"yaml\" is none of table, json\n",
		"reset all":                                 "hardneg: hardneg reset does not take \"all\" (see hardneg reset --help)\n",
		"reset":                                     "hardneg: which Kafka? Name the service by --data-dir, --kafka, or kafka.brokers in the configuration\n",
	} {
		if code, _, stderr := hardneg(t, strings.Fields(args)...); code != exitUsage || stderr != want {
			t.Errorf("%s: %d %s", args, code, stderr)
		}
	}
	if code, _, stderr := hardneg(t, "reset", "--embedded", "--data-dir", dir); code != exitFailure || !strings.Contains(stderr, dir+" has no data of embedded servers") {
		t.Errorf("%d %s", code, stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}

	// While the service runs.
	dir, stop := startService(t, "--set", "fit.minimum=5", "--set", "fit.wait=1s", "--set", "reduce.max_dimensions=8", "--set", "sweep.rate=0")
	at := []string{"--data-dir", dir}
	file := filepath.Join(t.TempDir(), "d.jsonl")
	var lines strings.Builder
	for i := range 10 {
		lines.WriteString(`{"id":"d` + word(i) + `","text":"the ` + word(i) + ` part"}` + "\n")
	}
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	succeed(t, append(at, "load", "jsonl", file)...)
	out := ""
	for deadline := time.Now().Add(patience); !strings.Contains(out, "group hardneg-miner has members: 1: "); time.Sleep(20 * time.Millisecond) {
		if out = succeed(t, append(at, "reset")...); time.Now().After(deadline) {
			t.Fatalf("the miner does not run:\n%s", out)
		}
	}
	for _, line := range []string{"group       hardneg-miner\n", "alias       queries\n", "topic       triplets\n", "group hardneg-intake has members: 1: end every instance of the service first\n", "nothing was deleted; --yes deletes it\n"} {
		if !strings.Contains(out, line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
	code, out, stderr := hardneg(t, append(at, "reset", "--yes")...)
	if code != exitFailure || out != "" || !strings.Contains(stderr, "the stages are running: group hardneg-indexer has members: 1, ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("%d %s%s", code, out, stderr)
	}
	if code, _, stderr := hardneg(t, append(at, "reset", "--embedded")...); code != exitFailure || !strings.Contains(stderr, "in use by another hardneg") {
		t.Errorf("%d %s", code, stderr)
	}
	stop()

	var result resetResult
	again := append(at, "reset", "--embedded", "-o", "json", "--set", "log.level=error")
	if err := json.Unmarshal([]byte(succeed(t, again...)), &result); err != nil || result.Deleted || len(result.Groups) != 3 || len(result.Collections) != 2 || len(result.Topics) != 4 {
		t.Errorf("%+v %v", result, err)
	}
	again = append(again, "--yes", "--keep-triplets")
	result = resetResult{}
	if err := json.Unmarshal([]byte(succeed(t, again...)), &result); err != nil || !result.Deleted || len(result.Topics) != 3 {
		t.Errorf("%+v %v", result, err)
	}
	if out := succeed(t, append(at, "reset", "--embedded", "--yes")...); !strings.Contains(out, "topic       triplets\ndeleted\n") || strings.Count(out, "\n") != 2 {
		t.Errorf("%s", out)
	}
	if out := succeed(t, append(at, "reset", "--embedded", "--yes")...); out != "there is nothing to delete\n" {
		t.Errorf("%s", out)
	}
}
