package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// checkSchemas validates what the service wrote against the published schemas.
func checkSchemas(t *testing.T, k *kafka) {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	files, err := filepath.Glob("../records/schemas/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no schemas:", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("urn:hardneg:schema:"+strings.TrimSuffix(filepath.Base(file), ".json"), document); err != nil {
			t.Fatal(err)
		}
	}
	for topic, name := range map[string]string{k.triplets: "triplet", k.refresh: "refresh", k.deadLetters: "dead-letter-headers", "hardneg.models": "model-manifest"} {
		schema, err := compiler.Compile("urn:hardneg:schema:" + name)
		if err != nil {
			t.Fatal(err)
		}
		checked, errs := 0, few{t: t}
		for _, r := range k.readCommitted(topic) {
			value := r.Value
			switch name {
			case "dead-letter-headers":
				headers := map[string]string{}
				for _, h := range r.Headers {
					headers[h.Key] = string(h.Value)
				}
				value = mustJSON(headers)
			case "model-manifest":
				if !bytes.HasSuffix(r.Key, []byte("/manifest")) {
					continue
				}
			}
			if value == nil {
				continue
			}
			parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
			if err == nil {
				err = schema.Validate(parsed)
			}
			if err != nil {
				errs.errorf("%s/%d/%d is no %s: %v", topic, r.Partition, r.Offset, name, err)
			}
			checked++
		}
		if checked == 0 {
			t.Errorf("topic %s holds nothing to check against %s", topic, name)
		}
	}
}
