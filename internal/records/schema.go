package records

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed schemas/*.json
var schemas embed.FS

// Schemas returns the names that Schema accepts, in order.
func Schemas() []string {
	entries, err := schemas.ReadDir("schemas")
	if err != nil { // cannot happen: the folder is part of the program
		panic(err)
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = strings.TrimSuffix(entry.Name(), ".json")
	}
	return names
}

// Schema returns the JSON Schema (2020-12) of a kind of record.
func Schema(name string) ([]byte, error) {
	schema, err := schemas.ReadFile("schemas/" + name + ".json")
	if err != nil {
		return nil, fmt.Errorf("no schema %q, there are %s", name, strings.Join(Schemas(), ", "))
	}
	return schema, nil
}
