package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hardneg/internal/service"
)

// patience is how long a test waits before it fails. It is far more than a test that passes ever needs.
const patience = 5 * time.Minute

// hardneg runs a command line with an empty environment.
func hardneg(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), args, nil, &out, &errs)
	return code, out.String(), errs.String()
}

// succeed runs a command line that must exit with 0, and returns its standard output.
func succeed(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := hardneg(t, args...)
	if code != exitOK {
		t.Fatalf("hardneg %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

func TestWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"lod", 2, "hardneg: unknown command lod; did you mean load?"},
		{"frobnicate", 2, "hardneg: unknown command frobnicate (see hardneg --help)"},
		{"load", 2, "hardneg: load what? One of: beir, jsonl"},
		{"load csv x", 2, "hardneg: there is no load csv; one of: beir, jsonl"},
		{"load beir", 2, "hardneg: hardneg load beir needs DIR (see hardneg load beir --help)"},
		{"load jsonl", 2, "hardneg: hardneg load jsonl needs FILE... (see hardneg load jsonl --help)"},
		{"load jsonl x --topic triplets", 2, `hardneg: --topic "triplets" is none of documents, queries`},
		{"run --foo", 2, "hardneg: unknown flag: --foo (see hardneg run --help)"},
		{"run x", 2, `hardneg: hardneg run does not take "x" (see hardneg run --help)`},
		{"run --embedded-kafka 127.0.0.1:9092", 2, "hardneg: --embedded-kafka and --embedded-qdrant need --embedded"},
		{"run --embedded --embedded-kafka 9092", 2, `hardneg: --embedded-kafka "9092" is not host:port`},
		{"run --embedded --stages reader", 2, `command line: stages[0]: "reader" is none of indexer, intake, miner`},
		{"run", 2, "kafka.brokers: missing: the address of Kafka, host:port\nqdrant.address: missing: the address of Qdrant's gRPC interface, host:port"},
		{"run --set kafka.broker=x:1", 2, "command line: kafka.broker: unknown key; did you mean kafka.brokers?"},
		{"tail -o xml", 2, `hardneg: --output "xml" is none of table, json`},
		{"tail --max -1 --kafka 127.0.0.1:1", 2, "hardneg: --max must be at least 0, is -1"},
		{"tail", 2, "hardneg: which Kafka? Name the service by --data-dir, --kafka, or kafka.brokers in the configuration"},
		{"export --format csv", 2, `hardneg: --format "csv" is none of hardneg, sentence-transformers, flag-embedding`},
		{"check", 2, "hardneg: which Kafka and Qdrant? Name the service by --data-dir, by --kafka and --qdrant, or in the configuration"},
		{"dlq", 2, "hardneg: dlq what? One of: list, show, replay"},
		{"dlq list --stage writer", 2, `hardneg: --stage "writer" is none of indexer, intake, miner`},
		{"dlq list --since yesterday", 2, `hardneg: --since "yesterday": want a time such as 2026-01-31T12:00:00Z, or how long ago, such as 24h or 7d`},
		{"dlq list --since 12", 2, `hardneg: --since "12": want a time such as 2026-01-31T12:00:00Z, or how long ago, such as 24h or 7d`},
		{"dlq show 17", 2, `hardneg: "17" names no dead letter: want PARTITION/OFFSET, such as 2/17`},
		{"dlq show", 2, "hardneg: hardneg dlq show needs LETTER (see hardneg dlq show --help)"},
		{"dlq replay", 2, "hardneg: which dead letters? Name them by their places (2/17), or choose them by filters such as --stage, or take --all"},
		{"dlq replay 2/17 --all", 2, "hardneg: which dead letters? Name them by their places (2/17), or choose them by filters such as --stage, or take --all"},
		{"dlq replay 2/-1", 2, `hardneg: "2/-1" names no dead letter: want PARTITION/OFFSET, such as 2/17`},
		{"eval --all --sample 3", 2, "hardneg: --all and --sample exclude each other"},
		{"eval --sample 0", 2, "hardneg: --sample must be at least 1, is 0"},
		{"explain", 2, "hardneg: hardneg explain needs QUERY_ID (see hardneg explain --help)"},
		{"explain q --max 0", 2, "hardneg: --max must be at least 1, is 0"},
		{"replay", 2, "hardneg: --from is missing: where does the window begin? For all of the log, --from earliest"},
		{"replay --from 1d", 2, "hardneg: --output is missing: topic:NAME or file:PATH"},
		{"replay --from yesterday --output x", 2, `hardneg: --from "yesterday": want earliest, latest, an offset, offsets of partitions such as 0:100,1:250, a time such as 2026-01-31T12:00:00Z, or how long ago, such as 24h or 7d`},
		{"replay --from 0 --to 0:1,0:2 --output x", 2, `hardneg: --to "0:1,0:2": partition 0 is named twice`},
		{"replay --from 0 --output -", 2, `hardneg: --output "-" names nothing that a replay could go on with: want topic:NAME or file:PATH`},
		{"replay --from 0 --output topic:", 2, `hardneg: --output "topic:" names nothing that a replay could go on with: want topic:NAME or file:PATH`},
		{"replay --from 0 --output x --format flag-embedding", 2, "hardneg: --format is of files: a topic gets records of the triplets topic"},
		{"replay --from 0 --output x.jsonl --format csv", 2, `hardneg: --format "csv" is none of hardneg, sentence-transformers, flag-embedding`},
		{"replay --from 0 --output x --rules mine", 2, `hardneg: --rules "mine" is none of published, config`},
		{"replay --from 0 --output x --rate -1", 2, "hardneg: --rate must be at least 0, is -1"},
		{"replay --from 0 --output x --rate NaN", 2, "hardneg: --rate must be at least 0, is NaN"},
		{"replay --from 0 --output x --memory 0", 2, "hardneg: --memory must be at least 1, is 0"},
		{"replay --from 0 --output x -o xml", 2, `hardneg: --summary "xml" is none of table, json`},
		{"config print --config " + dir + "/none.yaml", 2, "hardneg: configuration: open " + dir + "/none.yaml: no such file or directory"},
		{"load beir " + dir, 1, "hardneg: neither " + dir + "/corpus.jsonl nor " + dir + "/corpus.jsonl.gz exists"},
		{"tail --data-dir " + dir, 3, "hardneg: no service runs with the data directory " + dir + ": there is no " + dir + "/addresses.json"},
	} {
		code, stdout, stderr := hardneg(t, strings.Fields(test.args)...)
		if code != test.code || stderr != test.want+"\n" || stdout != "" {
			t.Errorf("hardneg %s: %d\n%s%swant %d\n%s", test.args, code, stdout, stderr, test.code, test.want)
		}
	}
}

// TestNothingListens: if nothing listens at an address, a command prints one line and exits with 3.
func TestNothingListens(t *testing.T) {
	file := filepath.Join(t.TempDir(), "d.jsonl")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"run", "--set", "kafka.brokers=127.0.0.1:1", "--set", "qdrant.address=127.0.0.1:1", "--http", "127.0.0.1:0"},
		{"tail", "--kafka", "127.0.0.1:1"}, {"export", "--kafka", "127.0.0.1:1"}, {"load", "jsonl", file, "--kafka", "127.0.0.1:1"},
		{"audit", "--kafka", "127.0.0.1:1", "--qdrant", "127.0.0.1:1"},
		{"replay", "--from", "1d", "--output", "x", "--kafka", "127.0.0.1:1", "--qdrant", "127.0.0.1:1"},
		{"reset", "--kafka", "127.0.0.1:1", "--qdrant", "127.0.0.1:1"},
	} {
		code, stdout, stderr := hardneg(t, args...)
		if code != exitUnreachable || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "127.0.0.1:1") {
			t.Errorf("%v: %d\n%s%s", args, code, stdout, stderr)
		}
	}
}

// TestHelpNamesRealFlags: a command has every --flag that its help text mentions, and every command has a
// description.
func TestHelpNamesRealFlags(t *testing.T) {
	root := (&command{}).root()
	mention := regexp.MustCompile(`--[a-z][a-z-]*`)
	seen := 0
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Short == "" {
			t.Errorf("%s has no description", cmd.CommandPath())
		}
		cmd.InitDefaultHelpFlag()
		texts := cmd.Long + cmd.Example
		cmd.Flags().VisitAll(func(f *pflag.Flag) { texts += " " + f.Usage })
		for _, flag := range mention.FindAllString(texts, -1) {
			seen++
			if cmd.Flag(flag[2:]) == nil && cmd.InheritedFlags().Lookup(flag[2:]) == nil {
				t.Errorf("%s mentions %s, which it does not have", cmd.CommandPath(), flag)
			}
		}
		for _, child := range cmd.Commands() {
			if child.Name() != "completion" { // cobra's own texts
				visit(child)
			}
		}
	}
	visit(root)
	if seen < 10 {
		t.Errorf("only %d flags are mentioned", seen)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out := succeed(t, "completion", shell); !strings.Contains(out, "hardneg") {
			t.Errorf("completion for %s:\n%s", shell, out)
		}
	}
}

func TestConfigCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("qdrant: {api_key: hunter2}\nkafka: {max_batch: 2}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{"yaml", "json"} {
		out := succeed(t, "config", "print", "--config", file, "--set", "kafka.max_batch=3", "-o", form)
		if strings.Contains(out, "hunter2") || !strings.Contains(out, "********") || !regexp.MustCompile(`max_batch"?: 3`).MatchString(out) {
			t.Errorf("%s:\n%s", form, out)
		}
		if form == "json" && !json.Valid([]byte(out)) {
			t.Errorf("no JSON: %s", out)
		}
	}
	if out := succeed(t, "config", "schema"); !json.Valid([]byte(out)) {
		t.Errorf("no JSON: %s", out)
	}
	var version build
	if out := succeed(t, "version", "-o", "json"); json.Unmarshal([]byte(out), &version) != nil || version.Go == "" {
		t.Errorf("version %s", out)
	}
	if out := succeed(t, "version"); !strings.HasPrefix(out, "hardneg ") || strings.Count(out, "\n") != 1 {
		t.Errorf("version %q", out)
	}
}

func TestMisspeltVariableIsLogged(t *testing.T) {
	var out, errs bytes.Buffer
	code := execute(t.Context(), []string{"config", "print"}, []string{"HARDNEG_KAFKA_BROKER=x:1"}, &out, &errs)
	if code != exitOK || !strings.Contains(errs.String(), "HARDNEG_KAFKA_BROKERS") {
		t.Errorf("%d %s", code, errs.String())
	}
}

// closed is an output whose reader has gone.
type closed struct{}

func (closed) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
}

func TestClosedOutput(t *testing.T) {
	var errs bytes.Buffer
	for _, args := range [][]string{{"config", "print"}, {"config", "schema"}, {"version"}} {
		if code := execute(t.Context(), args, nil, closed{}, &errs); code != exitOK || errs.Len() > 0 {
			t.Errorf("%v: %d %s", args, code, errs.String())
		}
	}
}

func TestBrief(t *testing.T) {
	for in, want := range map[string]string{
		"a\tb\n\n c ":                "a b c",
		"x\x1b[31mred":               "x [31mred",
		strings.Repeat("é", 200):     strings.Repeat("é", 99) + "…",
		"\u009b31m and \u007f\u0000": "31m and",
	} {
		if got := brief(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// buffer is an output that a service in the background writes while the test reads it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// runService starts `hardneg run --embedded` and returns its data directory. The service ends with the test,
// and its exit code must be 0.
func runService(t *testing.T, args ...string) string {
	t.Helper()
	dir, _ := startService(t, args...)
	return dir
}

// startService is runService, and returns a function that ends the service before the test ends.
func startService(t *testing.T, args ...string) (dir string, stop func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	ctx, cancel := context.WithCancel(context.Background())
	var out, errs buffer
	done := make(chan int, 1)
	args = append([]string{"run", "--embedded", "--data-dir", dir, "--http", "127.0.0.1:0"}, args...)
	go func() { done <- execute(ctx, args, nil, &out, &errs) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if code := <-done; code != exitOK {
			t.Errorf("the service ended with %d", code)
		}
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("the service said\n%s%s", out.String(), errs.String())
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		addresses, err := service.ReadAddresses(dir)
		if err == nil && strings.Contains(out.String(), "data") {
			for _, line := range []string{"kafka   " + addresses.Kafka, "qdrant  " + addresses.Qdrant, "http    http://" + addresses.HTTP} {
				if !slices.Contains(strings.Split(out.String(), "\n"), line) {
					t.Errorf("%q is not in\n%s", line, out.String())
				}
			}
			return dir, stop
		}
		if len(done) > 0 || time.Now().After(deadline) {
			t.Fatalf("the service does not start: %v\n%s", err, errs.String())
		}
	}
}
