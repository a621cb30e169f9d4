package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

func TestReplayDestination(t *testing.T) {
	for output, want := range map[string]string{
		"topic:a.jsonl": "topic a.jsonl", "file:a": "file a", "a": "topic a", "a.b": "topic a.b", "a.jsonl": "file a.jsonl", "A.JSON": "file A.JSON",
		"./a": "file ./a", "dir/a": "file dir/a", "a.ndjson": "file a.ndjson", "file:x:y": "file x:y", "other:y": "topic other:y",
	} {
		if kind, name := (replayFlags{output: output}).destination(); kind+" "+name != want {
			t.Errorf("%s is %s %s, want %s", output, kind, name, want)
		}
	}
}

// TestReplayCommand: replay refuses to write into live topics, and explains that a service has no view yet.
func TestReplayCommand(t *testing.T) {
	dir := runService(t)
	at := []string{"replay", "--data-dir", dir, "--from", "earliest"}
	for topic, want := range map[string]string{
		"triplets": "hardneg: --output: topic triplets belongs to the live view: write into another one\n",
		"queries":  "hardneg: --output: topic queries belongs to the live view: write into another one\n",
		"a/b":      "",
	} {
		code, _, stderr := hardneg(t, append(at, "--output", "topic:"+topic)...)
		if code != exitUsage || want != "" && stderr != want {
			t.Errorf("%s: %d %s", topic, code, stderr)
		}
	}
	code, _, stderr := hardneg(t, append(at, "--output", filepath.Join(dir, "out.jsonl"))...)
	if code != exitFailure || !strings.Contains(stderr, "is the service still waiting for documents") {
		t.Errorf("%d %s", code, stderr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := execute(ctx, append(at, "--output", "x"), nil, &buffer{}, &buffer{}); code == exitOK {
		t.Error("an interrupted replay ends with 0")
	}
	if out := succeed(t, "reset", "--data-dir", dir, "-o", "json"); !json.Valid([]byte(out)) {
		t.Error(out)
	}
}
