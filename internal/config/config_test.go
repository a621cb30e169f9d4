package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	yaml "github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "write the expected messages of testdata/bad anew")

func load(t *testing.T, file string, env []string, set ...string) *Config {
	t.Helper()
	path := ""
	if file != "" {
		path = write(t, file)
	}
	c, err := Load(Options{File: path, Env: env, Set: set})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hardneg.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	c := load(t, "", nil)
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("Load without sources is not Default:\n%v\n%v", c, Default())
	}
	margin := 0.05
	want := []Tier{
		{Policy: "semantic", UpTo: 1, Depth: 200, Sampling: "top"},
		{Policy: "positive-aware", UpTo: 4, RelativeMargin: &margin, Depth: 200, Sampling: "top"},
	}
	if !reflect.DeepEqual(c.Mining.Tiers, want) {
		t.Errorf("tiers %+v", c.Mining.Tiers)
	}
	if c.Fit.Wait != time.Minute || c.Fit.Sample != 10000 || !c.Reduce.Normalize || c.Reduce.SubtractMean ||
		c.Topics.DeadLetters != "hardneg.dead-letters" || c.Embedders[1].Dimensions != 4096 || c.Embedders[0].Weight != 1 {
		t.Errorf("defaults:\n%v", c)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if err := c.CheckAddresses(); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("the two addresses have no default, but: %v", err)
	}
}

func TestPrecedence(t *testing.T) {
	const file = "kafka: {max_batch: 2}\n"
	for _, test := range []struct {
		file string
		env  []string
		set  []string
		want int
	}{
		{"", nil, nil, 500},
		{file, nil, nil, 2},
		{file, []string{"HARDNEG_KAFKA_MAX_BATCH=3"}, nil, 3},
		{file, []string{"HARDNEG_KAFKA_MAX_BATCH=3"}, []string{"kafka.max_batch=4"}, 4},
		{file, nil, []string{"kafka.max_batch=4", "kafka.max_batch=5"}, 5},
		{"", []string{"HARDNEG_KAFKA={max_batch: 6, tls: {enabled: true}}"}, nil, 6},
		{file, []string{`HARDNEG_KAFKA={"session_timeout":"20s"}`}, nil, 2},
		{"kafka: {max_batch: null}", nil, nil, 500},
		{"kafka:", nil, nil, 500},
	} {
		if c := load(t, test.file, test.env, test.set...); c.Kafka.MaxBatch != test.want {
			t.Errorf("%+v: max_batch %d", test, c.Kafka.MaxBatch)
		}
	}
}

// TestEveryKey sets every key from the environment, from --set and from a file, to a value that is not its
// default.
func TestEveryKey(t *testing.T) {
	special := map[string]string{
		"stages": "[miner]", "log.level": "debug", "log.format": "json", "kafka.brokers": "[a:1, b:2]",
		"kafka.sasl.mechanism": "plain", "qdrant.address": "q:1",
		"embedders": "[{name: x, type: carried, dimensions: 3}]", "reduce.method": "none", "reduce.variance": "0.5",
		"mining.tiers": "[{policy: semantic, upto: 2}, {policy: positive-aware}]", "http.address": "h:1",
		"kafka.session_timeout": "10s", "kafka.transaction_timeout": "10s", "fit.minimum": "9", "cache.max_bytes": "2000000", "cache.embedders": "all", "topics.replication_factor": "3",
	}
	var env, set []string
	var file []string
	eachLeaf(Fields(), func(f Field) {
		value, ok := special[f.Key]
		switch {
		case ok:
		case f.Type == durationType:
			value = "7s"
		case f.Type.Kind() == reflect.Bool:
			value = fmt.Sprint(f.Default != "true")
		case f.Type.Kind() == reflect.String:
			value = "v-" + strings.ReplaceAll(f.Key, ".", "-")
		default:
			value = "11"
		}
		env = append(env, f.Env()+"="+value)
		set = append(set, f.Key+"="+value)
		parts := strings.Split(f.Key, ".")
		text := value
		for i := len(parts) - 1; i > 0; i-- {
			text = "{" + parts[i] + ": " + text + "}"
		}
		file = append(file, parts[0]+": "+text)
	})
	want := load(t, "", env)
	if got := load(t, "", nil, set...); got.String() != want.String() {
		t.Errorf("--set gives\n%v\nthe environment\n%v", got, want)
	}
	for _, line := range file { // one key at a time, because a file cannot contain a group twice
		path := write(t, line)
		if _, err := Load(Options{File: path, Env: env}); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	defaults := Default()
	eachLeaf(Fields(), func(f Field) {
		a, b := lookup(reflect.ValueOf(want).Elem(), f), lookup(reflect.ValueOf(defaults).Elem(), f)
		if reflect.DeepEqual(a, b) {
			t.Errorf("%s: %v is the default still", f.Key, a)
		}
	})
}

func lookup(root reflect.Value, f Field) any {
	known := Fields()
	for part := range strings.SplitSeq(f.Key, ".") {
		step, _ := find(known, part)
		root, known = root.Field(step.index), step.Fields
	}
	return root.Interface()
}

func TestFile(t *testing.T) {
	c := load(t, `
kafka:
  brokers: ["${HOST}:9092", "${OTHER:two:9093}", "$${x}:1"]
  tls: &tls {enabled: true, server_name: x}
  sasl: {mechanism: scram-sha-256, username: 12, password: "p$${w"}
qdrant: {address: "${EMPTY:q:6334}", api_key: '${KEY}', tls: *tls}
embedders: [{name: words, type: lexical-word, weight: 2}, {name: e5, type: carried, dimensions: '${DIMENSIONS:384}'}]
fit:
  wait: 1h30m
mining:
  negatives: 8
sweep: {rate: 10}
queries: {retention: 0}
`, []string{"HOST=one", "KEY=k: {", "EMPTY="})
	if got := strings.Join(c.Kafka.Brokers, " "); got != "one:9092 two:9093 ${x}:1" {
		t.Errorf("brokers %s", got)
	}
	if c.Kafka.SASL.Username != "12" || c.Kafka.SASL.Password != "p${w" || c.Qdrant.APIKey != "k: {" || c.Qdrant.Address != "q:6334" {
		t.Errorf("%+v %q %q", c.Kafka.SASL, string(c.Kafka.SASL.Password), string(c.Qdrant.APIKey))
	}
	if !c.Qdrant.TLS.Enabled || c.Qdrant.TLS.ServerName != "x" {
		t.Errorf("alias: %+v", c.Qdrant.TLS)
	}
	if c.Embedders[0].Weight != 2 || c.Embedders[0].Dimensions != 4096 || c.Embedders[1].Weight != 1 || c.Embedders[1].Dimensions != 384 {
		t.Errorf("embedders %+v", c.Embedders)
	}
	if last := c.Mining.Tiers[1]; last.UpTo != 8 || c.Fit.Wait != 90*time.Minute {
		t.Errorf("%+v, wait %v", last, c.Fit.Wait)
	}
}

func TestSet(t *testing.T) {
	c := load(t, "", []string{"A=x:1"}, "kafka.brokers=${A},b:2", `mining.tiers=[{"policy":"positive-aware","max_score":0.4}]`,
		"qdrant.tls={enabled: true}", "name=a=b-is-not-legal", "name=ok", "stages=miner , intake")
	if strings.Join(c.Kafka.Brokers, " ") != "x:1 b:2" || c.Name != "ok" || !c.Qdrant.TLS.Enabled || strings.Join(c.Stages, " ") != "miner intake" {
		t.Errorf("%v", c)
	}
	if tier := c.Mining.Tiers[0]; len(c.Mining.Tiers) != 1 || *tier.MaxScore != 0.4 || tier.RelativeMargin != nil || tier.UpTo != 4 {
		t.Errorf("%+v", c.Mining.Tiers)
	}
	for setting, want := range map[string]string{
		"kafka":                     "command line: kafka: has no value; write --set key=value",
		"kafka.broker=x:1":          "command line: kafka.broker: unknown key; did you mean kafka.brokers?",
		"mining.tiers[0].upto=1":    "command line: mining.tiers[0].upto: a list is set as a whole: --set 'mining.tiers=[…]'",
		"max_batch=1":               "command line: max_batch: unknown key; did you mean kafka.max_batch?",
		"kafka.max_batch=${X}":      "command line: kafka.max_batch: the environment variable X is not set; ${X:default} would give it a default",
		"kafka.sasl.pasword=secret": "command line: kafka.sasl.pasword: unknown key; did you mean kafka.sasl.password?",
		"qdrant.tls={enabled: [}":   "command line: qdrant.tls: not YAML: ",
	} {
		_, err := Load(Options{Set: []string{setting}})
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %s", setting, err, want)
		}
	}
}

// TestBad reads every file of testdata/bad. The message beside it must match exactly, with all problems at
// once.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		_, err := Load(Options{File: file})
		if err == nil {
			t.Errorf("%s: no error", file)
			continue
		}
		got := err.Error() + "\n"
		if strings.Contains(got, "hunter2") {
			t.Errorf("%s: the message holds the secret: %s", file, got)
		}
		expected := strings.TrimSuffix(file, ".yaml") + ".txt"
		if *update {
			if err := os.WriteFile(expected, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(expected)
		if err != nil {
			t.Error(err)
		}
		if got != string(want) {
			t.Errorf("%s:\n%swant\n%s", file, got, want)
		}
	}
}

func TestSecretsAreMasked(t *testing.T) {
	c := load(t, `
kafka: {sasl: {mechanism: plain, username: me, password: hunter2}}
qdrant: {api_key: hunter2}
embedders: [{name: a, type: openai, url: "http://h/v1", model: m, api_key: hunter2, headers: {X-A: hunter2}, proxy: "http://me:hunter2@p:1"}]`, nil)
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	object, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for form, got := range map[string]string{
		"YAML": string(text), "JSON": string(object), "json.Marshal": string(encoded), "%v": fmt.Sprintf("%v", *c), "%+v": fmt.Sprintf("%+v", *c),
		"%#v": fmt.Sprintf("%#v", *c), "%s": fmt.Sprintf("%s", c.Kafka.SASL), "%q": fmt.Sprintf("%q", c.Qdrant.APIKey), "String": c.String(),
		"%x": fmt.Sprintf("%x", c.Qdrant.APIKey), "embedders": fmt.Sprintf("%v %+v %#v", c.Embedders, c.Embedders[0], c.Embedders[0]),
	} {
		if strings.Contains(got, "hunter2") || strings.Contains(got, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("%s prints the secret: %s", form, got)
		}
	}
	if !strings.Contains(string(text), mask) {
		t.Errorf("no mask in\n%s", text)
	}
	if string(c.Kafka.SASL.Password) != "hunter2" {
		t.Error("the secret is lost")
	}
}

// The values in the bodies of embedders are masked, and their keys are printed. The configuration keeps them.
func TestBodiesAreMasked(t *testing.T) {
	c := load(t, `
embedders:
  - {name: a, type: openai, url: "https://h/v1", model: m, body: {token: hunter2, nested: {deep: [hunter2]}}, query_body: {q: hunter2}, passage_body: {p: hunter2}}
`, nil)
	for form, print := range map[string]func() ([]byte, error){"YAML": c.YAML, "JSON": c.JSON} {
		text, err := print()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "hunter2") {
			t.Errorf("%s prints\n%s", form, text)
		}
		for _, key := range []string{"token", "nested", "q", "p"} {
			if !regexp.MustCompile(`\b` + key + `"?: ["']?\*{8}`).Match(text) {
				t.Errorf("%s lacks %s:\n%s", form, key, text)
			}
		}
	}
	if e := c.Embedders[0]; e.Body["token"] != "hunter2" || e.QueryBody["q"] != "hunter2" || e.PassageBody["p"] != "hunter2" {
		t.Errorf("printing changed %v", e.Body)
	}
}

// TestPrintedIsRead prints a configuration and reads it again.
func TestPrintedIsRead(t *testing.T) {
	c := load(t, `
kafka: {brokers: [a:1], max_batch: 7}
mining: {negatives: 2, tiers: [{policy: positive-aware, min_score: -0.25, upto: 2, sampling: random, skip: 3}]}
embedders:
  - {name: a, type: openai, url: "https://h/v1", model: m, body: {b: [1, -2.5, true, null, x], 7: {c: "1"}, d: 18446744073709551615}, tls: {server_name: s}}
  - {name: b, type: carried, dimensions: 2}
`, nil, "fit.wait=1500ms")
	for name, print := range map[string]func() ([]byte, error){"YAML": c.YAML, "JSON": c.JSON} {
		text, err := print()
		if err != nil {
			t.Fatal(err)
		}
		again := load(t, string(text), nil)
		if again.String() != c.String() {
			t.Errorf("%s:\n%s\nis read as\n%s", name, text, again)
		}
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	var page bytes.Buffer
	if err := Reference(&page); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, page.Bytes()) {
		t.Error("docs/configuration.md is not what the structs say; run go generate ./internal/config")
	}
}

func TestEveryFieldIsDescribed(t *testing.T) {
	seen := map[string]string{}
	var visit func([]Field)
	visit = func(list []Field) {
		for _, f := range list {
			if f.Doc == "" || f.Name == "" {
				t.Errorf("%s has no doc comment or no name", f.Key)
			}
			if env := f.Env(); env != "" {
				if other, taken := seen[env]; taken {
					t.Errorf("%s and %s are both %s", other, f.Key, env)
				}
				seen[env] = f.Key
			}
			visit(f.Fields)
		}
	}
	visit(Fields())
}

func TestSchema(t *testing.T) {
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("config.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	check := func(text string) error {
		encoded, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(value)
	}
	for _, good := range []string{
		Default().String(), "{}", "kafka: {brokers: a:1, max_batch: '${N}'}", "fit: {wait: 1h30m}", "kafka:", "queries: {retention: 0}",
	} {
		if err := check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"kafak: {}", "kafka: {max_batch: 0}", "log: {level: loud}", "mining: {tiers: [{policy: x}]}", "mining: {tiers: [{uptoo: 1}]}",
		"fit: {wait: soon}", "fit: {wait: 60}", "stages: [reader]",
	} {
		if check(bad) == nil {
			t.Errorf("%s: the schema takes it", bad)
		}
	}
}

func TestMisspelt(t *testing.T) {
	got := Misspelt([]string{"HARDNEG_KAFKA_BROKER=x", "HARDNEG_NAME=x", "HARDNEG_SERVICE_HOST=10.0.0.1", "HARDNEG_PORT=tcp://10.0.0.1:80",
		"HARDNEG_TEST_DATA=/x", "HOME=/root"})
	want := map[string]string{"HARDNEG_KAFKA_BROKER": "HARDNEG_KAFKA_BROKERS"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(Options{File: "testdata/none.yaml"})
	if err == nil || !strings.Contains(err.Error(), "testdata/none.yaml") {
		t.Error(err)
	}
}

// TestFileEncoding checks that a byte order mark of UTF-8 is skipped, and that UTF-16 is named.
func TestFileEncoding(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hardneg.yaml")
	for text, want := range map[string]string{
		"\xef\xbb\xbfhttp: {pprof: true}\n": "",
		"\xff\xfeh\x00t\x00t\x00p\x00:\x00": path + " begins with the byte order mark of UTF-16: write it in UTF-8",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Options{File: path})
		if want == "" && (err != nil || !c.HTTP.Pprof) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// FuzzLoad reads arbitrary files: it never panics, and an accepted file can be printed and read back
// unchanged.
func FuzzLoad(f *testing.F) {
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(Default().String())
	f.Add("kafka: &a {tls: *a}")
	f.Add("embedders: &e [*e]")
	f.Add("embedders: [{name: a, type: openai, url: \"https://h/v1\", model: m, body: {a: [1, 2.5, {b: null}], c: x}, headers: {X-A: b}}]")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "hardneg.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Options{File: path})
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an empty message")
			}
			return
		}
		printed, err := c.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, printed, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Load(Options{File: path})
		if err != nil {
			t.Fatalf("%v\nof what was printed\n%s", err, printed)
		}
		if again.String() != c.String() {
			t.Fatalf("%s\nreads back as\n%s", c, again)
		}
	})
}
