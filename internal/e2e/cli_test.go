package e2e

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The exit codes of the contract.
const (
	codeOK          = 0
	codeFailure     = 1
	codeUsage       = 2
	codeUnreachable = 3
)

func TestExitCodes(t *testing.T) {
	nobody := freeAddress(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "hardneg.yaml")
	if err := os.WriteFile(file, []byte("mining:\n  negatives: 0\n  unknown: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		args   string // separated by spaces
		code   int
		stderr string // part of it
	}{
		{"version", "version", codeOK, ""},
		{"help", "--help", codeOK, ""},
		{"unknown command", "nonsense", codeUsage, "nonsense"},
		{"unknown flag", "run --nonsense", codeUsage, "--nonsense"},
		{"no addresses", "run", codeUsage, "kafka.brokers"},
		{"unknown key", "run --embedded --set no.such=1", codeUsage, "no.such"},
		{"wrong value", "run --embedded --set mining.negatives=many", codeUsage, "mining.negatives"},
		{"missing file", "run --config " + filepath.Join(dir, "none.yaml"), codeUsage, "none.yaml"},
		{"bad file", "run --embedded --config " + file, codeUsage, "hardneg.yaml:3"},
		{"unknown stage", "run --embedded --stages indexer,juggler", codeUsage, "juggler"},
		{"nobody listens", "run --set kafka.brokers=" + nobody + " --set qdrant.address=" + nobody + " --http 127.0.0.1:0", codeUnreachable, nobody},
		{"address in use", "run --embedded --http " + taken.Addr().String(), codeFailure, "in use"},
		{"load without folder", "load beir --kafka " + nobody, codeUsage, ""},
		{"load from nowhere", "load beir " + filepath.Join(dir, "none") + " --kafka " + nobody, codeFailure, "none"},
		{"load into nowhere", "load jsonl " + file + " --kafka " + nobody, codeUnreachable, nobody},
		{"unknown schema", "schema nothing", codeUsage, "triplet"},
		{"no service", "tail --data-dir " + filepath.Join(dir, "none"), codeUnreachable, "none"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			out := hardneg(t, patience, strings.Fields(test.args)...)
			if out.code != test.code || !strings.Contains(out.stderr, test.stderr) {
				t.Errorf("exit code %d, want %d with %q on stderr:\n%s", out.code, test.code, test.stderr, out.stderr)
			}
			if out.code != codeOK && strings.Contains(out.stderr, "goroutine ") {
				t.Errorf("it panicked:\n%s", out.stderr)
			}
		})
	}
}

// Output for programs must be readable by programs.
func TestMachineReadable(t *testing.T) {
	for _, args := range []string{"config schema", "schema triplet", "schema document", "version -o json"} {
		out := hardneg(t, patience, strings.Fields(args)...)
		if out.code != codeOK || !json.Valid([]byte(out.stdout)) {
			t.Errorf("hardneg %s: exit code %d, no JSON on stdout: %.200s %s", args, out.code, out.stdout, out.stderr)
		}
	}
}

// TestDemo runs the demonstration until it has shown the effect of a change, and interrupts it.
func TestDemo(t *testing.T) {
	command := exec.Command(mustProgram(t), "demo")
	command.Env = environment()
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = command.Process.Kill() })
	defer late.Stop()
	start, shown := time.Now(), false
	var story strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		story.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "What was mined") {
			t.Logf("the first triplets came after %v", time.Since(start).Round(time.Millisecond))
		}
		if strings.Contains(lines.Text(), " affected, triplets:") && !shown {
			shown = true
			_ = command.Process.Signal(os.Interrupt)
		}
	}
	if err := command.Wait(); err != nil || !shown {
		t.Fatalf("%v, effect shown: %v\n%s", err, shown, story.String())
	}
	for _, part := range []string{"Kafka    127.0.0.1:", "query–positive", "Summary", "triplets kept current"} {
		if !strings.Contains(story.String(), part) {
			t.Errorf("%q is missing in\n%s", part, story.String())
		}
	}
}
