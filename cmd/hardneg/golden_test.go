package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"hardneg/internal/records"
)

// The golden files hold what users see: the texts that commands print, and their exit codes. Users notice a
// change of a golden file, so it belongs into the list of changes. This command writes them anew:
//
//	go test ./cmd/hardneg -run Golden -update-golden
var updateGolden = flag.Bool("update-golden", false, "write the golden files anew")

const goldenFolder = "testdata/golden"

// golden compares texts with the files of one folder.
type golden struct {
	t      *testing.T
	folder string
	seen   []string // files that the test knows
}

func newGolden(t *testing.T, folder string) *golden {
	t.Helper()
	g := &golden{t: t, folder: filepath.Join(goldenFolder, folder)}
	if *updateGolden {
		if err := errors.Join(os.RemoveAll(g.folder), os.MkdirAll(g.folder, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// compare fails the test if the file holds another text.
func (g *golden) compare(name, got string) {
	g.t.Helper()
	path := filepath.Join(g.folder, name+".txt")
	g.seen = append(g.seen, path)
	if *updateGolden {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			g.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		g.t.Errorf("there is no %s: run the test with -update-golden, and look at what it holds then", path)
		return
	}
	if err != nil {
		g.t.Fatal(err)
	}
	if diff := difference(string(want), got); diff != "" {
		g.t.Errorf("%s: - is missing, + is new\n%s", path, diff)
	}
}

// finish fails the test if the folder has a file that belongs to nothing any more.
func (g *golden) finish() {
	g.t.Helper()
	files, err := filepath.Glob(filepath.Join(g.folder, "*"))
	if err != nil {
		g.t.Fatal(err)
	}
	for _, path := range files {
		if !slices.Contains(g.seen, path) {
			g.t.Errorf("%s belongs to no command of this test: remove it", path)
		}
	}
}

// difference shows the lines that differ, each with two lines around it; it is empty if none does.
func difference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	if slices.EqualFunc(a, b, sameLine) {
		return ""
	}
	// The longest common subsequence, from the end: common[i][j] is its length for a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if sameLine(a[i], b[j]) {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var lines []string
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && sameLine(a[i], b[j]):
			lines = append(lines, "  "+a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			lines = append(lines, "- "+a[i])
			i++
		default:
			lines = append(lines, "+ "+b[j])
			j++
		}
	}
	changed := func(i int) bool { return i >= 0 && i < len(lines) && lines[i][0] != ' ' }
	var shown strings.Builder
	last := -1
	for i, line := range lines {
		if !slices.ContainsFunc([]int{i - 2, i - 1, i, i + 1, i + 2}, changed) {
			continue
		}
		if i > last+1 {
			fmt.Fprintf(&shown, "  … line %d\n", i+1)
		}
		last = i
		shown.WriteString(line + "\n")
	}
	return shown.String()
}

// roundingError is how much a decimal fraction may differ: other processors add the same numbers up to
// slightly other sums.
const roundingError = 0.0021

var fraction = regexp.MustCompile(`-?\d+\.\d+`)

// sameLine allows fractions of the same length to differ by a rounding error.
func sameLine(a, b string) bool {
	if a == b || len(a) != len(b) {
		return a == b
	}
	x, y := fraction.FindAllString(a, -1), fraction.FindAllString(b, -1)
	if len(x) != len(y) || fraction.ReplaceAllString(a, "#") != fraction.ReplaceAllString(b, "#") {
		return false
	}
	for i := range x {
		p, err := strconv.ParseFloat(x[i], 64)
		q, err2 := strconv.ParseFloat(y[i], 64)
		if err != nil || err2 != nil || len(x[i]) != len(y[i]) || math.Abs(p-q) > roundingError {
			return false
		}
	}
	return true
}

func TestDifference(t *testing.T) {
	for _, test := range []struct{ want, got, diff string }{
		{"a\nb\n", "a\nb\n", ""},
		{"cos 0.120, 3 of 4", "cos 0.119, 3 of 4", ""},
		{"cos 0.120", "cos 0.128", "- cos 0.120\n+ cos 0.128\n"},
		{"cos 0.120", "cos 0.12", "- cos 0.120\n+ cos 0.12\n"},
		{"1\n2\n3\n4\n5", "1\n2\n3\n4\n6", "  … line 3\n  3\n  4\n- 5\n+ 6\n"},
		{"a\nb", "b", "- a\n  b\n"},
	} {
		if got := difference(test.want, test.got); got != test.diff {
			t.Errorf("%q and %q:\n%swant\n%s", test.want, test.got, got, test.diff)
		}
	}
}

// transcript runs a command line, and returns it with all that it prints. Lines of standard error begin
// with "! ".
func transcript(ctx context.Context, line string, args ...string) string {
	var out, errs bytes.Buffer
	code := execute(ctx, args, nil, &out, &errs)
	return render(line, out.String(), errs.String(), code)
}

func render(line, stdout, stderr string, code int) string {
	var b strings.Builder
	b.WriteString("$ hardneg " + line + "\n" + stdout)
	if stdout != "" && !strings.HasSuffix(stdout, "\n") {
		b.WriteString("(no newline)\n")
	}
	for line := range strings.Lines(stderr) {
		b.WriteString("! " + strings.TrimSuffix(line, "\n") + "\n")
	}
	if code != exitOK {
		fmt.Fprintf(&b, "exit code %d\n", code)
	}
	return b.String()
}

// commands are the paths of all commands, but cobra's own: its texts change with its version.
func commands() []string {
	var paths []string
	var visit func(*cobra.Command)
	visit = func(cmd *cobra.Command) {
		paths = append(paths, cmd.CommandPath())
		for _, child := range cmd.Commands() {
			if name := child.Name(); name != "completion" && name != "help" {
				visit(child)
			}
		}
	}
	visit((&command{}).root())
	return paths
}

func TestGoldenHelp(t *testing.T) {
	g := newGolden(t, "help")
	for _, path := range commands() {
		words := append(strings.Fields(path)[1:], "--help")
		g.compare(strings.ReplaceAll(path, " ", "-"), transcript(t.Context(), strings.Join(words, " "), words...))
	}
	g.finish()
}

// goldenMisuse are wrong command lines of each command. Every command must have some.
var goldenMisuse = map[string][]string{
	"hardneg":               {"lod", "frobnicate", "--frobnicate", "status --set kafka.broker=x:1", "status --set kafka.max_batch=0", "status --config $DIR/none.yaml"},
	"hardneg demo":          {"demo --frobnicate", "demo x", "demo --duration -1s", "demo --duration soon"},
	"hardneg run":           {"run", "run --frobnicate", "run x", "run --embedded-kafka 127.0.0.1:9092", "run --embedded --embedded-kafka 9092", "run --embedded --stages reader", "run -o xml"},
	"hardneg load":          {"load", "load csv x", "load --frobnicate"},
	"hardneg load beir":     {"load beir", "load beir --frobnicate", "load beir $DIR", "load beir $DIR x", "load beir $DIR -o xml"},
	"hardneg load jsonl":    {"load jsonl", "load jsonl --frobnicate", "load jsonl x --topic triplets", "load jsonl x", "load jsonl x -o xml"},
	"hardneg tail":          {"tail", "tail --frobnicate", "tail x", "tail --max -1", "tail --max many", "tail -o xml", "tail --data-dir $DIR"},
	"hardneg export":        {"export", "export --frobnicate", "export x", "export --format csv"},
	"hardneg audit":         {"audit", "audit --frobnicate", "audit x", "audit --sample 0", "audit --all --sample 5", "audit --seed x", "audit -o yaml", "audit --kafka 127.0.0.1:1 --qdrant 127.0.0.1:1"},
	"hardneg check":         {"check", "check --frobnicate", "check x", "check -o yaml", "check --kafka a:1"},
	"hardneg dlq":           {"dlq", "dlq forget", "dlq --frobnicate"},
	"hardneg dlq list":      {"dlq list", "dlq list --frobnicate", "dlq list x", "dlq list --stage writer", "dlq list --since yesterday", "dlq list -o xml"},
	"hardneg dlq show":      {"dlq show", "dlq show 17", "dlq show 2/-1", "dlq show 2/17", "dlq show 2/17 2/18", "dlq show 2/17 -o xml"},
	"hardneg dlq replay":    {"dlq replay", "dlq replay 2/17 --all", "dlq replay 2/17 --stage miner", "dlq replay 2/-1", "dlq replay --stage writer", "dlq replay --since soon", "dlq replay --all"},
	"hardneg eval":          {"eval", "eval --frobnicate", "eval x", "eval --sample 0", "eval --all --sample 3", "eval -o xml"},
	"hardneg explain":       {"explain", "explain q", "explain q --frobnicate", "explain q r", "explain q --max 0", "explain q -o xml"},
	"hardneg fit":           {"fit", "fit --frobnicate", "fit x", "fit --sample 0", "fit --seed x", "fit -o xml", "fit --from-index --kafka 127.0.0.1:1"},
	"hardneg models":        {"models", "models add", "models --frobnicate"},
	"hardneg models list":   {"models list", "models list --frobnicate", "models list x", "models list -o xml"},
	"hardneg models show":   {"models show", "models show x", "models show x y", "models show x -o xml"},
	"hardneg models remove": {"models remove", "models remove x", "models remove x y", "models remove --frobnicate"},
	"hardneg rebuild":       {"rebuild", "rebuild --frobnicate", "rebuild x", "rebuild --keep long", "rebuild -o xml", "rebuild --abort"},
	"hardneg replay": {
		"replay", "replay --frobnicate", "replay x", "replay --from 1d", "replay --from yesterday --output x", "replay --from 0 --to 0:1,0:2 --output x",
		"replay --from 0 --output -", "replay --from 0 --output topic:", "replay --from 0 --output x --format flag-embedding",
		"replay --from 0 --output x.jsonl --format csv", "replay --from 0 --output x --rules mine", "replay --from 0 --output x --rate -1",
		"replay --from 0 --output x --rate NaN", "replay --from 0 --output x --memory 0", "replay --from 0 --output x -o xml", "replay --from 0 --output x",
	},
	"hardneg reset":         {"reset", "reset --frobnicate", "reset all", "reset -o yaml", "reset --embedded", "reset --embedded --data-dir x --kafka a:1", "reset --embedded --data-dir $DIR"},
	"hardneg status":        {"status", "status --frobnicate", "status x", "status -o xml", "status --kafka 127.0.0.1:1", "status --data-dir $DIR", "status --data-dir $KILLED"},
	"hardneg config":        {"config", "config edit", "config --frobnicate"},
	"hardneg config print":  {"config print --frobnicate", "config print x", "config print -o xml", "config print --set log.level=loud"},
	"hardneg config schema": {"config schema --frobnicate", "config schema x"},
	"hardneg schema":        {"schema", "schema --frobnicate", "schema book", "schema triplet document"},
	"hardneg version":       {"version --frobnicate", "version x", "version -o xml"},
}

// TestGoldenMisuse has the messages and exit codes of wrong command lines, one file for each command.
func TestGoldenMisuse(t *testing.T) {
	g := newGolden(t, "misuse")
	dir, killed := t.TempDir(), t.TempDir() // the second of a service that was killed
	addresses := `{"kafka":"127.0.0.1:1","qdrant":"127.0.0.1:1","http":"127.0.0.1:1"}`
	if err := os.WriteFile(filepath.Join(killed, "addresses.json"), []byte(addresses), 0o600); err != nil {
		t.Fatal(err)
	}
	replace, restore := strings.NewReplacer("$DIR", dir, "$KILLED", killed), strings.NewReplacer(dir, "$DIR", killed, "$KILLED")
	for _, path := range commands() {
		lines := goldenMisuse[path]
		if len(lines) < 2 {
			t.Errorf("goldenMisuse has %d lines for %s, want a few", len(lines), path)
			continue
		}
		var b strings.Builder
		for _, line := range lines {
			b.WriteString(transcript(t.Context(), line, strings.Fields(replace.Replace(line))...))
		}
		g.compare(strings.ReplaceAll(path, " ", "-"), restore.Replace(b.String()))
	}
	g.finish()
}

// TestGoldenTexts has what commands print that ask no server.
func TestGoldenTexts(t *testing.T) {
	g := newGolden(t, "texts")
	g.compare("config-print", transcript(t.Context(), "config print", "config", "print")+transcript(t.Context(), "config print -o json", "config", "print", "-o", "json"))
	g.compare("config-schema", transcript(t.Context(), "config schema", "config", "schema"))
	for _, name := range records.Schemas() {
		g.compare("schema-"+name, transcript(t.Context(), "schema "+name, "schema", name))
	}
	toolchain := regexp.MustCompile(`go1\.[\w.-]+`)
	version := transcript(t.Context(), "version", "version") + transcript(t.Context(), "version -o json", "version", "-o", "json")
	full, err := json.Marshal(buildOf(&debug.BuildInfo{GoVersion: "go1.99", Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"},
	}}))
	if err != nil {
		t.Fatal(err)
	}
	g.compare("version", toolchain.ReplaceAllString(version+"of a release: "+string(full)+"\n", "go1.N"))
	g.finish()
}

// TestGoldenRun has what `hardneg run` prints when its servers listen.
func TestGoldenRun(t *testing.T) {
	g := newGolden(t, "run")
	port := regexp.MustCompile(`127\.0\.0\.1:\d+`)
	var text string
	for _, line := range []string{"run --embedded --data-dir $DATA --http 127.0.0.1:0", "run --embedded --data-dir $DATA --http 127.0.0.1:0 -o json"} {
		dir := filepath.Join(t.TempDir(), "data")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var out, errs buffer
		done := make(chan int, 1)
		args := strings.Fields(strings.ReplaceAll(line, "$DATA", dir) + " --set log.level=error")
		go func() { done <- execute(ctx, args, nil, &out, &errs) }()
		for ctx.Err() == nil && len(done) == 0 && !strings.Contains(out.String(), "data") {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		code := <-done
		printed := render(line, out.String(), errs.String(), code)
		text += port.ReplaceAllString(strings.ReplaceAll(printed, dir, "$DATA"), "127.0.0.1:PORT")
	}
	g.compare("run", text)
	g.finish()
}
